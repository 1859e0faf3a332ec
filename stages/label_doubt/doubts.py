"""Confident learning: find annotated labels that the predictions contradict."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cleanlab.filter import find_label_issues
from sklearn.metrics import roc_auc_score

from stages.common.schema.attributes import UNKNOWN, Attribute


@dataclass(frozen=True)
class Doubt:
    """A label that is probably wrong.

    Attributes:
        image: position of the image.
        attribute: the attribute of the label.
        label: annotated class index.
        suggested: class index that is most probable for the network.
        probability_of_label: 0-1.
        probability_of_suggested: 0-1.
        worth: expected error of the attribute's balanced accuracy through this label, 0-1.
    """

    image: int
    attribute: Attribute
    label: int
    suggested: int
    probability_of_label: float
    probability_of_suggested: float
    worth: float


MIN_AREA = 0.83
"""Least area under the ROC curve of networks whose doubts are reported: .5 is guessing, 1 is always right.

With normally distributed scores of two classes, at .83 a threshold gets three quarters of both right. Below, the
networks contradict more than a quarter of the labels, and nobody annotates so badly. Networks with an area of .79
doubted 41 % of labels that were all right.
"""


def area_of(
    attribute: Attribute, labels: npt.NDArray[np.int16], probabilities: npt.NDArray[np.float32]
) -> float | None:
    """Separation of the classes by the networks: mean area under the ROC curve, each class against the rest.

    The area needs no threshold (confident learning has its own thresholds for every class), and classes count alike.
    The most probable class would be a bad measure: networks that recognise a rare class well would seem to guess,
    because they hardly ever answer with it. None with fewer than two classes.

    Args:
        attribute: the attribute of the labels.
        labels: int16 (N,), -1 where unknown.
        probabilities: float32 (N, classes), out of fold.
    """
    known = labels != UNKNOWN
    present = [number for number in range(len(attribute.classes)) if (labels == number).any()]
    if len(present) < 2:
        return None
    areas = [roc_auc_score(labels[known] == number, probabilities[known, number]) for number in present]
    return float(np.mean(areas))


def why_not_checked(area: float | None) -> str:
    """Reason not to check the labels of an attribute with this `area_of`; empty if they are checked."""
    if area is None:
        return "it needs known labels of two classes that the networks have learned"
    if area < MIN_AREA:
        return (
            f"the networks have not learned it well enough (area under the ROC curve {area:.2f}, .5 is guessing, "
            f"{MIN_AREA:g} is needed): raise label_doubt.epochs, or annotate more images"
        )
    return ""


def find_doubts(
    attribute: Attribute, labels: npt.NDArray[np.int16], probabilities: npt.NDArray[np.float32]
) -> list[Doubt]:
    """Labels of one attribute that are probably wrong by confident learning, the least probable first.

    Northcutt, Jiang and Chuang 2021, "Confident Learning", https://arxiv.org/abs/1911.00068, as cleanlab implements it:
    a label is counted as wrong if another class is more probable than it is, on average, for the images of that class.

    Balanced accuracy is the mean over C classes of the share of right answers among their n labels, so a label counts
    1 / (C n) in its class. A wrong label counts in a class to which it does not belong, and is missing in another. The
    sum of both, times the probability that the label is wrong, is the worth of its correction: far more if a class has
    few labels.

    Args:
        attribute: the attribute of the labels.
        labels: int16 (N,), -1 where unknown.
        probabilities: float32 (N, classes), out of fold.
    """
    known = np.flatnonzero(labels != UNKNOWN)
    given, seen = labels[known].astype(np.int64), probabilities[known].astype(np.float64)
    found = find_label_issues(
        given, seen, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    counts = np.bincount(given, minlength=len(attribute.classes))
    counted = 1 / (np.maximum(counts, 1) * (counts > 0).sum())  # of every class
    return [
        Doubt(
            image=int(known[index]),
            attribute=attribute,
            label=label,
            suggested=suggested,
            probability_of_label=float(seen[index, label]),
            probability_of_suggested=float(seen[index, suggested]),
            worth=float((1 - seen[index, label]) * (counted[label] + counted[suggested])),
        )
        for index in found
        for label, suggested in [(int(given[index]), int(seen[index].argmax()))]
    ]
