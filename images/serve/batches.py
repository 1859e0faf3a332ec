"""Batches: items that arrive while all threads are busy are answered together; nothing waits for further items."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Group = TypeVar("Group")
Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 16
"""Greatest number of items of a batch: a larger batch would save less per picture than it delays the first one."""


class BusyError(Exception):
    """Too many items are waiting; the same call may succeed later."""


@dataclass(frozen=True)
class _Waiting(Generic[Group, Item, Result]):
    group: Group
    item: Item
    result: asyncio.Future[Result]


class Batches(Generic[Group, Item, Result]):
    """Works on items in threads, up to `MOST` of one group at a time, in the order of arrival."""

    def __init__(
        self, work: Callable[[Group, Sequence[Item]], Sequence[Result]], threads: int, most_waiting: int
    ) -> None:
        """Start without items.

        Args:
            work: gives the results of some items of a group, in their order. It runs in a thread.
            threads: number of threads.
            most_waiting: greatest number of waiting items; further ones are refused.
        """
        self._work = work
        self._most_waiting = most_waiting
        self._pool = ThreadPoolExecutor(threads, "batch")
        self._idle = threads
        self._waiting: deque[_Waiting[Group, Item, Result]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def results(self, group: Group, items: Sequence[Item]) -> list[Result]:
        """The results of some items, in their order.

        Raises:
            BusyError: too many wait; none of these is begun.
        """
        if self._waiting and len(self._waiting) + len(items) > self._most_waiting:
            raise BusyError
        loop = asyncio.get_running_loop()
        added = [_Waiting[Group, Item, Result](group, item, loop.create_future()) for item in items]
        self._waiting.extend(added)
        self._start()
        return list(await asyncio.gather(*(waiting.result for waiting in added)))

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        while self._idle and self._waiting:
            task = asyncio.create_task(self._run(self._take()))
            self._idle -= 1
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _take(self) -> list[_Waiting[Group, Item, Result]]:
        """The next batch: an equal share of the waiting items for every idle thread."""
        share = min(MOST, -(-len(self._waiting) // self._idle))
        batch = [self._waiting.popleft()]
        while len(batch) < share and self._waiting and self._waiting[0].group is batch[0].group:
            batch.append(self._waiting.popleft())
        return batch

    async def _run(self, batch: list[_Waiting[Group, Item, Result]]) -> None:
        wanted = [waiting for waiting in batch if not waiting.result.done()]  # clients that are gone get no answer
        try:
            if wanted:
                work = asyncio.get_running_loop().run_in_executor(
                    self._pool, self._work, wanted[0].group, [waiting.item for waiting in wanted]
                )
                for waiting, result in zip(wanted, await work, strict=True):
                    if not waiting.result.done():
                        waiting.result.set_result(result)
        except Exception as error:  # any error goes to the waiting callers
            for waiting in wanted:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
        finally:
            self._idle += 1
            self._start()
