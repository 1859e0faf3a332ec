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
    """

    image: int
    attribute: Attribute
    label: int
    suggested: int
    probability_of_label: float
    probability_of_suggested: float


MIN_SKILL = 0.5
"""How much better than guessing networks must be to doubt labels: 0 is guessing, 1 is always right.

Of two classes .5 is an accuracy of .75: below, they contradict more than a quarter of the labels, and nobody annotates
as badly as that. Networks with a mean accuracy of .46 doubted 518 of 1,423 labels.
"""


def skill_of(
    attribute: Attribute, labels: npt.NDArray[np.int16], probabilities: npt.NDArray[np.float32]
) -> float | None:
    """How much better than guessing the answers are: mean accuracy of the classes, from chance (0) to all right (1).

    The classes count alike, so that always saying the most frequent one is guessing. None with fewer than two of them.

    Args:
        attribute: what the labels are of.
        labels: int16 (N,), -1 where unknown.
        probabilities: float32 (N, classes), out of fold.
    """
    present = [number for number in range(len(attribute.classes)) if (labels == number).any()]
    if len(present) < 2:
        return None
    answers = probabilities.argmax(1)
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
    """The labels of one attribute that confident learning holds for wrong, the most doubtful first.

    Northcutt, Jiang and Chuang 2021, "Confident Learning", https://arxiv.org/abs/1911.00068, as cleanlab implements it:
    a label is counted as wrong if another class is more probable than it is, on average, for the images of that class.

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
    return [
        Doubt(
            image=int(known[index]),
            attribute=attribute,
            label=int(given[index]),
            suggested=int(seen[index].argmax()),
            probability_of_label=float(seen[index, given[index]]),
            probability_of_suggested=float(seen[index].max()),
        )
        for index in found
    ]
