"""Confident learning: which annotated labels the predictions contradict."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cleanlab.filter import find_label_issues

from stages.common.attributes import UNKNOWN, Attribute


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


def find_doubts(
    attribute: Attribute, labels: npt.NDArray[np.int8], probabilities: npt.NDArray[np.float32]
) -> list[Doubt]:
    """The labels of one attribute that confident learning holds for wrong, the most doubtful first.

    Northcutt, Jiang and Chuang 2021, "Confident Learning", https://arxiv.org/abs/1911.00068, as cleanlab implements it:
    a label is counted as wrong if another class is more probable than it is, on average, for the images of that class.

    Args:
        attribute: what the labels are of.
        labels: int8 (N,), -1 where unknown.
        probabilities: float32 (N, classes), out of fold.
    """
    known = np.flatnonzero(labels != UNKNOWN)
    given, seen = labels[known].astype(np.int64), probabilities[known].astype(np.float64)
    if len(np.unique(given)) < 2:  # a network that has seen one class cannot tell it from another
        return []
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
