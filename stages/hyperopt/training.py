"""One training, in the process of a worker."""

import functools
import multiprocessing
import shutil
from pathlib import Path

import numpy as np

from stages.common.contract.errors import UnavailableError
from stages.common.contract.logs import log, start_logging
from stages.common.inference.answers import Answers
from stages.common.inference.calibration import Labels, Numbers, cross_entropy, fit_temperature, softmax
from stages.common.inference.measures import Metric, mean_of, measure
from stages.common.schema.attributes import UNKNOWN
from stages.common.schema.dataset import Split, read_split
from stages.common.schema.learned import class_shares, learnable, learned_classes, masks
from stages.common.training.augmentation import Augmentation
from stages.common.training.device import choose_device, use_gpu
from stages.common.training.fit import DivergedError, FitSettings, fit
from stages.common.training.network import Network, outputs_of
from stages.hyperopt.params import HyperoptSection
from stages.hyperopt.trials import Job, Score

_read_split = functools.cache(read_split)


def run_trial(
    prepared: Path, augmentation: Augmentation, section: HyperoptSection, metric: Metric, job: Job
) -> Score | str | None:
    """Train on the train split, from the end of the trial's last run on, and measure on the validation split.

    Args:
        prepared: the artifact of prepare_train; a worker maps its images itself.
        augmentation: section of params.yaml.
        section: section of the search.
        metric: the metric of the search.
        job: the training.

    Returns:
        The score after the last epoch, or the cause of a failure, or None if the time was over before.
    """
    if multiprocessing.parent_process():  # the parent process logs
        start_logging()
        log.setLevel("WARNING")
    if job.is_over():
        return None
    train, val = (_read_split(prepared, split) for split in ("train", "val"))
    settings = FitSettings.of(section, job.plan.hyperparameters, augmentation, threads=1)
    try:
        use_gpu(section.device, job.slot)
        checkpoint = job.checkpoint(job.plan.epochs)
        checkpoint.unlink(missing_ok=True)  # of a killed run
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
    loss, balanced = measure_on_val(result.network, train, val, metric, section.device)
    return Score(last.val_mean_accuracy, loss, result.hyperparameters.batch_size, balanced)


def measure_on_val(
    network: Network, train: Split, val: Split, metric: Metric, device: str
) -> tuple[float, float | None]:
    """The score of a trial, and its mean balanced accuracy: see `Score`.

    Args:
        network: fitted; it stays on the device.
        train: the training split.
        val: the validation split, with at least one known label of a seen class.
        metric: the metric of the search.
        device: auto, cpu or cuda.
    """
    learned = learned_classes(train.attributes, train.labels)
    shares = class_shares(train.attributes, train.labels)
    outputs = outputs_of(network, val, choose_device(device, threads=1))
    unseen, can_be_right = masks(val.attributes, learned), learnable(val.attributes, val.labels, learned)
    losses, measures = [], []
    for column, (attribute, raw, mask) in enumerate(zip(val.attributes, outputs, unseen, strict=True)):
        logits, labels = raw + mask, can_be_right[:, column]
        if not (labels != UNKNOWN).any():
            continue
        temperature = fit_temperature(logits, labels)
        if metric == "accuracy":
            losses.append(cross_entropy(logits, labels, temperature))
        else:
            losses.append(balanced_cross_entropy(logits / temperature, labels, shares[column]))
        measures.append(measure(Answers(attribute, val.labels[:, column], softmax(logits))))
    return float(np.mean(losses)), mean_of("balanced_accuracy", measures)


def balanced_cross_entropy(logits: Numbers, labels: Labels, shares: Numbers) -> float:
    """Cross-entropy of one attribute in nats as if its classes were equally frequent: mean over classes with labels.

    Probabilities are true at the frequencies in training, so they are first divided by these (Saerens, Latinne and
    Decaestecker 2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities",
    https://doi.org/10.1162/089976602753284446). Otherwise the loss would punish a network for knowing that a class is
    rare, which does not reduce balanced accuracy once the decision rule is chosen for it.

    Args:
        logits: float (N, classes), calibrated.
        labels: int (N,), -1 where unknown, at least one known.
        shares: (classes,), of the training labels.
    """
    adjusted = logits - np.log(np.where(shares > 0, shares, 1))  # minus infinity stays for an unseen class
    classes = np.unique(labels[labels != UNKNOWN])
    return float(np.mean([cross_entropy(adjusted, np.where(labels == label, label, UNKNOWN)) for label in classes]))
