"""Training in several processes, one per GPU: torchrun's launcher starts them, and the fit loop shares every batch.

Only the checkpoint comes back: after its last epoch, `fit` in the stage's own process just reads it.
"""

import gc
import logging
import math
import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
import torch._dynamo  # 160 MB, which the first step of a fit would load in every process: loaded here once for all
from torch import distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stages.common.contract.cpus import available_cpus
from stages.common.contract.errors import StageError, UnavailableError
from stages.common.contract.logs import log, start_logging
from stages.common.schema.dataset import Split
from stages.common.training.device import choose_device, use_gpu
from stages.common.training.fit import FitSettings, fit
from stages.train.params import TrainSection
from stages.train.stage import EpochLog

MIN_SHARE = 16
"""Least number of images of a step per process: batch normalisation computes its statistics over these."""


def count_processes(section: TrainSection, images: int, batch_size: int) -> int:
    """The number of training processes: as in section `train`, else one per visible GPU or, on a CPU, per core.

    Every process gets at least `MIN_SHARE` images of a step; a reduced number of processes is logged. On a CPU,
    processes wait for each other once a step, threads of one process at every layer, spinning. On two cores with other
    work, two threads processed 20 to 40 images a second, two processes 250 to 340.

    Args:
        section: asks for device and processes.
        images: number of training images.
        batch_size: greatest number of images of a step, over all processes.

    Raises:
        UnavailableError: there are fewer GPUs, or none though `cuda` is asked for.
    """
    on_gpu = choose_device(section.device).type == "cuda"
    there = torch.cuda.device_count() if on_gpu else available_cpus()
    if on_gpu and section.processes > there:
        raise UnavailableError(
            f"train.processes asks for {section.processes} GPUs, found {there}: offer more to the container, or set it "
            "to 0"
        )
    wanted = section.processes or there
    step = images // math.ceil(images / batch_size)  # the smallest
    useful = max(1, step // MIN_SHARE)
    if useful < wanted:
        log.info(
            "%d of %d processes train: a step has %d images, and batch normalisation wants %d in each (raise "
            "batch_size for more)",
            useful, wanted, step, MIN_SHARE,
        )  # fmt: skip
    return min(wanted, useful)


def fit_in_processes(processes: int, train: Split, val: Split, settings: FitSettings, checkpoint: Path) -> None:
    """Train in several processes, up to the checkpoint of the last epoch.

    On a CPU they are forks of this one and share PyTorch with it, 0.5 GB; CUDA does not survive a fork.

    Args:
        processes: number of processes. On CUDA each uses the GPU of its number, on a CPU its share of the cores.
        train: as for `fit`.
        val: as for `fit`.
        settings: as for `fit`.
        checkpoint: as for `fit`.

    Raises:
        Exception: the first error of a process: it ends the stage as if it had been raised in this process.
        UnavailableError: a process was killed.
    """
    method = "spawn" if choose_device(settings.device).type == "cuda" else "fork"
    causes: SimpleQueue[Exception] = multiprocessing.get_context(method).SimpleQueue()  # no file: the disk may be full
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its long messages repeat ours
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="train",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",  # without a network a container cannot look up its own name
        max_restarts=0,
        start_method=method,
        logs_specs=DefaultLogsSpecs(os.devnull),
        signals_to_handle="",  # the stage has its own handlers
    )
    settings = replace(settings, threads=max(1, available_cpus() // processes))
    gc.collect()  # before the fork: a collection in the fork would wait for threads that it does not have
    try:
        elastic_launch(launch, _train)(train, val, settings, checkpoint, causes)
    except ChildFailedError as error:
        if not causes.empty():
            raise causes.get() from None
        _, first = error.get_first_failure()
        raise UnavailableError(
            f"a training process failed with exit code {first.exitcode}, see the log above (-9 almost always means out "
            "of memory: give the stage more, or lower train.processes)"
        ) from None
    finally:
        for process in multiprocessing.active_children():  # some are left if this process is stopped
            process.kill()


def _train(train: Split, val: Split, settings: FitSettings, checkpoint: Path, causes: "SimpleQueue[Exception]") -> None:
    """Train, as one of the processes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT comes at the end of the stage, even by kill -9
        signal.signal(number, signal.SIG_DFL)
    start_logging()
    rank = int(os.environ["RANK"])
    if rank:
        log.setLevel("ERROR")  # the first process logs for all
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    use_gpu(settings.device, rank)
    on_gpu = choose_device(settings.device, settings.threads).type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        # A new thread, because OpenMP would wait for threads that the first thread had before the fork. In CUDA, every
        # thread uses the first GPU until it selects another.
        with ThreadPoolExecutor(1, initializer=use_gpu, initargs=(settings.device, rank)) as thread:
            thread.submit(fit, train, val, settings, on_epoch=EpochLog(settings.epochs), checkpoint=checkpoint).result()
    except Exception as error:
        if causes.empty():  # the others fail because the first has ended
            if not isinstance(error, (StageError, OSError, MemoryError)):
                logging.exception("defect in training process %d", rank)
            causes.put(_as_sent(error))
        os._exit(1)  # the others wait for this one; the launcher stops them
    dist.destroy_process_group()


def _as_sent(error: Exception) -> Exception:
    """The error, or one with its text if it cannot go through a pipe."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
