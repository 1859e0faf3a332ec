"""The release gate: the candidate meets the champion on the candidate's test images, which neither has learned from.

Which image belongs to the test split follows from what it shows, so a champion that was trained with the same `data`
parameters has never learned from any of these.

Both are compared by `evaluate.metric`, and by nothing that was written down when the champion was released: by whatever
metric that was, its answers to the same images tell.

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
from stages.common.inference.measures import METRICS, Cells, Metric, cells_of, in_words
from stages.common.schema.attributes import Attributes
from stages.common.schema.statistics import holm

RESAMPLES = 10_000
"""Of the bootstrap: the ends of a 95 % interval of .01 then vary by some .0002 from seed to seed."""
SEED = 2026

Labels = npt.NDArray[np.integer[Any]]
"""(N, A) class indices, -1 where unknown."""


def paired_bootstrap(candidate: Cells, champion: Cells) -> tuple[float, float]:
    """95 % interval of the candidate's mean minus the champion's, on the same images and in the same cells.

    Percentile bootstrap over images (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13): both
    models are measured on the same resampled images, so what is hard for both cancels out, and answers to one image
    stay together. Of balanced accuracy each class is averaged by itself, so how often it was drawn cancels out, too.
    """
    differences = [candidate.means(weights) - champion.means(weights) for weights in _resamples(len(candidate.right))]
    return _middle(np.concatenate(differences))


def interval(cells: Cells) -> tuple[float, float]:
    """95 % interval of a mean, by the same bootstrap."""
    return _middle(np.concatenate([cells.means(weights) for weights in _resamples(len(cells.right))]))


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


def mcnemar_by_class(better: Sequence[int], worse: Sequence[int], labels: Sequence[int]) -> float:
    """The same where each class counts as much as any other, however few labels it has.

    McNemar's test is the paired permutation test of the difference in accuracy: under equally good models, each answer
    in which they differ is to the advantage of either with probability 1/2 (Good 2005, "Permutation, Parametric and
    Bootstrap Tests of Hypotheses"). Here the difference is that of the mean recalls, so an answer weighs 1 / labels of
    its class, and classes are permuted apart (stratified). Of `RESAMPLES` draws the observed one is one more (Phipson
    and Smyth 2010, https://doi.org/10.2202/1544-6115.1585). A stratified bootstrap is too sure where a class has a
    handful of labels: three answers lost of seven never come back in 2 % of its draws, while by chance alone all three
    of three are lost in 12 % (bench/README.md compares both).

    Args:
        better: per class, answers that only the candidate has right.
        worse: likewise the other model.
        labels: per class, at least 1.
    """
    won, lost, weights = np.array(better), np.array(worse), 1 / np.array(labels)
    draws = np.random.default_rng(SEED).binomial(won + lost, 0.5, size=(RESAMPLES, len(labels)))
    differences = (2 * draws - won - lost) @ weights
    as_bad = differences <= (won - lost) @ weights + 1e-12  # of rounding
    return float((1 + as_bad.sum()) / (1 + RESAMPLES))


@dataclass(frozen=True)
class Comparison:
    """The candidate against a released version on N images, in the attributes that both answer.

    Attributes:
        version: its name.
        images: N.
        metric: what is compared.
        candidate, of_version: metric -> mean over the attributes; None where no attribute has it.
        difference: the former minus the latter by `metric`, and `interval` that holds it with 95 %.
        attributes: name -> title, labels, candidate and version (metric -> figure), answers in which the candidate is
            better and worse, and `p`: how often equally good models would differ at least so much to the candidate's
            disadvantage, adjusted for all attributes.
        notes: what makes it less than a fair comparison.
    """

    version: str
    images: int
    metric: Metric
    candidate: Mapping[str, float | None]
    of_version: Mapping[str, float | None]
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


def means_by_metric(right: Right, labels: Labels) -> dict[str, float | None]:
    """Metric -> its mean over the attributes; None where no attribute has it."""
    means = {metric: cells_of(right, labels, metric).mean for metric in METRICS}
    return {metric: None if np.isnan(mean) else mean for metric, mean in means.items()}


def compare(
    attributes: Attributes,
    metric: Metric,
    labels: Labels,
    version: str,
    candidate: Right,
    of_version: Right,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare answers to the same images, both (N, A); what one of both does not answer counts for neither."""
    known = np.isfinite(candidate) & np.isfinite(of_version)
    ours, theirs = (np.where(known, right, np.nan) for right in (candidate, of_version))
    figures: dict[str, dict[str, Any]] = {}
    for column, attribute in enumerate(attributes):
        here = np.s_[:, column : column + 1]
        figures[attribute.name] = {
            "title": attribute.title,
            "labels": int(known[here].sum()),
            "candidate": means_by_metric(ours[here], labels[here]),
            "version": means_by_metric(theirs[here], labels[here]),
            "better": int((ours[here] > theirs[here]).sum()),
            "worse": int((ours[here] < theirs[here]).sum()),
        }
    chances = [_chance(metric, *columns) for columns in zip(ours.T, theirs.T, labels.T, strict=True)]
    for figure, p in zip(figures.values(), holm(chances).tolist(), strict=True):
        figure["p"] = p
    cells, others = (cells_of(right, labels, metric) for right in (ours, theirs))
    return Comparison(
        version,
        len(ours),
        metric,
        means_by_metric(ours, labels),
        means_by_metric(theirs, labels),
        cells.mean - others.mean,
        paired_bootstrap(cells, others),
        figures,
        notes,
    )


def _chance(metric: Metric, ours: Right, theirs: Right, labels: Labels) -> float:
    """How often two equally good models would differ at least so much in an attribute, all (N,)."""
    won, lost = ours > theirs, ours < theirs
    if metric == "accuracy":
        return mcnemar(int(won.sum()), int(lost.sum()))
    of_class = [labels == number for number in np.unique(labels[np.isfinite(ours)])]
    if len(of_class) < 2:  # which has no balanced accuracy
        return 1.0
    better, worse, count = ([int((which & one).sum()) for one in of_class] for which in (won, lost, np.isfinite(ours)))
    return mcnemar_by_class(better, worse, count)


@dataclass(frozen=True)
class Judgement:
    """What the gate says.

    Attributes:
        metric: what it goes by.
        means: metric -> mean of the candidate on the test split, None where no attribute has it; `interval` holds that
            of `metric` with 95 %.
        fit: whether the candidate may become the champion.
        reasons: why, for people.
        champion, best: comparisons with the champion and with the best version; None where there is none, where it
            cannot be compared, or for the best version if that is the champion.
        champion_to_best: the champion in place of the candidate against the best version, on the same images.
    """

    metric: Metric
    means: Mapping[str, float | None]
    interval: tuple[float, float]
    fit: bool = False
    reasons: Sequence[str] = ()
    champion: Comparison | None = None
    best: Comparison | None = None
    champion_to_best: Comparison | None = None


def judge(found: Judgement, min_accuracy: float, alpha: float, margin: float, refused: Sequence[str] = ()) -> Judgement:
    """Decide whether a candidate may be released.

    Args:
        found: what was measured; `fit` and `reasons` are made here.
        min_accuracy: the least mean of the metric.
        alpha: a candidate is refused that is worse than the champion in an attribute by so much that equally good
            models would differ so less often than this.
        margin: a candidate is refused whose mean is lower than the best version's by more; likewise in an attribute, if
            it is significantly worse there.
        refused: further reasons to refuse it.
    """
    mean, champion, what = found.means[found.metric], found.champion, f"mean {in_words(found.metric)}"
    told = f"{what} unknown" if mean is None else f"{what} {mean:.4f}"
    against = list(refused)
    if mean is None:
        against.append(f"{what} cannot be told from the labels of the test images")
    elif mean < min_accuracy:
        against.append(f"{told} is below monitor.min_accuracy ({min_accuracy:g})")
    if champion:
        against += _worse(champion, alpha, 0)
        if champion.interval[1] < 0:  # a little worse in every attribute, significantly in none
            against.append(f"{what} worse than that of {champion.version}: difference {champion.text}")
    if best := found.best or champion:
        if found.best:
            against += [why for why in _worse(best, alpha, margin) if why not in against]
        if not best.difference >= -margin:  # also when it is NaN
            against.append(
                f"{what} lower than that of {best.version}, the best version so far, by more than "
                f"archive.margin ({margin:g}): difference {best.text}"
            )
    reason = f"{told}, and there is no champion to compare with"
    if champion:
        reason = (
            f"{told}; not significantly worse than {champion.version} in any attribute (difference {champion.text})"
        )
    if found.best:
        reason += f"; {found.best.difference:+.4f} from {found.best.version}, the best version so far"
    return replace(found, fit=not against, reasons=against or [reason])


def _worse(comparison: Comparison, alpha: float, margin: float) -> list[str]:
    """In which attributes the candidate is significantly worse, and by more than `margin`."""
    metric, lines = comparison.metric, []
    for one in comparison.attributes.values():
        ours, theirs = one["candidate"][metric], one["version"][metric]
        if one["p"] < alpha and ours - theirs < -margin:
            figures = "" if metric == "accuracy" else f"{in_words(metric)} {ours:.4f} against {theirs:.4f}, "
            lines.append(
                f"worse than {comparison.version} in {one['title'].lower()}: {figures}{one['worse']} answers worse, "
                f"{one['better']} better (p {one['p']:.2g})"
            )
    return lines
