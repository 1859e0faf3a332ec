"""How good the champion is on new images whose labels have come in.

Whether the mean accuracy fell: for all new labels together the estimate itself is compared with `min_accuracy`, as at
the release of a version, so both mean the same by "good enough". `min_labels` bounds the noise (a standard error of .02
to .05 for 50 labels), a false alarm costs one training that the release gate judges, and a miss costs wrong predictions
until somebody looks. A single lot among several is low only if its interval lies below: of 20 lots of 100 images, one
or more fall under .85 by chance in a third of all checks of a model that is right in 88 %.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common.contract.artifacts import reading
from stages.common.inference.answers import Answers, Right, right_answers
from stages.common.inference.features import Features
from stages.common.registry.monitor_settings import MonitorSection
from stages.common.registry.seen import picture_of
from stages.common.schema.annotations import ANNOTATIONS, annotation_rows
from stages.common.schema.attributes import UNKNOWN, Attributes, names, read_attributes
from stages.common.schema.statistics import wilson
from stages.monitor.drift import ALL

OK, LOW, NOT_ENOUGH = "ok", "low", "not enough data"

Labels = Mapping[int, npt.NDArray[np.int16]]
"""Picture (`stages.common.registry.seen`) -> class indices in the order of the attributes, -1 where unknown."""


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers.

    Attributes:
        labels: how many there are.
        value: 0-1; None where there are too few labels.
        low: its 95 % interval; `high` likewise.
    """

    labels: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class GroupAccuracy:
    """One lot, or all together: the accuracy per attribute and their mean; `images` with any label."""

    images: int
    attributes: Mapping[str, Accuracy]
    mean: Accuracy


@dataclass(frozen=True)
class Performance:
    """What a check found.

    Attributes:
        verdict: `OK`, `LOW` or `NOT_ENOUGH`.
        total: all new images together.
        lots: those with labels.
        concerned: the lots that are low on their own; if none is but all together, `ALL`.
    """

    verdict: str
    total: GroupAccuracy
    lots: Mapping[str, GroupAccuracy]
    concerned: Sequence[str]


def read_labels(attributes: Attributes, validated: Path) -> Labels:
    """The labels of the champion's attributes that stage `validate` accepted.

    An attribute that the annotations do not have, or with other classes, is unknown in all of them.

    Raises:
        DataError: its annotations cannot be read.
    """
    classes = {one.name: one.classes for one in read_attributes(validated)}
    known = [one.name if classes.get(one.name) == one.classes else "" for one in attributes]
    labels: dict[int, npt.NDArray[np.int16]] = {}
    with reading(validated / ANNOTATIONS, "validate"):
        for row in annotation_rows(validated, "pixels", *filter(None, known)):
            found = [int(row[name] or UNKNOWN) if name else UNKNOWN for name in known]
            labels[picture_of(row["pixels"])] = np.array(found, np.int16)
    return labels


def measure(
    attributes: Attributes,
    lots: Mapping[str, Features],
    labels: Labels,
    settings: MonitorSection,
    answered: Collection[str],
) -> Performance:
    """Compare what the champion predicted with the labels of the attributes that it answers."""
    right = {lot: _right(attributes, features, labels, answered) for lot, features in lots.items()}
    total = summarise(
        attributes, np.concatenate([np.empty((0, len(attributes))), *right.values()]), settings.min_labels
    )
    groups = {
        lot: summarise(attributes, one, settings.min_labels) for lot, one in right.items() if np.isfinite(one).any()
    }  # without labels there is nothing to say about a lot
    if total.mean.value is None:
        return Performance(NOT_ENOUGH, total, groups, [])
    least = settings.min_accuracy
    fell = total.mean.value < least
    own = [lot for lot, one in groups.items() if one.mean.high is not None and one.mean.high < least]
    concerned = own or ([ALL] if fell else [])
    return Performance(LOW if concerned else OK, total, groups, concerned)


def _right(attributes: Attributes, features: Features, labels: Labels, answered: Collection[str]) -> Right:
    unknown = np.full(len(attributes), UNKNOWN, np.int16)
    known = np.array([labels.get(picture, unknown) for picture in features.pictures.tolist()], np.int16)
    known = known.reshape(-1, len(attributes))
    return right_answers(
        [
            Answers(
                one,
                known[:, column],
                features.probabilities[one.name],
                learned=None if one.name in answered else (),
                decision=features.decision.get(one.name, ()),
            )
            for column, one in enumerate(attributes)
        ]
    )


def summarise(attributes: Attributes, right: Right, min_labels: int) -> GroupAccuracy:
    """Accuracy per attribute that has enough labels, and the mean of these.

    The interval of the mean is Wilson's for the effective number of labels: as many as would vary as much as the mean
    does, whose variance follows from the images, which are independent, while the answers to one image are not.
    (Dean & Pagano 2015, Evaluating confidence interval methods for binomial proportions in clustered surveys.)
    """
    known = np.isfinite(right)
    images, counts = int(known.any(axis=1).sum()), known.sum(axis=0)
    told = counts >= min_labels
    accuracy = {
        name: Accuracy(int(counts[column]), value, *wilson(value, int(counts[column])))
        if told[column] and (value := float(right[known[:, column], column].mean())) is not None
        else Accuracy(int(counts[column]))
        for column, name in enumerate(names(attributes))
    }
    if not told.any():
        return GroupAccuracy(images, accuracy, Accuracy(int(counts.sum())))
    accuracies = np.array([one.value for one in accuracy.values() if one.value is not None])
    mean = float(accuracies.mean())
    apart = np.where(known[:, told], right[:, told] - accuracies, 0) / counts[told] / len(accuracies)
    variance = float(np.square(apart.sum(axis=1)).sum())
    least, most = float(counts[told].min()), float(counts[told].sum())
    effective = min(most, max(least, mean * (1 - mean) / variance)) if variance else least
    return GroupAccuracy(images, accuracy, Accuracy(int(counts[told].sum()), mean, *wilson(mean, effective)))
