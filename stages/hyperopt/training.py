"""One training, in the process of a worker."""

import functools
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from stages.common.cpus import available_cpus
from stages.common.dataset import read_split
from stages.common.device import choose_device
from stages.common.errors import UnavailableError
from stages.common.fit import DivergedError, FitSettings, fit
from stages.common.logs import log, start_logging
from stages.hyperopt.params import HyperoptSection
from stages.hyperopt.trials import Job, Score

_read_split = functools.cache(read_split)


def count_workers(section: HyperoptSection) -> int:
    """Trainings to run at a time: `section.workers`, or one per GPU or core, but no more than can be under way.

    On a CPU each trial has one thread: two trainings of one thread take less time than one after the other with two
    threads each, and a trial gives the same on any number of cores.

    Raises:
        UnavailableError: the device is absent.
    """
    on_gpu = choose_device(section.device).type == "cuda"
    fitting = torch.cuda.device_count() if on_gpu else available_cpus()
    return min(section.workers or fitting, section.lag)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let `fit` use one thread."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # `fit` asks `available_cpus`, which heeds it
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def run_trial(prepared: Path, section: HyperoptSection, job: Job) -> Score | str | None:
    """Train on the train split and measure on the validation split.

    Args:
        prepared: the artifact of prepare_train; a worker maps its images itself.
        section: of params.yaml.
        job: what to train.

    Returns:
        The score after the last epoch, or why the run failed, or None if time was over before it.
    """
    if multiprocessing.parent_process():  # the process that started us tells what happens
        start_logging()
        log.setLevel("WARNING")
    if job.is_over():
        return None
    train, val = (_read_split(prepared, split) for split in ("train", "val"))
    settings = FitSettings(job.plan.hyperparameters, job.plan.epochs, section.batch_size, section.seed, section.device)
    try:
        with one_thread():
            if choose_device(section.device).type == "cuda":
                torch.cuda.set_device(job.slot % torch.cuda.device_count())
            history = fit(train, val, settings, on_epoch=lambda _epoch: job.is_over()).history
    except (DivergedError, UnavailableError) as error:  # the latter: out of GPU memory
        return str(error)
    last = history[-1]
    return Score(last.val_mean_accuracy, last.val_loss) if last.epoch == job.plan.epochs else None
