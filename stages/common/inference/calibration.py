"""Calibration: temperatures, the calibration error, and the thresholds below which the model abstains.

Stage `train` fits them on the validation split and writes them into the model; stage `evaluate` measures them on the
test split. Nothing here needs PyTorch, which the image of `evaluate` does not have.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stages.common.contract.params import Section
from stages.common.schema.attributes import UNKNOWN

TEMPERATURES = np.exp(np.linspace(-np.log(10), np.log(10), 461))
"""Temperatures that are tried: 0.1 to 10 in steps of 1 %, finer than any data set can determine them."""
PRIOR = 0.25
"""Prior standard deviation of the logarithm of a temperature: 2 in 3 lie within 0.78 to 1.28.

Without this prior, 49 labels of nearly perfect heads do harm: cross-entropy on 49 others rises from .021 to .081
(bench/README.md).
"""
BINS = 15
"""Bins of the calibration error, as in Guo et al."""
MIN_ANSWERS = 30
"""Least number of known labels for an accuracy: with fewer, the threshold is 0; no threshold leaves fewer answers."""

Labels = npt.NDArray[np.integer[Any]]
Numbers = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
Confidence = Annotated[float, Field(ge=0, le=1)]
Threshold = float | list[float]
"""The lowest confidence of an answer: one for all classes, or one for each."""


class Calibration(Section):
    """Values by which a model turns logits into answers, as in its metadata.

    Attributes:
        temperatures: attribute -> divisor of its logits before the softmax; the model contains this step.
        abstention: attribute -> the lowest confidence (0-1) with which an answer is given; below, the model abstains.
            One for all classes, or one for each where they differ.
        learned: attribute -> the classes that training has seen (`stages.common.schema.learned`).
        decision: attribute -> offset of each class, added to the logarithm of its probability; the class with the
            highest sum is the answer (`stages.common.inference.decision`). All 0: the most probable class.
        decided_by: attribute -> the goal of these offsets, in words.
    """

    temperatures: dict[str, Annotated[float, Field(gt=0)]]
    abstention: dict[str, Confidence | list[Confidence]]
    learned: dict[str, list[str]]
    decision: dict[str, list[float]]
    decided_by: dict[str, str]


def softmax(logits: Numbers) -> npt.NDArray[np.float64]:
    """Probabilities (N, classes) of logits (N, classes)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def fit_temperature(logits: Numbers, labels: Labels) -> float:
    """The temperature that makes the confidences of one attribute true.

    Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599):
    the logits are divided by one number, which changes no answer. That number minimises the cross-entropy of labels
    that were not used in training. Without a prior, the temperature of a head that is always right would go towards 0.
    So there is a normal prior on its logarithm around 1 (`PRIOR`): hundreds of labels outvote it, a handful does not.

    Args:
        logits: float (N, classes), as the network gives them.
        labels: int (N,), -1 where unknown.

    Returns:
        0.1 to 10; 1 if no label is known.
    """
    known = labels != UNKNOWN
    values = logits[known].astype(np.float64)
    of_label = values[np.arange(len(values)), labels[known]]
    costs = [
        (_log_sum_exp(values / temperature) - of_label / temperature).sum() + (np.log(temperature) / PRIOR) ** 2 / 2
        for temperature in TEMPERATURES
    ]
    return round(float(TEMPERATURES[int(np.argmin(costs))]), 4)


def cross_entropy(logits: Numbers, labels: Labels, temperature: float = 1.0) -> float:
    """Cross-entropy of one attribute in nats, averaged over its known labels (at least one).

    Args:
        logits: float (N, classes).
        labels: int (N,), -1 where unknown.
        temperature: divisor of the logits.
    """
    known = labels != UNKNOWN
    values = logits[known].astype(np.float64) / temperature
    return float((_log_sum_exp(values) - values[np.arange(len(values)), labels[known]]).mean())


def _log_sum_exp(values: Numbers) -> Numbers:
    highest = values.max(axis=1, keepdims=True)
    total: Numbers = np.log(np.exp(values - highest).sum(axis=1)) + highest[:, 0]
    return total


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies in one of the equal parts of 0 to 1.

    Attributes:
        count: number of answers, at least 1.
        confidence: their mean confidence.
        accuracy: share of right answers.
    """

    count: int
    confidence: float
    accuracy: float


def reliability(confidence: Numbers, right: Flags, bins: int = BINS) -> list[Bin]:
    """Confidence against accuracy, in `bins` equal parts of 0 to 1; parts without answers are left out.

    Args:
        confidence: (N,) probability of the predicted class.
        right: (N,) whether that class is the label.
        bins: number of parts.
    """
    part = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # ((m - 1) / bins, m / bins], as in Guo
    chosen = [part == number for number in np.unique(part)]
    return [Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean())) for inside in chosen]


def expected_calibration_error(confidence: Numbers, right: Flags, bins: int = BINS) -> float | None:
    """Expected calibration error, 0 to 1: |confidence - accuracy| per bin, averaged over the answers.

    Naeini, Cooper and Hauskrecht 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning",
    https://doi.org/10.1609/aaai.v29i1.9602, with the equal bins of Guo et al. 2017. Chance alone makes it positive:
    with 100 labels a perfectly calibrated model that is right in 9 of 10 cases has some 0.04.

    Returns:
        None if there is no answer.
    """
    found = reliability(confidence, right, bins)
    total = sum(part.count for part in found)
    return sum(part.count * abs(part.confidence - part.accuracy) for part in found) / total if total else None


@dataclass(frozen=True)
class Abstention:
    """Threshold of an attribute, and its effect on the labels with which it was chosen.

    Attributes:
        threshold: lowest confidence of an answer; 0 always answers; one for each class where they differ.
        coverage: share of answers that are given, None without labels.
        accuracy: share of right answers among those, None without labels.
        note: reason why the wanted accuracy is not reached, empty if it is.
    """

    threshold: Threshold
    coverage: float | None
    accuracy: float | None
    note: str = ""


def choose_abstention(confidence: Numbers, right: Flags, wanted: float) -> Abstention:
    """The lowest threshold whose answers are as accurate as wanted.

    Selective classification by the probability of the answer (Geifman and El-Yaniv 2017, "Selective Classification for
    Deep Neural Networks", https://arxiv.org/abs/1705.08500). Their bound, which holds for new images with a chosen
    certainty, would need 300 labels without an error to promise .99. So the accuracy here is that of the given labels,
    and `evaluate` measures it on others.

    Args:
        confidence: (N,) of answers whose label is known.
        right: (N,) whether they are.
        wanted: share of right answers, 0-1; 0 never abstains.

    Returns:
        If no threshold that leaves `MIN_ANSWERS` answers is good enough, the threshold with the most accurate answers;
        with fewer labels, 0. `note` says so.
    """
    count = len(confidence)
    if count < MIN_ANSWERS:
        mean = float(right.mean()) if count else None
        note = f"{count} known labels, {MIN_ANSWERS} are needed to choose a threshold: it always answers"
        return Abstention(0.0, 1.0 if count else None, mean, note)
    order = np.argsort(-confidence, kind="stable")
    given = np.arange(1, count + 1)
    accuracy = np.cumsum(right[order]) / given
    ends = np.append(np.diff(confidence[order]) < 0, True)  # equal confidences are answered together or not at all
    allowed = np.flatnonzero(ends & (given >= MIN_ANSWERS))
    good = allowed[accuracy[allowed] >= wanted]
    if len(good):
        last, note = int(good[-1]), ""
    else:
        last = int(allowed[accuracy[allowed] == accuracy[allowed].max()][-1])
        note = f"answers reach an accuracy of {accuracy[last]:.4f} at best, not {wanted:g}"
    threshold = 0.0 if last == count - 1 else float(confidence[order[last]])
    return Abstention(threshold, float(given[last] / count), float(accuracy[last]), note)


def choose_abstentions(
    confidence: Numbers, predicted: Labels, right: Flags, wanted: float, classes: Flags
) -> Abstention:
    """The same for every class: a fifth of the answers of a rare class could be wrong without much effect on the mean.

    A class has the common threshold, or a higher one if the common threshold misses the wanted accuracy in this class
    by more than a standard error. The accuracy of a class is estimated from the answers seen and `MIN_ANSWERS` more,
    which are right as often as the confidences say. In a class with 3 % of 750 labels, the answers seen alone would
    promise .97 and reach .87 (simulated; this way .98). For a class that was never answered, the confidence itself must
    reach the wanted accuracy.

    Args:
        confidence: (N,) of answers whose label is known.
        predicted: (N,) their classes.
        right: (N,) whether they are.
        wanted: share of right answers, 0-1; 0 never abstains.
        classes: (C,) which can be answered.

    Returns:
        As `choose_abstention`, with a threshold for each class where they differ. If even the common threshold misses
        the wanted accuracy, and the note says so, no class gets a higher one.
    """
    whole = choose_abstention(confidence, right, wanted)
    if not wanted or whole.note:
        return whole
    least = float(np.max(whole.threshold))
    thresholds = np.full(len(classes), least)
    for number in np.flatnonzero(classes):
        mine = (predicted == number) & (confidence >= least)
        thresholds[number] = _lowest(confidence[mine], right[mine], wanted, least)
    if (thresholds == least).all():
        return whole
    given = confidence >= thresholds[predicted]
    accuracy = float(right[given].mean()) if given.any() else None
    return Abstention([float(threshold) for threshold in thresholds], float(given.mean()), accuracy, whole.note)


def _lowest(confidence: Numbers, right: Flags, wanted: float, least: float) -> float:
    """Threshold from which on the answers of one class, all with at least `least`, are as accurate as wanted."""
    if not len(confidence):
        return max(least, wanted)
    order = np.argsort(-confidence, kind="stable")
    given = np.arange(1, len(order) + 1)
    thought = np.cumsum(confidence[order]) / given * MIN_ANSWERS
    accuracy = (np.cumsum(right[order]) + thought) / (given + MIN_ANSWERS)
    ends = np.append(np.diff(confidence[order]) < 0, True)
    if accuracy[-1] >= wanted - np.sqrt(wanted * (1 - wanted) / (given[-1] + MIN_ANSWERS)):
        return least
    good = np.flatnonzero(ends & (accuracy >= wanted))
    if len(good):
        return float(confidence[order[good[-1]]])
    return max(wanted, float(confidence[order[0]]))
