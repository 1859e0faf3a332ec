"""A pool of worker processes that never outlives the stage and never hangs it."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from stages.common.cpus import available_cpus
from stages.common.errors import UnavailableError

Job = TypeVar("Job")
Result = TypeVar("Result")

IN_FLIGHT = 2
"""Jobs per worker handed out ahead: keeps workers busy and bounds the memory of results that wait."""


def _follow_parent() -> None:
    """End this worker with its parent, even one that is killed -9; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait_and_exit() -> None:
        if parent:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()


WORKER_BYTES = 20_000_000
"""Image files that make another worker process worth its start of 1 to 2 s: one process takes some 3 s for them."""


def useful_workers(wanted: int, size: int) -> int:
    """How many workers to start.

    Args:
        wanted: at most so many; 0 means one per available core.
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
        # not fork: a forked child inherits locks of the parent's threads in whatever state they are
        self._executor: Any = (
            ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _follow_parent) if workers > 1 else None
        )

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._executor:
            return
        if kind:
            for worker in list((self._executor._processes or {}).values()):
                worker.kill()
            # A worker that dies amid a result leaves half of it in the pipe. We hold the pipe's other end too, so
            # without this the executor's thread would wait for the rest for ever.
            self._executor._result_queue._writer.close()
        # Waiting is short even then, for the executor sees at once that its workers are gone; not waiting would let the
        # interpreter's own end race with the executor's thread.
        self._executor.shutdown(cancel_futures=kind is not None)

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Results of `function(job)` in the order of `jobs`, with few of them in memory at any time.

        Raises:
            UnavailableError: a worker was killed from outside, nearly always for memory.
        """
        if not self._executor:
            yield from map(function, jobs)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                waiting.append(self._executor.submit(function, job))
                if len(waiting) > IN_FLIGHT * self.workers:
                    yield self._wait(waiting.popleft())
            while waiting:
                yield self._wait(waiting.popleft())
        except BrokenProcessPool as error:
            raise UnavailableError(
                "a worker process was killed, probably because memory ran out: give the stage more memory or lower "
                f"{self.setting}"
            ) from error

    def _wait(self, future: "Future[Result]") -> Result:
        """The result of a job. The executor itself does not see a worker die while it reads half a result of it."""
        while not wait([future], timeout=1).done:
            if any(worker.exitcode is not None for worker in list((self._executor._processes or {}).values())):
                raise BrokenProcessPool
        return future.result()
