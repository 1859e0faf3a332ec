"""Estimate the share of right answers on images without labels from the model's confidences.

The estimate is the mean confidence, corrected by the gap between confidence and accuracy on the test split: the
difference of confidences (Guillory et al. 2021, "Predicting with Confidence on Unseen Distributions",
https://arxiv.org/abs/2107.03315) with a slope of 1. bench/README.md compares it with other estimates.

It holds for images like the test images. For other images it is too high, because a model is too sure of unknown
images, and the interval does not show that. So every report with this estimate also reports drift.

Stage `evaluate` writes the figures of the test split to `reference/confidences.json`, which belongs to the version;
stages `predict` and `monitor` read it there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.contract.artifacts import read_json, reading, write_json
from stages.common.inference.answers import Answers, right_answers, tellable
from stages.common.schema.statistics import Z, wilson

CONFIDENCES = "confidences.json"
MEAN = ""
"""Stands for the mean over all attributes; no attribute has this name."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trust:
    """The reliability of the confidences in one attribute, or of their mean over attributes.

    Attributes:
        labels: number of labels of the test split.
        surplus: accuracy less mean confidence.
        variance: of `surplus`.
        dispersion: variance of the share of right answers, divided by the variance that true and independent
            confidences would give; at least 1.
    """

    labels: int
    surplus: float
    variance: float
    dispersion: float


Trusts = Mapping[str, Trust]
"""Attribute, or `MEAN` -> its trust. Attributes without a label on the test split have none."""


@dataclass(frozen=True)
class Certainty:
    """Confidences of a model in its answers about N images; those of several lots can be added.

    Attributes:
        images: N.
        sums: attribute -> how many answers count, the sum of their confidences c, and that of c (1 - c). Where other
            answers say that an attribute cannot be told, nobody can label it, and the answer does not count.
    """

    images: int
    sums: Mapping[str, tuple[int, float, float]]

    def __add__(self, other: "Certainty") -> "Certainty":
        def added(ours: tuple[int, float, float], theirs: tuple[int, float, float]) -> tuple[int, float, float]:
            return ours[0] + theirs[0], ours[1] + theirs[1], ours[2] + theirs[2]

        sums = {name: added(ours, other.sums[name]) for name, ours in self.sums.items()}
        return Certainty(self.images + other.images, sums)


@dataclass(frozen=True)
class Expected:
    """Expected share of right answers, and an interval that should hold the true share with 95 %; all 0-1."""

    value: float
    low: float
    high: float


def _sure(answers: Sequence[Answers]) -> Values:
    """(N, A): confidence in each answer; 0 without an answer, which counts as wrong."""
    return np.stack([np.where(answer.finite, answer.confidence, 0) for answer in answers], axis=1).astype(np.float64)


def trust(answers: Sequence[Answers]) -> dict[str, Trust]:
    """Reliability of confidences, by answers whose labels were not used in training or calibration.

    Images that belong together (`Answers.groups`) vary together.
    """
    right, sure = right_answers(answers), _sure(answers)
    counts = np.isfinite(right).sum(axis=0)
    told = np.flatnonzero(counts)
    right, sure, counts = right[:, told], sure[:, told], counts[told]
    off = right - sure
    surplus = np.nanmean(off, axis=0) if len(told) else np.empty(0)
    parts = np.nan_to_num(off - surplus) / counts  # of each image in the error of `surplus`
    calibrated = np.where(np.isfinite(right), sure * (1 - sure), 0).sum(axis=0) / counts**2
    groups = answers[0].groups if answers[0].groups is not None else np.arange(len(right))

    def trust_of(labels: int, by: float, of_images: Values, least: float) -> Trust:
        varied = float(np.square(np.bincount(groups, of_images)).sum())
        return Trust(labels, by, max(varied, least), max(1.0, varied / least) if least else 1.0)

    found = {
        answers[at].attribute.name: trust_of(int(counts[n]), float(surplus[n]), parts[:, n], float(calibrated[n]))
        for n, at in enumerate(told.tolist())
    }
    if len(told):
        least = float(calibrated.sum()) / len(told) ** 2
        found[MEAN] = trust_of(int(counts.sum()), float(surplus.mean()), parts.mean(axis=1), least)
    return found


def write_trust(reference: Path, answers: Sequence[Answers]) -> None:
    """Write `trust` into the folder `reference` of a version."""
    write_json(reference / CONFIDENCES, {name: asdict(known) for name, known in trust(answers).items()})


def read_trust(reference: Path) -> Trusts:
    """The values that `write_trust` has written; nothing if earlier code has registered the version.

    Raises:
        DataError: the file cannot be read.
    """
    path = reference / CONFIDENCES
    if not path.exists():
        return {}
    with reading(path, "evaluate"):
        return {name: Trust(**known) for name, known in read_json(path, "evaluate").items()}


def certainty(answers: Sequence[Answers], chosen: npt.NDArray[np.bool_]) -> Certainty:
    """Confidences of a model in its answers about the chosen ones of N images, (N,)."""
    sums = {}
    for answer, sure, told in zip(answers, _sure(answers).T, tellable(answers), strict=True):
        counted = sure[chosen & told]
        sums[answer.attribute.name] = len(counted), float(counted.sum()), float((counted * (1 - counted)).sum())
    return Certainty(int(chosen.sum()), sums)


def expect(of: Certainty, trusts: Trusts) -> dict[str, Expected]:
    """Expected share of right answers about images.

    The interval covers two kinds of chance: that of the number of images, and that of the test labels behind the gap
    between confidence and accuracy. Its lower end is Wilson's, for the number of labels that would vary as much as both
    together. Its upper end is that of the normal distribution: all of few answers may be right, which Wilson's interval
    excludes.

    Returns:
        Attribute, or `MEAN` -> the share. Left out are attributes without an image, attributes that the model never
        answers, and those without a test label; the mean is over the others.
    """
    counted = {name: sums for name, sums in of.sums.items() if name in trusts and sums[0]}
    share = {name: sure / count for name, (count, sure, _) in counted.items()}
    spread = {name: varied / count**2 for name, (count, _, varied) in counted.items()}
    if counted:
        share[MEAN] = sum(share.values()) / len(counted)
        spread[MEAN] = sum(spread.values()) / len(counted) ** 2
    found = {}
    for name, value in share.items():
        known = trusts[name]
        mean = min(1.0, max(0.0, value + known.surplus))
        variance = known.variance + known.dispersion * spread[name]
        alone = 1 / (1 / of.images + 1 / known.labels)  # for no variance, where no answer is expected to be wrong
        number = max(1.0, mean * (1 - mean) / variance) if 0 < mean < 1 and variance else alone
        low, _ = wilson(mean, number)
        found[name] = Expected(mean, low, min(1.0, mean + Z * sqrt(max(0.0, variance))))
    return found


def figures(expected: Mapping[str, Expected]) -> dict[str, Any] | None:
    """The same for JSON: `mean`, and `attributes` by name; None if there is no estimate."""
    if MEAN not in expected:
        return None
    of_attributes = {name: asdict(figures) for name, figures in expected.items() if name != MEAN}
    return {"mean": asdict(expected[MEAN]), "attributes": of_attributes}
