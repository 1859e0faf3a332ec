"""Which class is answered, given the probabilities: the offsets that a model carries for it, and what they mean.

They are added to the logarithms of the probabilities before the highest is taken. All equal: the most probable class.
Stage `train` chooses them (`stages.train.decide`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.reports.report import Table
from stages.common.schema.attributes import Attribute, Attributes

ACCURACY = "accuracy"
BALANCED_ACCURACY = "balanced accuracy"
MOST_PROBABLE = "the most probable class"


def decided(
    probabilities: npt.NDArray[np.floating[Any]], offsets: Sequence[float] = ()
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.floating[Any]]]:
    """The class that is answered, (N,), and its probability, (N,), which is the highest only where none is favoured.

    Args:
        probabilities: (N, classes).
        offsets: (classes,); none where the most probable class is the answer.
    """
    chosen = (probabilities * np.exp(offsets) if any(offsets) else probabilities).argmax(axis=1)
    return chosen, np.take_along_axis(probabilities, chosen[:, None], axis=1)[:, 0]


def lowest_confidence(attribute: Attribute, offsets: Sequence[float]) -> float:
    """The least probability that an answer can have: 1/classes, or less where a class is favoured."""
    shares = np.exp(-np.array(offsets or [0.0] * len(attribute.classes)))
    return float(shares.min() / shares.sum())


def in_words(attribute: Attribute, offsets: Sequence[float]) -> str:
    """How an answer is chosen."""
    if len(set(offsets)) < 2:
        return MOST_PROBABLE
    factors = np.exp(np.array(offsets) - min(offsets))
    if len(attribute.classes) == 2:
        named, other = attribute.classes if offsets[0] > offsets[1] else attribute.classes[::-1]
        return f"{named} from a probability of {1 / (1 + factors.max()):.2g} on, else {other}"
    counts = ", ".join(f"{name} {factor:.2g}" for name, factor in zip(attribute.classes, factors, strict=True))
    return f"the most probable class, where probabilities count so many times: {counts}"


def decision_table(
    attributes: Attributes, decision: Mapping[str, Sequence[float]], decided_by: Mapping[str, str]
) -> Table:
    """What every attribute is answered with, for a report.

    Args:
        attributes: those that are answered.
        decision: attribute -> offsets.
        decided_by: attribute -> what they were chosen for, in words.
    """
    rows = [(one.title, decided_by[one.name], in_words(one, decision[one.name])) for one in attributes]
    note = "Chosen on the validation split, as train.decide_by and train.wanted say."
    return Table("What is answered", ("Attribute", "Chosen for", "Answer"), rows, note=note)
