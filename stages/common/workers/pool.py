"""A pool of worker processes that never outlives the stage and never hangs it.

For that it uses private parts of the standard library's executor. loky, which comes with joblib, is no alternative: two
workers start in 1.2 s, as here; it hangs, too, if a worker is killed amid a result (no end within 20 s); its thread
prints tracebacks if it is stopped amid results. Three of the five images with a pool have no joblib.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from stages.common.contract.cpus import available_cpus
from stages.common.contract.errors import UnavailableError
from stages.common.images import room
from stages.common.images.room import Room

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

IN_FLIGHT = 2
"""Jobs handed out ahead per worker: keeps workers busy and limits the memory of waiting results."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
KEPT_BYTES = 32 << 20
"""Freed memory that a worker keeps: eight pictures of 1000x1000. Larger blocks still go back to the system at once."""


def _start_worker(shared: Room) -> None:
    """Prepare a worker process for its jobs."""
    room.enter(shared)
    # The C library returns the memory of every picture to the system, and getting it back, page by page, takes a tenth
    # of the time of a 500x500 PNG (280 page faults). Only glibc can be told to keep it.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    follow_parent()


def _do(function: Callable[[JobT], ResultT], job: JobT) -> ResultT:
    try:
        return function(job)
    finally:
        room.claim(0)


def follow_parent() -> None:
    """End this process with its parent, even one that is killed -9; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait_and_exit() -> None:
        if parent:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()


WORKER_BYTES = 20_000_000
"""Bytes of image files that justify another worker process, which starts in 1 to 2 s: one process takes some 3 s."""


def useful_workers(wanted: int, size: int) -> int:
    """The number of workers to start.

    Args:
        wanted: upper limit; 0 means one per available core.
        size: bytes of the image files to work on.
    """
    return max(1, min(wanted or available_cpus(), size // WORKER_BYTES))


class WorkerPool:
    """Maps functions over jobs in worker processes; use it as a context manager.

    Leaving it by an exception (SIGTERM raises one) kills the workers at once instead of waiting for their jobs. One
    worker means no extra process at all.
    """

    def __init__(self, workers: int, setting: str) -> None:
        """Prepare a pool of `workers` processes; they start when there is work. `setting` is the parameter's name."""
        self.workers = workers
        self.setting = setting
        # not fork: a forked child inherits the locks of the parent's threads in any state
        context = multiprocessing.get_context("spawn")
        self._executor: Any = (
            ProcessPoolExecutor(workers, context, _start_worker, (Room(context),)) if workers > 1 else None
        )

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._executor:
            return
        if kind:
            for worker in list((self._executor._processes or {}).values()):
                worker.kill()
            # A worker that dies amid a result leaves half of it in the pipe. We hold the pipe's other end, too, so the
            # executor's thread would wait for the rest for ever.
            self._executor._result_queue._writer.close()
        # The wait is short even then, for the executor notices at once that its workers are gone. Without it, the end
        # of the interpreter would race with the executor's thread.
        self._executor.shutdown(cancel_futures=kind is not None)

    def map(self, function: Callable[[JobT], ResultT], jobs: Iterable[JobT]) -> Iterator[ResultT]:
        """Results of `function(job)` in the order of `jobs`, with few of them in memory at any time.

        Raises:
            UnavailableError: a worker was killed from outside, nearly always for memory.
        """
        if not self._executor:
            yield from map(function, jobs)
            return
        waiting: deque[Future[ResultT]] = deque()
        for job in jobs:
            waiting.append(self.submit(function, job))
            if len(waiting) > IN_FLIGHT * self.workers:
                yield self._wait(waiting.popleft())
        while waiting:
            yield self._wait(waiting.popleft())

    def submit(self, function: Callable[[JobT], ResultT], job: JobT) -> "Future[ResultT]":
        """Hand out one job, for callers who choose the next job by earlier results; `done` returns finished jobs.

        With one worker, the job is done at once in this process, and its exceptions are raised here.

        Raises:
            UnavailableError: a worker was killed from outside.
        """
        if self._executor:
            with self._explained():
                future: Future[ResultT] = self._executor.submit(_do, function, job)
                return future
        future = Future()
        future.set_result(function(job))
        return future

    def done(self, futures: "Iterable[Future[ResultT]]") -> "list[Future[ResultT]]":
        """Finished futures among some, in their order; waits for the first one, but not more than a second.

        Raises:
            UnavailableError: a worker was killed from outside.
        """
        futures = list(futures)
        done = wait(futures, timeout=1, return_when=FIRST_COMPLETED).done
        with self._explained():
            # The executor does not notice the death of a worker while it reads half of the worker's result.
            processes = (self._executor._processes or {}) if self._executor else {}
            if not done and any(worker.exitcode is not None for worker in list(processes.values())):
                raise BrokenProcessPool
            if broken := next((future for future in done if isinstance(future.exception(), BrokenProcessPool)), None):
                broken.result()
        return [future for future in futures if future in done]

    def _wait(self, future: "Future[ResultT]") -> ResultT:
        while not self.done([future]):
            pass
        return future.result()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Explain the end of a worker."""
        try:
            yield
        except BrokenProcessPool as error:
            raise UnavailableError(
                "a worker process was killed, probably because memory ran out: give the stage more memory or lower "
                f"{self.setting}"
            ) from error
