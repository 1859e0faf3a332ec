"""Cross-validation: the fold of each image, and predictions for a fold by a network trained without it."""

import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stages.common.contract.errors import DataError
from stages.common.contract.logs import log, start_logging
from stages.common.schema.attributes import UNKNOWN, names
from stages.common.schema.dataset import Split
from stages.common.schema.learned import Learned, learnable, learned_classes, remarks
from stages.common.training.device import choose_device, use_gpu
from stages.common.training.fit import FitSettings, fit
from stages.common.training.kept import keep, recover
from stages.common.training.network import Classifier, Network, outputs_of
from stages.common.workers.pool import WorkerPool

Probabilities = dict[str, npt.NDArray[np.float32]]
"""Attribute -> (N, classes)."""


def assign_folds(groups: Sequence[str], folds: int, seed: int) -> npt.NDArray[np.int32]:
    """Assign images to folds of about equal size, by a hash of their group.

    Near duplicates are in one fold, because a network that has seen the label of one knows the others.

    Args:
        groups: group of each of the N images, as in the index of the prepared data.
        folds: number of folds.
        seed: of the hash.

    Returns:
        int32 (N,), 0 to folds - 1.

    Raises:
        DataError: there are fewer groups than folds.
    """
    images = Counter(groups)
    if len(images) < folds:
        raise DataError(
            f"{len(images)} different pictures with known labels are too few for {folds} folds: annotate more images, "
            "or lower label_doubt.folds"
        )
    dealt, sizes = dict[str, int](), [0] * folds
    for group in sorted(images, key=lambda name: (-images[name], hashlib.sha256(f"{seed}:{name}".encode()).digest())):
        dealt[group] = sizes.index(min(sizes))
        sizes[dealt[group]] += images[group]
    return np.array([dealt[group] for group in groups], np.int32)


def predict(network: Network, learned: Learned, images: Split, settings: FitSettings) -> Probabilities:
    """A network's probabilities for N images: per attribute float32 (N, classes), averaged with their mirror images.

    0 for classes that training has not seen, NaN for attributes with fewer than two seen classes.
    """
    classifier = Classifier(network, learned=learned, mirrored=True).eval()
    *outputs, _ = outputs_of(classifier, images, choose_device(settings.device, settings.threads))
    return dict(zip(names(images.attributes), outputs, strict=True))


def predict_out_of_fold(
    images: Split, fold: npt.NDArray[np.int32], settings: FitSettings, state: Path, workers: int
) -> Probabilities:
    """Predict every image with a network trained on the other folds.

    Args:
        images: N images.
        fold: int32 (N,), from `assign_folds`.
        settings: settings of the trainings, in which the held-out images decide nothing.
        state: a folder that outlives a kill, with finished folds and the last finished epoch.
        workers: folds at a time, each in its own process.

    Returns:
        Per attribute float32 (N, classes).
    """
    folds = int(fold.max()) + 1
    result = {
        attribute.name: np.empty((len(images), len(attribute.classes)), np.float32) for attribute in images.attributes
    }
    with WorkerPool(workers, "label_doubt.workers") as pool:
        done = pool.map(partial(_predict_fold, images, fold, settings, state), range(folds))
        for number, found in enumerate(done):
            for name, probabilities in found.items():
                result[name][fold == number] = probabilities
    return result


def _predict_fold(
    images: Split, fold: npt.NDArray[np.int32], settings: FitSettings, state: Path, number: int
) -> Probabilities:
    """Predict fold `number`, perhaps in a worker process."""
    shown = f"fold {number + 1} of {int(fold.max()) + 1}"
    if multiprocessing.parent_process():
        start_logging(shown)
    else:
        log.info("%s", shown)
    file, checkpoint = state / f"fold_{number}.safetensors", state / f"fold_{number}_checkpoint.safetensors"
    shapes = {attribute.name: (int((fold == number).sum()), len(attribute.classes)) for attribute in images.attributes}
    if kept := recover(file):
        found = {name: tensor.numpy() for name, tensor in kept[0].items()}
        if {name: values.shape for name, values in found.items()} == shapes:
            log.info("%s of an interrupted run is used", file.name)
            return found
        log.warning("%s is of other images: its fold is done again", file)
    seen, held_out = (images.select(np.flatnonzero(chosen)) for chosen in (fold != number, fold == number))
    learned = learned_classes(images.attributes, seen.labels)
    if not (learnable(images.attributes, held_out.labels, learned) != UNKNOWN).any():
        why = "; ".join(remarks(images.attributes, learned))
        log.warning("no label of %d images can be checked: %s", len(held_out), why)
        return {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    log.info("training on %d images for %d", len(seen), len(held_out))
    use_gpu(settings.device, number)
    fitted = fit(seen, held_out, settings, checkpoint=checkpoint)
    found = predict(fitted.network, learned, held_out, settings)
    seconds = sum(epoch.seconds for epoch in fitted.history)
    log.info("accuracy %.4f, %.0f s", fitted.history[-1].val_mean_accuracy, seconds)
    keep(file, {name: torch.from_numpy(values) for name, values in found.items()})
    checkpoint.unlink()
    return found
