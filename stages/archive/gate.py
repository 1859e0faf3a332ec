"""The release gate: the candidate meets the champion on the candidate's test images, which neither has learned from.

Which image belongs to the test split follows from what it shows, so a champion that was trained with the same `data`
parameters has never learned from any of these.

"Not significantly worse" alone would let the champion sink step by step: with 200 test images nobody sees the .002 that
each of 40 releases loses (bench/README.md). So the candidate also meets the best version, and may lie below it by a
margin and no more. The best version is the first one released, until a released one is significantly better on the same
images: a best that the next lucky candidate could replace would sink with the champion.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from stages.common.inference.answers import Right
from stages.common.schema.attributes import Attributes
from stages.common.schema.statistics import holm

RESAMPLES = 10_000
"""Of the bootstrap: the ends of a 95 % interval of .01 then vary by some .0002 from seed to seed."""
SEED = 2026


def mean_accuracy(right: Right) -> float:
    """Mean over the attributes that have labels and answers of their accuracies; NaN without any."""
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
    """How often two equally good models would differ at least so much to the candidate's disadvantage (exact).

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions": where two models
    differ, either is right equally often if they are equally good. This is no probability that they are.
    """
    return float(binomtest(worse, better + worse, 0.5, alternative="greater").pvalue) if better + worse else 1.0


@dataclass(frozen=True)
class Comparison:
    """The candidate against a released version on N images, in the attributes that both answer.

    Attributes:
        version: its name.
        images: N.
        candidate_accuracy, version_accuracy: means over the attributes.
        difference: the former minus the latter, and `interval` that holds it with 95 %.
        attributes: name -> title, labels, accuracies of both, answers in which the candidate is better and worse, and
            `p`: how often equally good models would differ at least so much to the candidate's disadvantage, adjusted
            for all attributes.
        notes: what makes it less than a fair comparison.
    """

    version: str
    images: int
    candidate_accuracy: float
    version_accuracy: float
    difference: float
    interval: tuple[float, float]
    attributes: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str] = ()

    @property
    def text(self) -> str:
        """The difference, for people."""
        return f"{self.difference:+.4f}, 95 % from {self.interval[0]:+.4f} to {self.interval[1]:+.4f}"

    @property
    def better(self) -> bool:
        """Whether the candidate is better by more than chance explains."""
        return self.interval[0] > 0


def compare(
    attributes: Attributes, version: str, candidate: Right, of_version: Right, notes: Sequence[str] = ()
) -> Comparison:
    """Compare answers to the same images, both (N, A); what one of both does not answer counts for neither."""
    known = np.isfinite(candidate) & np.isfinite(of_version)
    ours, theirs = (np.where(known, right, np.nan) for right in (candidate, of_version))
    figures: dict[str, dict[str, Any]] = {}
    for column, attribute in enumerate(attributes):
        one, other = (right[known[:, column], column] for right in (ours, theirs))
        figures[attribute.name] = {
            "title": attribute.title,
            "labels": len(one),
            "candidate": float(one.mean()) if len(one) else None,
            "version": float(other.mean()) if len(one) else None,
            "better": int((one > other).sum()),
            "worse": int((one < other).sum()),
        }
    adjusted = holm([mcnemar(one["better"], one["worse"]) for one in figures.values()]).tolist()
    for figure, p in zip(figures.values(), adjusted, strict=True):
        figure["p"] = p
    means = mean_accuracy(ours), mean_accuracy(theirs)
    bounds = paired_bootstrap(ours, theirs)
    return Comparison(version, len(ours), *means, means[0] - means[1], bounds, figures, notes)


@dataclass(frozen=True)
class Judgement:
    """What the gate says.

    Attributes:
        mean_accuracy: of the candidate on the test split, and `interval` that holds it with 95 %.
        fit: whether the candidate may become the champion.
        reasons: why, for people.
        champion, best: comparisons with the champion and with the best version; None where there is none, where it
            cannot be compared, or for the best version if that is the champion.
        champion_to_best: the champion in place of the candidate against the best version, on the same images.
    """

    mean_accuracy: float
    interval: tuple[float, float]
    fit: bool
    reasons: Sequence[str]
    champion: Comparison | None = None
    best: Comparison | None = None
    champion_to_best: Comparison | None = None


def judge(found: Judgement, min_accuracy: float, alpha: float, margin: float, refused: Sequence[str] = ()) -> Judgement:
    """Decide whether a candidate may be released.

    Args:
        found: what was measured; `fit` and `reasons` are made here.
        min_accuracy: the least mean accuracy.
        alpha: a candidate is refused that is worse than the champion in an attribute by so much that equally good
            models would differ so less often than this.
        margin: a candidate is refused whose mean accuracy is lower than the best version's by more; likewise in an
            attribute, if it is significantly worse there.
        refused: further reasons to refuse it.
    """
    mean, champion = found.mean_accuracy, found.champion
    against = list(refused)
    if not mean >= min_accuracy:  # also when it is NaN
        against.append(f"mean accuracy {mean:.4f} is below monitor.min_accuracy ({min_accuracy:g})")
    if champion:
        against += _worse(champion, alpha, 0)
        if champion.interval[1] < 0:  # a little worse in every attribute, significantly in none
            against.append(f"mean accuracy worse than that of {champion.version}: difference {champion.text}")
    if best := found.best or champion:
        if found.best:
            against += [why for why in _worse(best, alpha, margin) if why not in against]
        if best.difference < -margin:
            against.append(
                f"mean accuracy lower than that of {best.version}, the best version so far, by more than "
                f"archive.margin ({margin:g}): difference {best.text}"
            )
    reason = f"mean accuracy {mean:.4f}, and there is no champion to compare with"
    if champion:
        reason = (
            f"mean accuracy {mean:.4f}; not significantly worse than {champion.version} in any attribute (difference "
            f"{champion.text})"
        )
    if found.best:
        reason += f"; {found.best.difference:+.4f} from {found.best.version}, the best version so far"
    return replace(found, fit=not against, reasons=against or [reason])


def _worse(comparison: Comparison, alpha: float, margin: float) -> list[str]:
    """In which attributes the candidate is significantly worse, and by more than `margin`."""
    return [
        f"worse than {comparison.version} in {one['title'].lower()}: {one['worse']} answers worse, {one['better']} "
        f"better (p {one['p']:.2g})"
        for one in comparison.attributes.values()
        if one["p"] < alpha and one["candidate"] - one["version"] < -margin
    ]
