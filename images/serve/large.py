"""Room for large pictures: a limit on the megapixels that all threads of all processes decode at a time."""

import fcntl
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common.images import room

MEGAPIXELS = 50
"""Megapixels of large pictures that are decoded at a time: some 1.2 GB."""
AGAIN_S = 0.01
"""Seconds until the next try of a thread that waits for another process."""


class SharedLocks:
    """A semaphore and a lock like those of `threading`, for all threads of all processes with the same file.

    A holder locks a byte of the file, so the kernel frees the parts of a killed process.
    """

    def __init__(self, file: Path) -> None:
        """Use a file; its content does not matter."""
        self._file = os.open(file, os.O_RDWR)

    def Semaphore(self, value: int) -> "_Bytes":  # noqa: N802 (as in threading)
        """For `value` holders at a time."""
        return _Bytes(self._file, range(1, 1 + value))

    def Lock(self) -> "_Bytes":  # noqa: N802
        """For one holder at a time."""
        return _Bytes(self._file, [0])


class _Bytes:
    def __init__(self, file: int, places: Sequence[int]) -> None:
        self._file, self._places = file, places
        self._held: set[int] = set()  # by this process: the kernel does not distinguish threads
        self._mine = threading.Lock()

    def acquire(self) -> None:
        while not self._take():
            time.sleep(AGAIN_S)

    def release(self) -> None:
        with self._mine:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._held.pop())

    def _take(self) -> bool:
        with self._mine:
            for place in self._places:
                if place in self._held:
                    continue
                try:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                except (BlockingIOError, PermissionError):  # held by another process
                    continue
                self._held.add(place)
                return True
        return False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class ThreadsRoom(room.Room):
    """Room for large pictures, shared by threads: each of them holds a part."""

    def __init__(self, locks: Any = threading, megapixels: int = MEGAPIXELS) -> None:
        """Make room for `megapixels` at a time; `locks` has a `Semaphore` and a `Lock`."""
        self._mine = threading.local()
        super().__init__(locks, megapixels)

    @property
    def _held(self) -> int:
        return getattr(self._mine, "held", 0)

    @_held.setter
    def _held(self, megapixels: int) -> None:
        self._mine.held = megapixels
