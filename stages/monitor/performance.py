"""The accuracy of the champion on new images that have labels.

For all new labels together, the mean of `evaluate.metric` itself is compared with `min_accuracy`, as at the release of
a version, so both use the same bound. `min_labels` limits the noise (a standard error of .02 to .05 for 50 labels). A
false alarm costs one training, whose version must still pass the release gate; a miss costs wrong predictions until
somebody notices. A single lot among several is low only if its interval lies below the bound: for a model that is right
in 88 %, one or more of 20 lots of 100 images fall under .85 by chance in a third of all checks.

Balanced accuracy is only as certain as its rarest class, which may have ten of a thousand labels. So labels are counted
as the number of labels of equally frequent classes that is as informative: K^2 / sum(1 / n_k) for K classes with n_k
labels each.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.contract.artifacts import reading
from stages.common.inference.answers import Answers, Right, right_answers
from stages.common.inference.features import Features
from stages.common.inference.measures import Cells, Measures, Metric, cells_of, means_of
from stages.common.inference.measures import measure as measure_attribute
from stages.common.registry.monitor_settings import MonitorSection
from stages.common.registry.seen import picture_of
from stages.common.schema.annotations import ANNOTATIONS, annotation_rows
from stages.common.schema.attributes import UNKNOWN, Attributes, names, read_attributes
from stages.common.schema.statistics import wilson
from stages.monitor.drift import ALL

OK, LOW, NOT_ENOUGH = "ok", "low", "not enough data"

Labels = Mapping[int, Sequence[int]]
"""Picture (`stages.common.registry.seen`) -> class indices in the order of the attributes, -1 where unknown; pictures
without any label are left out."""


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers, or their mean over classes: `evaluate.metric` of an attribute, or its mean.

    Attributes:
        labels: number of labels.
        value: 0-1; None with too few labels.
        low: lower end of its 95 % interval; `high` is the upper end.
    """

    labels: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class GroupAccuracy:
    """One lot, or all together: the metric per attribute and its mean; `images` with any label."""

    images: int
    attributes: Mapping[str, Accuracy]
    mean: Accuracy


@dataclass(frozen=True)
class Performance:
    """The result of a check of accuracy.

    Attributes:
        metric: the metric.
        verdict: `OK`, `LOW` or `NOT_ENOUGH`.
        total: all new images together.
        lots: lots with labels.
        concerned: the lots that are low on their own; `ALL` if only all together are low.
        measures: attribute -> `stages.common.inference.measures.measure` on all new labels.
        means: mean_accuracy, mean_balanced_accuracy, mean_majority of the attributes with enough labels.
    """

    metric: Metric
    verdict: str
    total: GroupAccuracy
    lots: Mapping[str, GroupAccuracy]
    concerned: Sequence[str]
    measures: Mapping[str, Measures]
    means: Mapping[str, float | None]

    def enough(self, min_labels: int) -> dict[str, Measures]:
        """The measures of the attributes with so many labels."""
        return {name: measure for name, measure in self.measures.items() if measure["labels"] >= min_labels}


def read_labels(attributes: Attributes, validated: Path) -> Labels:
    """Labels of the champion's attributes that stage `validate` accepted.

    An attribute that is absent in the annotations, or has other classes there, is unknown everywhere.

    Raises:
        DataError: its annotations cannot be read.
    """
    classes = {attribute.name: attribute.classes for attribute in read_attributes(validated)}
    known = [attribute.name if classes.get(attribute.name) == attribute.classes else "" for attribute in attributes]
    labels: dict[int, Sequence[int]] = {}
    once: dict[Sequence[int], Sequence[int]] = {}  # a million rows have few different ones
    with reading(validated / ANNOTATIONS, "validate"):
        for row in annotation_rows(validated, "pixels", *filter(None, known)):
            found = tuple(int(row[name] or UNKNOWN) if name else UNKNOWN for name in known)
            if set(found) != {UNKNOWN}:
                labels[picture_of(row["pixels"])] = once.setdefault(found, found)
    return labels


def measure(
    attributes: Attributes,
    lots: Mapping[str, Features],
    labels: Labels,
    settings: MonitorSection,
    answered: Collection[str],
    metric: Metric = "accuracy",
) -> Performance:
    """Compare the champion's answers with the labels of the answered attributes, for at least one lot."""
    by_lot = {lot: _answers(attributes, features, labels, answered) for lot, features in lots.items()}
    together = [_joined(parts) for parts in zip(*by_lot.values(), strict=True)]

    def group(answers: Sequence[Answers]) -> GroupAccuracy:
        known = np.stack([answer.labels for answer in answers], axis=1)
        return summarise(attributes, right_answers(answers), known, settings.min_labels, metric)

    total, groups = group(together), {lot: group(answers) for lot, answers in by_lot.items()}
    groups = {lot: accuracy for lot, accuracy in groups.items() if accuracy.images}  # those of lots without labels go
    least, concerned = settings.min_accuracy, list[str]()
    if total.mean.value is not None:
        own = [lot for lot, accuracy in groups.items() if accuracy.mean.high is not None and accuracy.mean.high < least]
        concerned = own or ([ALL] if total.mean.value < least else [])
    verdict = NOT_ENOUGH if total.mean.value is None else LOW if concerned else OK
    measures = {answer.attribute.name: measure_attribute(answer) for answer in together}
    enough = [measure for measure in measures.values() if measure["labels"] >= settings.min_labels]
    return Performance(metric, verdict, total, groups, concerned, measures, means_of(enough))


def _answers(attributes: Attributes, features: Features, labels: Labels, answered: Collection[str]) -> list[Answers]:
    unknown = [UNKNOWN] * len(attributes)
    known = np.array([labels.get(picture, unknown) for picture in features.pictures.tolist()], np.int16)
    known = known.reshape(-1, len(attributes))
    return [
        Answers(
            attribute,
            known[:, column],
            features.probabilities[attribute.name],
            learned=None if attribute.name in answered else (),
            decision=features.decision.get(attribute.name, ()),
        )
        for column, attribute in enumerate(attributes)
    ]


def _joined(parts: Sequence[Answers]) -> Answers:
    """The answers about one attribute in all lots."""
    labels, probabilities = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "probabilities")
    )
    return replace(parts[0], labels=labels, probabilities=probabilities)


def summarise(
    attributes: Attributes,
    right: Right,
    labels: npt.NDArray[np.integer[Any]],
    min_labels: int,
    metric: Metric = "accuracy",
) -> GroupAccuracy:
    """The metric of each attribute that has enough labels, and the mean of these.

    Args:
        attributes: A attributes.
        right: (N, A).
        labels: (N, A), -1 where unknown.
        min_labels: least number of labels of an attribute.
        metric: the metric.
    """
    counts = np.isfinite(right).sum(axis=0)
    found, told = dict[str, Accuracy](), []
    for column, name in enumerate(names(attributes)):
        here = np.s_[:, column : column + 1]
        cells = cells_of(right[here], labels[here], metric)
        enough = counts[column] and cells.right.shape[1] and _equal_labels(cells)[0] >= min_labels
        found[name] = _figure(int(counts[column]), cells) if enough else Accuracy(int(counts[column]))
        told += [column] if enough else []
    images = int(np.isfinite(right).any(axis=1).sum())
    if not told:
        return GroupAccuracy(images, found, Accuracy(int(counts.sum())))
    mean = _figure(int(counts[told].sum()), cells_of(right[:, told], labels[:, told], metric))
    return GroupAccuracy(images, found, mean)


def _equal_labels(cells: Cells) -> npt.NDArray[np.float64]:
    """(A,): number of labels that would be as informative about an attribute if its cells had equally many."""
    per_cell = 1 / np.isfinite(cells.right).sum(axis=0)
    numbers: npt.NDArray[np.float64] = cells.owner.sum(axis=0) ** 2 / (per_cell @ cells.owner)
    return numbers


def _figure(labels: int, cells: Cells) -> Accuracy:
    """Mean over cells, each of which has a label.

    Its interval is Wilson's for the effective number of labels, which would give the same variance as the mean. The
    variance is computed over images, which are independent, while the answers to one image are not. (Dean & Pagano
    2015, Evaluating confidence interval methods for binomial proportions in clustered surveys.)
    """
    known = np.isfinite(cells.right)
    counts, mean, equal = known.sum(axis=0), cells.mean, _equal_labels(cells)
    shares = np.nan_to_num(cells.right).sum(axis=0) / counts
    weights = cells.owner @ (1 / cells.owner.sum(axis=0)) / len(equal)
    variance = float(np.square(np.where(known, cells.right - shares, 0) @ (weights / counts)).sum())
    most = len(equal) ** 2 / (1 / equal).sum()
    varied = min(most, max(counts.min(), mean * (1 - mean) / variance)) if variance else equal.min()
    return Accuracy(labels, mean, *wilson(mean, float(varied)))
