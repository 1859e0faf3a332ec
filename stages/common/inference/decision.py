"""The decision rule of a model: offsets that choose the answered class from the probabilities.

An offset is added to the logarithm of each probability before the highest is taken. All equal: the most probable class.
Stage `train` chooses them (`stages.train.decide`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.inference.calibration import Calibration
from stages.common.reports.report import Table
from stages.common.schema.attributes import Attribute, Attributes
from stages.common.schema.learned import is_answered

ACCURACY = "accuracy"
BALANCED_ACCURACY = "balanced accuracy"
MOST_PROBABLE = "the most probable class"


def decided(
    probabilities: npt.NDArray[np.floating[Any]], offsets: Sequence[float] = ()
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.floating[Any]]]:
    """The answered class, (N,), and its probability, (N,), which is the highest only if no class is favoured.

    Args:
        probabilities: (N, classes).
        offsets: (classes,); empty if the most probable class is the answer.
    """
    chosen = (probabilities * np.exp(offsets) if any(offsets) else probabilities).argmax(axis=1)
    return chosen, np.take_along_axis(probabilities, chosen[:, None], axis=1)[:, 0]


def lowest_confidence(attribute: Attribute, offsets: Sequence[float]) -> float:
    """The least probability that an answer can have: 1/classes, or less where a class is favoured."""
    shares = np.exp(-np.array(offsets or [0.0] * len(attribute.classes)))
    return float(shares.min() / shares.sum())


def in_words(attribute: Attribute, offsets: Sequence[float], learned: Sequence[str] | None = None) -> str:
    """The rule that chooses an answer, in words, among the classes that training has seen; None means all."""
    able = [at for at, name in enumerate(attribute.classes) if learned is None or name in learned]
    if not any(offsets) or len({offsets[at] for at in able}) < 2:
        return MOST_PROBABLE
    lowest = min(offsets[at] for at in able)
    factors = {attribute.classes[at]: float(np.exp(offsets[at] - lowest)) for at in able}
    if len(factors) == 2:
        other, named = sorted(factors, key=lambda name: factors[name])
        return f"{named} from a probability of {1 / (1 + factors[named]):.2g} on, else {other}"
    counts = ", ".join(f"{name} {factor:.2g}" for name, factor in factors.items())
    return f"the most probable class, where probabilities count so many times: {counts}"


def decision_table(attributes: Attributes, calibration: Calibration) -> Table:
    """The decision rule of each attribute of a model, for a report."""
    decision, by, learned = calibration.decision, calibration.decided_by, calibration.learned
    rows = [
        (attribute.title, by[attribute.name], in_words(attribute, decision[attribute.name], learned[attribute.name]))
        for attribute in attributes
        if is_answered(learned[attribute.name])
    ]
    note = "Chosen on the validation split, as train.decide_by and train.wanted say."
    return Table("What is answered", ("Attribute", "Chosen for", "Answer"), rows, note=note)
