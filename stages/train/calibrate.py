"""Temperatures and thresholds of a fitted network, chosen on the validation split."""

from dataclasses import dataclass

from stages.common.inference.answers import Answers
from stages.common.inference.calibration import (
    Abstention,
    Calibration,
    choose_abstention,
    expected_calibration_error,
    fit_temperature,
    softmax,
)
from stages.common.schema.attributes import UNKNOWN
from stages.common.schema.dataset import Split
from stages.common.schema.learned import Learned, answerable, is_answered, learnable, masks
from stages.common.training.device import choose_device
from stages.common.training.network import Network, outputs_of


@dataclass(frozen=True)
class Calibrated:
    """What calibration found for one attribute, on the labels that it was fitted to.

    Attributes:
        attribute: its name.
        labels: how many are known, 0 of one that is never answered.
        temperature: what its logits are divided by.
        ece_before: expected calibration error at temperature 1, None without labels.
        ece: likewise at the temperature.
        abstention: from which confidence on it is answered.
    """

    attribute: str
    labels: int
    temperature: float
    ece_before: float | None
    ece: float | None
    abstention: Abstention


def calibrate(network: Network, val: Split, learned: Learned, device: str, wanted: float) -> list[Calibrated]:
    """Fit temperatures and thresholds, attribute by attribute.

    Args:
        network: on the CPU, in evaluation mode.
        val: images that it has not learned from. Labels of classes that it has never seen count as wrong answers, and
            tell no temperature.
        learned: what it has seen.
        device: auto, cpu or cuda.
        wanted: accuracy of the answers that are given, 0-1.
    """
    found = []
    outputs = outputs_of(network, val, choose_device(device))  # in float32, as the exported model computes
    network.cpu()
    attributes = val.attributes
    compared, can_be_right = (of(attributes, val.labels, learned) for of in (answerable, learnable))
    for column, (attribute, raw, mask) in enumerate(zip(attributes, outputs, masks(attributes, learned), strict=True)):
        known = compared[:, column] != UNKNOWN
        logits, labels = (raw + mask)[known], compared[known, column]
        temperature = fit_temperature(logits, can_be_right[known, column])
        before, after = (Answers(attribute, labels, softmax(logits / divisor)) for divisor in (1, temperature))
        found.append(
            Calibrated(
                attribute.name,
                int(known.sum()),
                temperature,
                expected_calibration_error(before.confidence, before.right),
                expected_calibration_error(after.confidence, after.right),
                choose_abstention(after.confidence, after.right, wanted)
                if is_answered(learned[attribute.name])
                else Abstention(0.0, None, None),
            )
        )
    return found


def as_calibration(found: list[Calibrated], learned: Learned) -> Calibration:
    """What the model carries of it."""
    return Calibration(
        temperatures={one.attribute: one.temperature for one in found},
        abstention={one.attribute: one.abstention.threshold for one in found},
        learned={name: list(classes) for name, classes in learned.items()},
    )
