"""A model's answers about attributes: classes, confidences, abstention, and attributes that are never answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.inference.calibration import Calibration, Threshold
from stages.common.inference.decision import decided
from stages.common.schema.attributes import UNKNOWN, Attribute, Attributes
from stages.common.schema.learned import unlearned, why_never


@dataclass(frozen=True)
class Answers:
    """The answers of a model about one attribute.

    Attributes:
        labels: int (N,) class indices, -1 where unknown.
        probabilities: float (N, classes).
        threshold: the lowest confidence (0-1) with which an answer is given; below, the model abstains. One for all
            classes, or one for each.
        learned: the classes that training has seen; None means all. With fewer than two the attribute is never
            answered: the model gives no finite probabilities then.
        decision: offset of each class, added to the logarithm of its probability before the highest is taken; empty
            where the most probable class is the answer.
        groups: (N,), the same number for images that belong together; None if none do.
    """

    attribute: Attribute
    labels: npt.NDArray[np.integer[Any]]
    probabilities: npt.NDArray[np.floating[Any]]
    threshold: Threshold = 0.0
    learned: Sequence[str] | None = None
    decision: Sequence[float] = ()
    groups: npt.NDArray[np.integer[Any]] | None = None

    @property
    def never(self) -> str:
        """Why the attribute is never answered; empty if it is."""
        return "" if self.learned is None else why_never(self.learned)

    @property
    def unlearned(self) -> list[str]:
        """Classes that are never the answer."""
        return [] if self.learned is None else unlearned(self.attribute, self.learned)

    @cached_property
    def finite(self) -> npt.NDArray[np.bool_]:
        """(N,): where the model gave numbers; a diverged model gives NaN."""
        finite: npt.NDArray[np.bool_] = np.isfinite(self.probabilities).all(axis=1)
        return finite

    @cached_property
    def _decided(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.floating[Any]]]:
        return decided(self.probabilities, self.decision)

    @cached_property
    def predicted(self) -> npt.NDArray[np.intp]:
        """(N,): the answered class; where there is no answer, the number of classes, which equals no label."""
        chosen, _ = self._decided
        return np.where(self.finite, chosen, len(self.attribute.classes))

    @cached_property
    def confidence(self) -> npt.NDArray[np.floating[Any]]:
        """(N,): the probability of the predicted class, NaN where there is no answer."""
        _, confidence = self._decided
        return np.where(self.finite, confidence, np.nan)

    @cached_property
    def right(self) -> npt.NDArray[np.bool_]:
        """(N,): where the predicted class is the label; False without an answer or a label."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right

    @cached_property
    def answered(self) -> npt.NDArray[np.bool_]:
        """(N,): where the model is confident enough to answer; elsewhere it abstains."""
        lowest = np.broadcast_to(self.threshold, len(self.attribute.classes))
        given: npt.NDArray[np.bool_] = self.confidence >= np.append(lowest, 1)[self.predicted]  # never for NaN
        return given

    def known(self) -> "Answers":
        """Only the images whose label is known."""
        mask = self.labels != UNKNOWN
        groups = None if self.groups is None else self.groups[mask]
        return replace(self, labels=self.labels[mask], probabilities=self.probabilities[mask], groups=groups)


def answers_of(
    attributes: Attributes,
    probabilities: Mapping[str, npt.NDArray[np.floating[Any]]],
    calibration: Calibration | None = None,
    labels: npt.NDArray[np.integer[Any]] | None = None,
    decision: Mapping[str, Sequence[float]] | None = None,
    groups: npt.NDArray[np.integer[Any]] | None = None,
) -> list[Answers]:
    """The answers of a model about N images, in the order of `attributes`.

    Args:
        attributes: A attributes, all answered by the model.
        probabilities: attribute -> (N, classes).
        calibration: of the model; None to keep every answer, however unsure.
        labels: int (N, A) in the order of `attributes`, -1 where unknown; None if none is known.
        decision: attribute -> offsets of its classes, if there is no calibration (`Features.decision`).
        groups: (N,), the same number for images that belong together; None if none do.
    """
    if calibration:
        decision = calibration.decision
    if labels is None:
        labels = np.full((len(probabilities[attributes[0].name]), len(attributes)), UNKNOWN)
    return [
        Answers(
            attribute,
            labels[:, column],
            probabilities[attribute.name],
            calibration.abstention[attribute.name] if calibration else 0.0,
            calibration.learned[attribute.name] if calibration else None,
            (decision or {}).get(attribute.name, ()),
            groups,
        )
        for column, attribute in enumerate(attributes)
    ]


def tellable(answers: Sequence[Answers]) -> list[npt.NDArray[np.bool_]]:
    """For each attribute (N,): where no other answer makes it unknown (`Attribute.unknown_when`)."""
    by_name = {answer.attribute.name: answer for answer in answers}
    found = []
    for answer in answers:
        told = np.ones(len(answer.labels), np.bool_)
        for name, untold in answer.attribute.unknown_when.items():
            if other := by_name.get(name):
                told &= other.predicted != other.attribute.classes.index(untold)
        found.append(told)
    return found


Right = npt.NDArray[np.float64]
"""(N, A): 1 where an answer is right, 0 where not, NaN where the label is unknown or the attribute never answered."""


def right_answers(answers: Sequence[Answers]) -> Right:
    """Which answers are right, (N, A) in the order of `answers`; an answer without a number is wrong."""
    unknown = [(answer.labels == UNKNOWN) | bool(answer.never) for answer in answers]
    return np.stack(
        [np.where(none, np.nan, answer.right) for answer, none in zip(answers, unknown, strict=True)], axis=1
    )
