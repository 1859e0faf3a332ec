"""Temperatures, decisions and thresholds of a fitted network, chosen on the validation split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.inference.answers import Answers
from stages.common.inference.calibration import (
    Abstention,
    Calibration,
    choose_abstentions,
    expected_calibration_error,
    fit_temperature,
    softmax,
)
from stages.common.inference.measures import measure
from stages.common.schema.attributes import UNKNOWN
from stages.common.schema.dataset import Split
from stages.common.schema.learned import Learned, answerable, is_answered, learnable, masks
from stages.common.training.device import choose_device
from stages.common.training.network import Network, Outputs, outputs_of
from stages.train.decide import Decision, decide
from stages.train.params import TrainSection


@dataclass(frozen=True)
class Calibrated:
    """Calibration of one attribute, and its measures on the same labels.

    Attributes:
        attribute: its name.
        labels: number of known labels, 0 if it is never answered.
        temperature: divisor of its logits.
        ece_before: expected calibration error at temperature 1, None without labels.
        ece: the same at the temperature.
        decision: its decision rule.
        abstention: its threshold.
        measures: measures of its answers.
    """

    attribute: str
    labels: int
    temperature: float
    ece_before: float | None
    ece: float | None
    decision: Decision
    abstention: Abstention
    measures: dict[str, Any]


def calibrate(
    network: Network,
    val: Split,
    learned: Learned,
    shares: Sequence[npt.NDArray[np.floating[Any]]],
    section: TrainSection,
) -> list[Calibrated]:
    """Fit temperatures, decisions and thresholds, attribute by attribute.

    Args:
        network: on the CPU, in evaluation mode.
        val: the validation split. Labels of unseen classes count as wrong answers, and are not used for temperatures.
        learned: the classes that training has seen.
        shares: of the classes of each attribute, among the training labels.
        section: goals of the decision rules, and whether mirror images are used as well.
    """
    found = []
    looking = Outputs(network, learned, mirrored=section.mirrored_answers).eval()
    *outputs, _ = outputs_of(looking, val, choose_device(section.device))  # in float32, as the exported model computes
    network.cpu()
    attributes = val.attributes
    compared, can_be_right = (of(attributes, val.labels, learned) for of in (answerable, learnable))
    for column, (attribute, raw, mask) in enumerate(zip(attributes, outputs, masks(attributes, learned), strict=True)):
        known = compared[:, column] != UNKNOWN
        logits, labels = raw[known], compared[known, column]
        temperature = fit_temperature(logits, can_be_right[known, column])
        before, after = (
            Answers(
                attribute, labels, softmax(logits / divisor), learned=learned[attribute.name], groups=val.group[known]
            )
            for divisor in (1, temperature)
        )
        decision = decide(after, section.decide_by, section.wanted.get(attribute.name), shares[column])
        answers = replace(after, decision=decision.offsets)
        found.append(
            Calibrated(
                attribute.name,
                int(known.sum()),
                temperature,
                expected_calibration_error(before.confidence, before.right),
                expected_calibration_error(after.confidence, after.right),
                decision,
                choose_abstentions(
                    answers.confidence, answers.predicted, answers.right, section.answer_accuracy, mask == 0
                )
                if is_answered(learned[attribute.name])
                else Abstention(0.0, None, None),
                measure(answers),
            )
        )
    return found


def as_calibration(found: list[Calibrated], learned: Learned) -> Calibration:
    """The part for the model's metadata."""
    return Calibration(
        temperatures={entry.attribute: entry.temperature for entry in found},
        abstention={entry.attribute: entry.abstention.threshold for entry in found},
        learned={name: list(classes) for name, classes in learned.items()},
        decision={entry.attribute: entry.decision.offsets for entry in found},
        decided_by={
            entry.attribute: entry.decision.by + (" (not reached)" if entry.decision.note else "") for entry in found
        },
    )
