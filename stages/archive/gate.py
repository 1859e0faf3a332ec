"""The release gate: the candidate meets the champion on the candidate's test images, which neither has learned from.

Which image belongs to the test split follows from what it shows, so a champion that was trained with the same `data`
parameters has never learned from any of these.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from stages.common.attributes import ATTRIBUTES, NAMES, UNKNOWN
from stages.common.statistics import holm

Right = npt.NDArray[np.float64]
"""(N, 5) in the order of `NAMES`: 1 where an answer is right, 0 where it is wrong, NaN where the label is unknown."""

RESAMPLES = 10_000
"""Of the bootstrap: the ends of a 95 % interval of .01 then vary by some .0002 from seed to seed."""
SEED = 2026


def right_answers(probabilities: Mapping[str, npt.NDArray[np.float32]], labels: npt.NDArray[np.int8]) -> Right:
    """Which answers are right.

    Args:
        probabilities: attribute -> (N, classes); where a model gives no finite ones, its answer is wrong.
        labels: (N, 5) class indices, -1 where unknown.
    """
    columns = []
    for column, name in enumerate(NAMES):
        finite = np.isfinite(probabilities[name]).all(axis=1)
        right = (np.nan_to_num(probabilities[name]).argmax(axis=1) == labels[:, column]) & finite
        columns.append(np.where(labels[:, column] == UNKNOWN, np.nan, right))
    return np.stack(columns, axis=1)


def mean_accuracy(right: Right) -> float:
    """Mean over the attributes that have labels of their accuracies; NaN without any label."""
    return float(_mean_accuracies(np.ones((1, len(right))), right)[0])


def _mean_accuracies(weights: npt.NDArray[np.float64], right: Right) -> npt.NDArray[np.float64]:
    """Mean accuracy under R weightings (R, N) of the images: (R,)."""
    known = np.isfinite(right)
    total = weights @ known
    with np.errstate(invalid="ignore"):
        accuracies = (weights @ np.nan_to_num(right)) / total
    counted = np.where(total > 0, accuracies, 0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        means: npt.NDArray[np.float64] = counted / (total > 0).sum(axis=1)
    return means


def paired_bootstrap(candidate: Right, champion: Right) -> tuple[float, float]:
    """95 % interval of the candidate's mean accuracy minus the champion's, on the same images.

    Percentile bootstrap over images (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13): both
    models are measured on the same resampled images, so what is hard for both cancels out.
    """
    differences = []
    for weights in _resamples(len(candidate)):
        differences.append(_mean_accuracies(weights, candidate) - _mean_accuracies(weights, champion))
    return _middle(np.concatenate(differences))


def interval(right: Right) -> tuple[float, float]:
    """95 % interval of a mean accuracy, by the same bootstrap."""
    return _middle(np.concatenate([_mean_accuracies(weights, right) for weights in _resamples(len(right))]))


def _resamples(count: int) -> Iterator[npt.NDArray[np.float64]]:
    """How often each of `count` images is drawn, for `RESAMPLES` draws with replacement: some (R, count) at a time."""
    generator = np.random.default_rng(SEED)
    at_once = max(1, min(500, 5_000_000 // count))  # 40 MB
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        yield generator.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)


def _middle(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def mcnemar(better: int, worse: int) -> float:
    """Probability of so many or more of the differing answers being worse by chance, one-sided and exact.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions": where two models
    differ, either is right equally often if they are equally good.
    """
    return float(binomtest(worse, better + worse, 0.5, alternative="greater").pvalue) if better + worse else 1.0


@dataclass(frozen=True)
class Comparison:
    """The candidate against the champion on N images.

    Attributes:
        champion: name of the champion's version.
        images: N.
        candidate_accuracy, champion_accuracy: means over the attributes.
        difference: the former minus the latter, and `interval` that holds it with 95 %.
        attributes: name -> labels, accuracies of both, answers in which the candidate is better and worse, and the
            probability of that by chance, adjusted for five attributes.
        notes: what makes it less than a fair comparison.
    """

    champion: str
    images: int
    candidate_accuracy: float
    champion_accuracy: float
    difference: float
    interval: tuple[float, float]
    attributes: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str] = ()


def compare(champion: str, candidate: Right, of_champion: Right, notes: Sequence[str] = ()) -> Comparison:
    """Compare answers to the same images; both (N, 5)."""
    figures: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(NAMES):
        known = np.isfinite(candidate[:, column])
        ours, theirs = candidate[known, column], of_champion[known, column]
        figures[name] = {
            "labels": int(known.sum()),
            "candidate": float(ours.mean()) if len(ours) else None,
            "champion": float(theirs.mean()) if len(ours) else None,
            "better": int((ours > theirs).sum()),
            "worse": int((ours < theirs).sum()),
        }
    chances = holm([mcnemar(one["better"], one["worse"]) for one in figures.values()]).tolist()
    for one, chance in zip(figures.values(), chances, strict=True):
        one["p"] = chance
    means = mean_accuracy(candidate), mean_accuracy(of_champion)
    bounds = paired_bootstrap(candidate, of_champion)
    return Comparison(champion, len(candidate), *means, means[0] - means[1], bounds, figures, notes)


@dataclass(frozen=True)
class Judgement:
    """What the gate says.

    Attributes:
        mean_accuracy: of the candidate on the test split, and `interval` that holds it with 95 %.
        fit: whether the candidate may become the champion.
        reasons: why, for people.
        comparison: None without a champion to compare with.
    """

    mean_accuracy: float
    interval: tuple[float, float]
    fit: bool
    reasons: Sequence[str]
    comparison: Comparison | None = None


def judge(
    mean: float,
    bounds: tuple[float, float],
    comparison: Comparison | None,
    min_accuracy: float,
    alpha: float,
    unfair: str = "",
) -> Judgement:
    """Decide whether a candidate may be released.

    Args:
        mean: its mean accuracy on the test split.
        bounds: the 95 % interval of that.
        comparison: with the champion; None if there is none, or if they cannot be compared.
        min_accuracy: the least mean accuracy.
        alpha: a candidate that is worse in an attribute with a lower probability by chance is refused.
        unfair: why they cannot be compared.
    """
    against, champion = [], comparison.champion if comparison else ""
    if not mean >= min_accuracy:  # also when it is NaN
        against.append(f"mean accuracy {mean:.4f} is below monitor.min_accuracy ({min_accuracy:g})")
    if unfair:
        against.append(unfair)
    titles = {attribute.name: attribute.title.lower() for attribute in ATTRIBUTES}
    for name, one in (comparison.attributes if comparison else {}).items():
        if one["p"] < alpha:
            against.append(
                f"worse than {champion} in {titles[name]}: {one['worse']} answers worse, {one['better']} better "
                f"(p {one['p']:.2g})"
            )
    reason = f"mean accuracy {mean:.4f}, and there is no champion to compare with"
    if comparison:
        low, high = comparison.interval
        difference = f"difference {comparison.difference:+.4f}, 95 % from {low:+.4f} to {high:+.4f}"
        reason = f"mean accuracy {mean:.4f}; not significantly worse than {champion} in any attribute ({difference})"
        if high < 0:  # a little worse in every attribute, significantly in none
            against.append(f"mean accuracy worse than that of {champion}: {difference}")
    if against:
        return Judgement(mean, bounds, False, against, comparison)
    return Judgement(mean, bounds, True, [reason], comparison)
