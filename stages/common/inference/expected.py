"""Estimate the share of right answers on images without labels from the model's confidences.

The mean confidence, corrected by how far confidence and accuracy lie apart on the test split: the difference of
confidences (Guillory et al. 2021, "Predicting with Confidence on Unseen Distributions",
https://arxiv.org/abs/2107.03315) with a slope of 1. What was compared with it, and how wrong each is, stands in
bench/README.md.

It holds for images like those that the model was measured on. Of others it is too high, for a model is too sure of what
it does not know; the interval does not tell that. So whoever shows it says whether the images have drifted.

Stage `evaluate` keeps what the test split tells in `reference/confidences.json`, which goes with the version; stages
`predict` and `monitor` read it there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.contract.artifacts import reading
from stages.common.inference.answers import Answers, right_answers, tellable
from stages.common.schema.statistics import Z, wilson

CONFIDENCES = "confidences.json"
MEAN = ""
"""In place of an attribute: the mean over all. No attribute is called so."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trust:
    """The reliability of the confidences in one attribute, or of their mean over attributes.

    Attributes:
        labels: how many of the test split tell it.
        surplus: accuracy less mean confidence.
        variance: of `surplus`.
        dispersion: how many times as much the share of right answers varies as confidences say that are true and of
            which each tells of itself alone; at least 1.
    """

    labels: int
    surplus: float
    variance: float
    dispersion: float


Trusts = Mapping[str, Trust]
"""Attribute, or `MEAN` -> how far. Attributes without a label on the test split have none."""


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
    """A share of right answers that is expected, and an interval that should hold the true one with 95 %; all 0-1."""

    value: float
    low: float
    high: float


def _sure(answers: Sequence[Answers]) -> Values:
    """(N, A): confidence in each answer, 0 where there is none, which counts as wrong."""
    return np.stack([np.where(answer.finite, answer.confidence, 0) for answer in answers], axis=1).astype(np.float64)


def trust(answers: Sequence[Answers]) -> dict[str, Trust]:
    """How far confidences can be believed, by answers whose labels nobody has learned from or calibrated with.

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

    def one(labels: int, by: float, of_images: Values, least: float) -> Trust:
        varied = float(np.square(np.bincount(groups, of_images)).sum())
        return Trust(labels, by, max(varied, least), max(1.0, varied / least) if least else 1.0)

    found = {
        answers[at].attribute.name: one(int(counts[n]), float(surplus[n]), parts[:, n], float(calibrated[n]))
        for n, at in enumerate(told.tolist())
    }
    if len(told):
        least = float(calibrated.sum()) / len(told) ** 2
        found[MEAN] = one(int(counts.sum()), float(surplus.mean()), parts.mean(axis=1), least)
    return found


def write_trust(reference: Path, answers: Sequence[Answers]) -> None:
    """Keep `trust` in the folder `reference` of a version."""
    text = json.dumps({name: asdict(known) for name, known in trust(answers).items()}, indent=2)
    (reference / CONFIDENCES).write_text(text + "\n", encoding="utf-8")


def read_trust(reference: Path) -> Trusts:
    """The values that `write_trust` has written; nothing if earlier code has registered the version.

    Raises:
        DataError: the file cannot be read.
    """
    path = reference / CONFIDENCES
    if not path.exists():
        return {}
    with reading(path, "evaluate"):
        return {name: Trust(**known) for name, known in json.loads(path.read_text(encoding="utf-8")).items()}


def certainty(answers: Sequence[Answers], chosen: npt.NDArray[np.bool_]) -> Certainty:
    """How sure a model is of its answers about those of N images that are chosen, (N,)."""
    sums = {}
    for answer, sure, told in zip(answers, _sure(answers).T, tellable(answers), strict=True):
        counted = sure[chosen & told]
        sums[answer.attribute.name] = len(counted), float(counted.sum()), float((counted * (1 - counted)).sum())
    return Certainty(int(chosen.sum()), sums)


def expect(of: Certainty, trusts: Trusts) -> dict[str, Expected]:
    """The expected share of right answers about images.

    The interval has two parts: what chance makes of so many images, and of the labels that tell the difference between
    confidence and accuracy. Downward it is Wilson's, for as many labels as would vary as much as both together; upward
    that of the normal distribution, for of few answers all may be right, which Wilson's never says.

    Returns:
        Attribute, or `MEAN` -> the share. Nothing without an image, and of attributes that the model never answers or
        whose confidences no label has tested; the mean is over the others.
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
        alone = 1 / (
            1 / of.images + 1 / known.labels
        )  # where no answer is expected to be wrong, which varies in nothing
        number = max(1.0, mean * (1 - mean) / variance) if 0 < mean < 1 and variance else alone
        low, _ = wilson(mean, number)
        found[name] = Expected(mean, low, min(1.0, mean + Z * sqrt(max(0.0, variance))))
    return found


def figures(expected: Mapping[str, Expected]) -> dict[str, Any] | None:
    """The same in JSON's terms: `mean`, and `attributes` by name; None if nothing can be expected."""
    if MEAN not in expected:
        return None
    of_attributes = {name: asdict(figures) for name, figures in expected.items() if name != MEAN}
    return {"mean": asdict(expected[MEAN]), "attributes": of_attributes}
