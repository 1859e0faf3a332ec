"""The worker pool ends, however its work is interrupted: also while a worker is amid handing over a large result."""

import multiprocessing
import os
import random
import signal
import time

import pytest

from stages.common.contract.errors import UnavailableError
from stages.common.workers.pool import WorkerPool
from tests.waiting import PATIENCE_S


def large_result(_number: int) -> bytes:
    return bytes(400_000)  # more than a pipe holds, so that a worker is nearly always amid writing one


@pytest.mark.slow
def test_an_interruption_at_any_moment_ends_the_pool_amid_its_work() -> None:
    moments = random.Random(3)  # noqa: S311 (not for cryptography)
    for _ in range(10):
        before = set(multiprocessing.active_children())
        with pytest.raises(KeyError), WorkerPool(2, "toy.workers") as pool:  # noqa: PT012
            results = pool.map(large_result, range(100_000))
            next(results)
            until = time.monotonic() + moments.uniform(0, 0.05)
            while time.monotonic() < until:
                next(results)
            workers = set(multiprocessing.active_children()) - before
            raise KeyError
        assert len(workers) == 2
        assert all((worker.exitcode or 0) < 0 for worker in workers)  # by our SIGKILL, or the executor's SIGTERM


@pytest.mark.slow
def test_a_worker_killed_at_any_moment_is_an_error_and_not_a_hang() -> None:
    moments = random.Random(4)  # noqa: S311 (not for cryptography)
    for _ in range(5):
        before = set(multiprocessing.active_children())
        with pytest.raises(UnavailableError, match=r"lower toy\.workers"), WorkerPool(2, "toy.workers") as pool:  # noqa: PT012
            results = pool.map(large_result, range(100_000))
            next(results)
            until = time.monotonic() + moments.uniform(0, 0.05)
            while time.monotonic() < until:
                next(results)
            [victim, *_] = set(multiprocessing.active_children()) - before
            os.kill(victim.pid or 0, signal.SIGKILL)
            for _ in results:
                pass


def plus_one(number: int) -> int:
    return number + 1


@pytest.mark.parametrize("workers", [1, 2])
def test_the_next_job_can_follow_from_a_result(workers: int) -> None:
    results: list[int] = []
    with WorkerPool(workers, "toy.workers") as pool:
        under_way = [pool.submit(plus_one, number) for number in (0, 10)]
        while under_way:
            for future in pool.done(under_way):
                under_way.remove(future)
                results.append(future.result())
                if results[-1] < 3:
                    under_way.append(pool.submit(plus_one, results[-1]))
    assert sorted(results) == [1, 2, 3, 11]


def killed(_number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_end_of_a_worker_with_a_single_job_is_an_error() -> None:
    with WorkerPool(2, "toy.workers") as pool:
        future = pool.submit(killed, 0)
        with pytest.raises(UnavailableError, match=r"lower toy\.workers"):
            [pool.done([future]) for _ in range(int(PATIENCE_S))]
