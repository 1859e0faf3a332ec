"""Confident learning: which annotated labels the predictions contradict."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cleanlab.filter import find_label_issues

from stages.common.schema.attributes import UNKNOWN, Attribute


@dataclass(frozen=True)
class Doubt:
    """A label that is probably wrong.

    Attributes:
        image: position of the image.
        attribute: what it is a label of.
        label: class index that is annotated.
        suggested: class index that the network holds most probable.
        probability_of_label: 0-1.
        probability_of_suggested: 0-1.
        worth: by how much the attribute's balanced accuracy is expected to be wrong for this label, 0-1.
    """

    image: int
    attribute: Attribute
    label: int
    suggested: int
    probability_of_label: float
    probability_of_suggested: float
    worth: float


MIN_SKILL = 0.5
"""How much better than guessing networks must be to doubt labels: 0 is guessing, 1 is always right.

Of two classes .5 is a balanced accuracy of .75: below, they contradict more than a quarter of the labels of a class,
and nobody annotates as badly as that. Networks with a mean accuracy of .46 doubted 518 of 1,423 labels.
"""


def skill_of(
    attribute: Attribute, labels: npt.NDArray[np.int16], probabilities: npt.NDArray[np.float32]
) -> float | None:
    """How much better than guessing the answers are: balanced accuracy, from chance (0) to all right (1).

    The classes count alike, so that always saying the most frequent one is guessing. So they do in the answers: each is
    the class whose probability is the most times its share of the labels, which is best for balanced accuracy (Menon et
    al. 2021, https://arxiv.org/abs/2007.07314). By probability alone, networks that tell a rare class well would
    hardly ever answer with it. None with fewer than two classes.

    Args:
        attribute: what the labels are of.
        labels: int16 (N,), -1 where unknown.
        probabilities: float32 (N, classes), out of fold.
    """
    counts = np.bincount(labels[labels != UNKNOWN], minlength=len(attribute.classes))
    present = np.flatnonzero(counts)
    if len(present) < 2:
        return None
    answers = (probabilities / np.maximum(counts, 1)).argmax(1)
    recall = np.mean([(answers[labels == number] == number).mean() for number in present])
    return float((recall - 1 / len(present)) / (1 - 1 / len(present)))


def why_not_judged(attribute: Attribute, labels: npt.NDArray[np.int16], probabilities: npt.NDArray[np.float32]) -> str:
    """Why no label of an attribute is doubted; empty if they are judged. Arguments as for `skill_of`."""
    skill = skill_of(attribute, labels, probabilities)
    if skill is None:
        return "labels of two classes are needed that networks have learned and can judge"
    if skill < MIN_SKILL:
        return (
            f"the networks are too bad to judge it ({skill:.2f} from guessing, 0, to all right, 1; {MIN_SKILL:g} is "
            "needed): raise label_doubt.epochs, or annotate more images"
        )
    return ""


def find_doubts(
    attribute: Attribute, labels: npt.NDArray[np.int16], probabilities: npt.NDArray[np.float32]
) -> list[Doubt]:
    """The labels of one attribute that confident learning holds for wrong, the least probable first.

    Northcutt, Jiang and Chuang 2021, "Confident Learning", https://arxiv.org/abs/1911.00068, as cleanlab implements it:
    a label is counted as wrong if another class is more probable than it is, on average, for the images of that class.

    A label counts in balanced accuracy, the mean over C classes of the share of their n labels that is answered right,
    as 1 / (C n) of its class. One that is wrong counts so in a class that it does not belong to, and lacks in another.
    The sum of both, times the probability that it is wrong, is what mending it is worth: far more where a class has few
    labels.

    Args:
        attribute: what the labels are of.
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
