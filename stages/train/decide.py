"""Decision rules: chosen on the validation split, and part of the model.

The most probable class is right most often. But a rare class is hardly ever the most probable one, so it is hardly ever
answered. So the offsets of the logarithms of the probabilities can be chosen for another goal: `train.decide_by` and
`train.wanted`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.inference.answers import Answers
from stages.common.inference.decision import ACCURACY, BALANCED_ACCURACY, in_words
from stages.train.params import Wanted

Numbers = npt.NDArray[np.floating[Any]]
TINY = 1e-30
"""Stands for a probability of 0, whose logarithm is not a number."""


@dataclass(frozen=True)
class Decision:
    """The decision rule of one attribute.

    Attributes:
        offsets: offset of each class, added to the logarithm of its probability; the highest sum is the answer.
        by: their goal, in words.
        answer: the rule, in words.
        note: why the goal is not reached, empty if it is.
    """

    offsets: list[float]
    by: str
    answer: str
    note: str = ""


def decide(answers: Answers, rule: str, wanted: Wanted | None, shares: Numbers) -> Decision:
    """Choose the decision rule of one attribute.

    Args:
        answers: about images with known labels, with calibrated probabilities and without a decision rule.
        rule: `train.decide_by`.
        wanted: the entry of the attribute in `train.wanted`, which has precedence over the rule.
        shares: (classes,), of the training labels.
    """
    by, note = rule.replace("_", " "), ""
    offsets: Numbers = np.zeros(len(shares))
    if answers.never:
        by = ACCURACY
    elif wanted:
        by = wanted.words
        offsets, note = _for(wanted, answers)
    elif by == BALANCED_ACCURACY:
        offsets = balancing(shares)
    rounded = [round(float(offset), 6) for offset in offsets]
    return Decision(rounded, by, in_words(answers.attribute, rounded, answers.learned), note)


def balancing(shares: Numbers) -> Numbers:
    """Offsets for balanced accuracy: the logarithm of 1/share of each class.

    A right answer for a label of class c counts 1/share(c), so the best answer is the class with the highest
    probability times 1/share (Menon et al. 2021, https://arxiv.org/abs/2007.07314, post-hoc logit adjustment). That
    needs true probabilities, as temperatures give them, but no validation labels, which are few for a rare class: on
    photographs with 24 such labels, a factor or a threshold chosen by them is worse on others (balanced accuracy .859
    against .862).
    """
    return -np.log(np.where(shares > 0, shares, 1))


def _for(wanted: Wanted, answers: Answers) -> tuple[Numbers, str]:
    """Offsets of two classes that reach the wanted figure on these labels; else the nearest, and a note."""
    number = answers.attribute.classes.index(wanted.of)
    offsets = np.zeros(2)
    is_it = answers.labels == number
    if not is_it.any() or is_it.all():
        what = "every" if is_it.any() else "no"
        return (
            offsets,
            f"{what} validation label is {wanted.of!r}, so there is no threshold to choose: the more probable class is "
            "answered",
        )
    logarithms = np.log(np.maximum(answers.probabilities, TINY))
    odds = logarithms[:, number] - logarithms[:, 1 - number]
    order = np.argsort(-odds, kind="stable")
    odds, hits = odds[order], np.cumsum(is_it[order])
    ends = np.flatnonzero(np.append(np.diff(odds) < 0, True))  # equal odds get equal answers
    recall, precision = hits[ends] / hits[-1], hits[ends] / (ends + 1)
    note = ""
    if wanted.recall is not None:
        last = ends[np.argmax(recall >= wanted.recall)]
    elif (enough := precision >= (least := wanted.precision or 0.0)).any():
        last = ends[enough][-1]
    else:
        last = ends[precision == precision.max()][-1]
        note = f"precision of {wanted.of} reaches {precision.max():.3f} at best on validation, not {least:g}"
    below = odds[last + 1] if last + 1 < len(odds) else odds[last] - 1
    offsets[number] = -(odds[last] + below) / 2
    return offsets, note
