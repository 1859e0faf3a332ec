"""One training, in the process of a worker."""

import functools
import multiprocessing
import shutil
from pathlib import Path

import numpy as np

from stages.common.contract.errors import UnavailableError
from stages.common.contract.logs import log, start_logging
from stages.common.inference.calibration import cross_entropy, fit_temperature
from stages.common.schema.attributes import UNKNOWN
from stages.common.schema.dataset import Split, read_split
from stages.common.schema.learned import Learned, learnable, learned_classes, masks
from stages.common.training.augmentation import Augmentation
from stages.common.training.device import choose_device, trainings_at_once, use_gpu
from stages.common.training.fit import DivergedError, FitSettings, fit
from stages.common.training.network import Network, outputs_of
from stages.hyperopt.params import HyperoptSection
from stages.hyperopt.trials import Job, Score

_read_split = functools.cache(read_split)


def count_workers(section: HyperoptSection) -> int:
    """Trials to train at a time, no more than can be under way; a trial gives the same on any number of cores.

    Raises:
        UnavailableError: the device is absent.
    """
    return trainings_at_once(section.device, section.workers, section.lag)


def run_trial(prepared: Path, augmentation: Augmentation, section: HyperoptSection, job: Job) -> Score | str | None:
    """Train on the train split, from where the trial's last run has come to, and measure on the validation split.

    Args:
        prepared: the artifact of prepare_train; a worker maps its images itself.
        augmentation: of params.yaml, and so is `section`.
        section: of the search.
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
    settings = FitSettings(
        hyperparameters=job.plan.hyperparameters,
        augmentation=augmentation,
        epochs=section.epochs,
        seed=section.seed,
        device=section.device,
        threads=1,
    )
    try:
        use_gpu(section.device, job.slot)
        checkpoint = job.checkpoint(job.plan.epochs)
        checkpoint.unlink(missing_ok=True)  # of a run that was killed
        before = job.checkpoint(job.plan.after)
        if job.plan.after and before.exists():  # else it is trained from the beginning, to the same weights
            shutil.copyfile(before, checkpoint)
        result = fit(
            train, val, settings,
            on_epoch=lambda epoch: epoch.epoch == job.plan.epochs or job.is_over(), checkpoint=checkpoint,
        )  # fmt: skip
    except (DivergedError, UnavailableError) as error:  # the latter: out of GPU memory
        return str(error)
    last = result.history[-1]
    if last.epoch < job.plan.epochs:
        return None
    return Score(
        last.val_mean_accuracy,
        calibrated_loss(result.network, val, learned_classes(train.attributes, train.labels), section.device),
        result.hyperparameters.batch_size,
    )


def calibrated_loss(network: Network, val: Split, learned: Learned, device: str) -> float:
    """What a trial is judged by: see `Score.val_loss`.

    Args:
        network: fitted; it stays on the device.
        val: images that it has not learned from, with one known label at least of what it has seen.
        learned: what it has seen.
        device: auto, cpu or cuda.
    """
    outputs = outputs_of(network, val, choose_device(device, threads=1))
    unseen, can_be_right = masks(val.attributes, learned), learnable(val.attributes, val.labels, learned)
    columns = [
        (logits + mask, labels)
        for logits, mask, labels in zip(outputs, unseen, can_be_right.T, strict=True)
        if (labels != UNKNOWN).any()
    ]
    return float(np.mean([cross_entropy(*column, fit_temperature(*column)) for column in columns]))
