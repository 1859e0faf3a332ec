"""Honest measures of answers: one function per measure, for every stage that measures.

Accuracy alone hides a rare class: if 4 of 100 labels have it, a model that never answers it is right about 96. So next
to accuracy stand the accuracy of always answering the most frequent class (`majority`), balanced accuracy, and for each
class precision and recall with their intervals and the number of its labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from stages.common.inference.answers import Answers, Right
from stages.common.schema.attributes import UNKNOWN
from stages.common.schema.statistics import independent, wilson

Measures = Mapping[str, Any]
"""Measures of one attribute, as `measure` returns them."""

Metric = Literal["accuracy", "balanced_accuracy"]
"""Values of `evaluate.metric`, which search, release gate and monitoring use."""

METRICS: tuple[Metric, ...] = get_args(Metric)

RARE = 0.1
"""Share of the labels below which a class is rare, and its average precision is reported."""

EACH = 3
"""Attributes with a sentence each in the first lines of a report; if there are more, they share one sentence."""


def in_words(metric: str) -> str:
    """The name of a measure in texts."""
    return metric.replace("_", " ")


def measure(everything: Answers) -> dict[str, Any]:
    """Measure the answers about one attribute on the images whose label is known.

    Balanced accuracy is the mean recall of the classes that have labels (Brodersen et al. 2010, "The balanced accuracy
    and its posterior distribution", https://doi.org/10.1109/ICPR.2010.764); it needs two such classes. Precision,
    recall and F1 of the attribute are means over the same classes; a class that is never predicted has a precision of
    0. A figure that cannot be computed is None, never NaN. An image without a finite answer counts as wrong everywhere.

    Returns:
        labels, accuracy, accuracy_interval (as below), majority (share of the most frequent class), balanced_accuracy,
        precision, recall, f1, classes, support (labels of each), confusion_matrix (rows are labels, columns answers),
        and per_class: class, support, precision, recall, each with an interval [low, high] that holds the true value
        with 95 % (Wilson 1927, with the number of independent images), f1, and average_precision for a class below
        `RARE` of the labels. For an attribute that is never answered, only its labels are counted.
    """
    answers = everything.known()
    classes = answers.attribute.classes
    counts = confusion(answers)
    support = np.bincount(answers.labels, minlength=len(classes))
    count, told = len(answers.labels), len(answers.labels) > 0 and not answers.never
    per_class = [_of_class(answers, number, counts, support) for number in range(len(classes))] if told else []
    present = [row for row in per_class if row["support"]]

    groups = np.arange(count) if answers.groups is None else answers.groups
    share = float(answers.right.mean()) if told else None

    def mean(name: str) -> float | None:
        return float(np.mean([row[name] or 0.0 for row in present])) if present else None

    return {
        "labels": count,
        "accuracy": share,
        "accuracy_interval": None if share is None else [*wilson(share, independent(answers.right, groups))],
        "majority": float(support.max() / count) if told else None,
        "balanced_accuracy": mean("recall") if len(present) > 1 else None,
        "precision": mean("precision"),
        "recall": mean("recall"),
        "f1": mean("f1"),
        "classes": list(classes),
        "support": support.tolist(),
        "confusion_matrix": counts.tolist(),
        "per_class": per_class,  # a list, so that `dvc metrics show` prints columns per attribute and not per class
    }


def confusion(answers: Answers) -> npt.NDArray[np.int64]:
    """(classes, classes) counts of known labels (rows) by predicted class, without images that have no answer."""
    size = len(answers.attribute.classes)
    counts = np.zeros((size, size + 1), np.int64)
    np.add.at(counts, (answers.labels, answers.predicted), 1)
    return counts[:, :size]


def _of_class(
    answers: Answers, number: int, counts: npt.NDArray[np.int64], support: npt.NDArray[np.intp]
) -> dict[str, Any]:
    right, labels, predicted = int(counts[number, number]), int(support[number]), int(counts[:, number].sum())
    found: dict[str, Any] = {"class": answers.attribute.classes[number], "support": labels}
    groups = np.arange(len(answers.labels)) if answers.groups is None else answers.groups
    said = answers.predicted
    for name, of, chosen in (("precision", predicted, said == number), ("recall", labels, answers.labels == number)):
        found[name] = right / of if of else None
        as_said = (said == answers.labels)[chosen]
        interval = wilson(right / of, independent(as_said, groups[chosen])) if of else None
        found[f"{name}_interval"] = interval and list(interval)
    found["f1"] = 2 * right / (labels + predicted) if labels else None
    if 0 < labels < RARE * len(answers.labels):
        score = np.where(answers.finite, answers.probabilities[:, number], -1.0)  # no answer comes last
        found["average_precision"] = average_precision(score, answers.labels == number)
    return found


def average_precision(score: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.bool_]) -> float:
    """Mean precision over all positives, each at the threshold that just finds it; the share of positives by chance.

    Not interpolated (Davis and Goadrich 2006, "The Relationship Between Precision-Recall and ROC Curves",
    https://doi.org/10.1145/1143844.1143874), as in scikit-learn, which not every container image has.

    Args:
        score: (N,), higher is surer.
        positive: (N,), at least one of them.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.diff(score[order]) != 0, True)  # equal scores are found together
    found = np.cumsum(positive[order])[ends]
    return float((np.diff(found, prepend=0) / found[-1] * found / (np.flatnonzero(ends) + 1)).sum())


def mean_of(name: str, measures: Sequence[Measures]) -> float | None:
    """Mean of a measure over the attributes that have it; None if none has."""
    known = [measure[name] for measure in measures if measure[name] is not None]
    return float(np.mean(known)) if known else None


def means_of(measures: Sequence[Measures]) -> dict[str, float | None]:
    """Means that every stage reports: mean_accuracy, mean_balanced_accuracy, mean_majority."""
    return {f"mean_{name}": mean_of(name, measures) for name in (*METRICS, "majority")}


def no_better(measures: Mapping[str, Measures], metric: Metric) -> dict[str, str]:
    """Attributes whose answers are no better, by a metric, than always the most frequent class -> a line about it."""
    lines = {}
    for name, measure in measures.items():
        known = [
            (labels, answer) for labels, answer in zip(measure["support"], measure["classes"], strict=True) if labels
        ]
        if measure[metric] is None:
            continue
        always = measure["majority"] if metric == "accuracy" else 1 / len(known)
        if measure[metric] <= always:
            lines[name] = (
                f"{name} is no better than its most frequent class: {in_words(metric)} {measure[metric]:.4f}, and "
                f"always {max(known)[1]!r} has {always:.4f}"
            )
    return lines


def no_better_in_brief(lines: Mapping[str, str], metric: Metric) -> list[str]:
    """The lines of `no_better`; for many attributes one line that names them all, because a table has their figures."""
    if len(lines) <= EACH:
        return list(lines.values())
    named = ", ".join(lines)
    return [f"{len(lines)} attributes are no better than their most frequent class by {in_words(metric)}: {named}"]


@dataclass(frozen=True)
class Cells:
    """Answers to N images in C cells: a metric averages the shares of right answers of the cells.

    For accuracy, each attribute is a cell; for balanced accuracy, each class of it that has labels. The metric is the
    mean over the attributes of the means over their cells.

    Attributes:
        right: float (N, C), 1 where an answer is right, 0 where not, NaN where the image is in another cell.
        owner: float (C, A), 1 where a cell belongs to an attribute, else 0.
    """

    right: Right
    owner: npt.NDArray[np.float64]

    def means(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The metric under R weightings (R, N) of the images: (R,), NaN where no attribute has a label."""
        total = weights @ np.isfinite(self.right)
        with np.errstate(invalid="ignore"):
            shares = np.where(total > 0, weights @ np.nan_to_num(self.right) / total, 0)
        cells = (total > 0) @ self.owner
        with np.errstate(invalid="ignore"):
            means: npt.NDArray[np.float64] = (shares @ self.owner / np.maximum(1, cells)).sum(axis=1) / (cells > 0).sum(
                axis=1
            )
        return means

    @property
    def mean(self) -> float:
        """The metric; NaN where no attribute has a label."""
        return float(self.means(np.ones((1, len(self.right))))[0])


def cells_of(right: Right, labels: npt.NDArray[np.integer[Any]], metric: Metric) -> Cells:
    """The cells of a metric.

    Args:
        right: (N, A), NaN where the label is unknown or the attribute never answered.
        labels: (N, A) class indices, -1 where unknown.
        metric: the metric. Balanced accuracy leaves out an attribute whose labels are all of one class.
    """
    if metric == "accuracy":
        return Cells(right, np.eye(right.shape[1]))
    found, owners = [], []
    for column in range(right.shape[1]):
        known = np.isfinite(right[:, column]) & (labels[:, column] != UNKNOWN)
        classes = np.unique(labels[known, column])
        for number in classes if len(classes) > 1 else ():
            found.append(np.where(known & (labels[:, column] == number), right[:, column], np.nan))
            owners.append(np.eye(right.shape[1])[column])
    if not found:
        return Cells(np.empty((len(right), 0)), np.empty((0, right.shape[1])))
    return Cells(np.stack(found, axis=1), np.stack(owners))
