"""Ends a process that does not react to SIGTERM.

Python runs the handler of a signal between two of its own steps, so a library that computes for minutes in one call (a
large model, a damaged picture) delays the handler as long. The signal itself is noted at once in a pipe, which a thread
reads.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from stages.common.contract.errors import ExitCode

PATIENCE_S = 2.0
"""Seconds that a handler may take: a stage should end within 3 s, and its container is killed a second later."""

Handler = Callable[[int, FrameType | None], Any]
_watching = False


def end_if_deaf(handler: Handler) -> None:
    """From now on, end this process if the handler of SIGTERM does not run soon after one; call it in the main thread.

    It leaves the same half-made files as a kill does, and the next run removes them.

    Args:
        handler: the handler of SIGTERM; it sets another one as soon as it runs.
    """
    global _watching
    if _watching:
        return
    _watching = True
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a child's signals are not ours
    threading.Thread(target=_listen, args=(ear, handler), daemon=True).start()


def _listen(ear: int, handler: Handler) -> None:
    while signals := os.read(ear, 512):
        if signal.SIGTERM not in signals:
            continue
        time.sleep(PATIENCE_S)
        if signal.getsignal(signal.SIGTERM) is handler:
            # not by logging: the thread that does not react may hold its lock
            os.write(2, b"stopped by SIGTERM in the middle of a computation; nothing half-made was published\n")
            os._exit(ExitCode.STOPPED)
