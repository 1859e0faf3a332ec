"""The release gate: compare the candidate with the champion on the candidate's test images, which neither trained on.

The picture decides the split of an image, so a champion trained with the same `data` parameters did not use any of
these images in training. Images that belong together, such as those of one person, count as one in every test and
interval, because answers to them are right or wrong together.

Both are compared by `evaluate.metric` of their answers to the same images. Figures from the release of the champion are
not used, so its metric then does not matter.

"Not significantly worse" alone would let the champion decline step by step: with 200 test images nobody notices a loss
of .002 in each of 40 releases (bench/README.md). So the candidate is also compared with the best version, and may lie
below it by a margin and no more. The best version is the first released version, until a released version is
significantly better on the same images: a best version that every lucky candidate could replace would decline with the
champion.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from stages.common.inference.answers import Right
from stages.common.inference.measures import METRICS, Cells, Metric, cells_of, in_words
from stages.common.inference.slices import Change, Groups, Labels
from stages.common.schema.attributes import Attributes
from stages.common.schema.statistics import holm

RESAMPLES = 10_000
"""Resamples of the bootstrap: the ends of a 95 % interval of .01 then vary by some .0002 from seed to seed."""
SEED = 2026


def paired_bootstrap(candidate: Cells, champion: Cells, groups: Groups) -> tuple[float, float]:
    """95 % interval of the candidate's mean minus the champion's, on the same images and in the same cells.

    Percentile bootstrap over groups of images (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter
    13; Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8): both models are measured on
    the same resampled images, so images that are hard for both cancel out, and answers to one image stay together. For
    balanced accuracy each class is averaged by itself, so the number of its draws cancels out, too.
    """
    differences = [candidate.means(weights) - champion.means(weights) for weights in _resamples(groups)]
    return _middle(np.concatenate(differences))


def interval(cells: Cells, groups: Groups) -> tuple[float, float]:
    """95 % interval of a mean, by the same bootstrap."""
    return _middle(np.concatenate([cells.means(weights) for weights in _resamples(groups)]))


def _resamples(groups: Groups) -> Iterator[npt.NDArray[np.float64]]:
    """Number of draws of each image with its group, for `RESAMPLES` draws with replacement: some (R, N) at a time."""
    generator, count = np.random.default_rng(SEED), int(groups.max()) + 1
    at_once = max(1, min(500, 5_000_000 // len(groups)))  # 40 MB
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=size)
        yield drawn[:, groups].astype(np.float64)


def _middle(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def chance(differences: npt.NDArray[np.float64]) -> float:
    """Probability that two equally good models differ at least this much to the candidate's disadvantage.

    If they are equally good, the answers of both to a group of images are exchangeable: the paired permutation test of
    a sum of differences (Good 2005, "Permutation, Parametric and Bootstrap Tests of Hypotheses"). This is not the
    probability that they are equally good. If all differences are equally large, as with accuracy on images that are
    each a group by itself, it is McNemar's exact test (McNemar 1947, "Note on the sampling error of the difference
    between correlated proportions"). Otherwise, the observed difference counts as one more of the `RESAMPLES` draws
    (Phipson and Smyth 2010, https://doi.org/10.2202/1544-6115.1585). A stratified bootstrap is too certain if a class
    has a handful of labels: when three of seven answers are lost, 2 % of its draws contain none of them, while by
    chance alone all three of three are lost in 12 % of the cases (bench/README.md compares both).

    Args:
        differences: (G,), contribution of each group to the candidate's figure, minus the same for the other model.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if len(sizes) == 0:
        return 1.0
    if len(sizes) == 1:
        lost = int((differences < 0).sum())
        return float(binomtest(lost, int(counts[0]), 0.5, alternative="greater").pvalue)
    generator, sums = np.random.default_rng(SEED), np.zeros(RESAMPLES)
    for size, count in zip(sizes, counts, strict=True):
        sums += size * (2 * generator.binomial(count, 0.5, RESAMPLES) - count)
    as_bad = sums <= differences.sum() + 1e-12  # for rounding
    return float((1 + as_bad.sum()) / (1 + RESAMPLES))


@dataclass(frozen=True)
class Comparison:
    """The candidate against a released version on N images, over the attributes that both answer.

    Attributes:
        version: its name.
        images: N.
        metric: the compared metric.
        candidate, of_version: metric -> mean over the attributes; None if no attribute has it.
        difference: the former minus the latter by `metric`; `interval` holds it with 95 %.
        attributes: name -> title, labels, candidate and version (metric -> figure), number of answers in which the
            candidate is better and worse, and `p`: probability of at least this difference to the candidate's
            disadvantage between equally good models, adjusted for all attributes.
        notes: limits of the comparison.
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
        """Whether the candidate is significantly better."""
        return self.interval[0] > 0


def means_by_metric(right: Right, labels: Labels) -> dict[str, float | None]:
    """Metric -> its mean over the attributes; None if no attribute has it."""
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
    groups: Groups | None = None,
) -> Comparison:
    """Compare answers to the same images, both (N, A); where one model does not answer, neither is counted.

    Images of a group, such as those of one person, are drawn and tested as one; without `groups`, each is a group.
    """
    groups = np.arange(len(candidate)) if groups is None else groups
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
    chances = [_chance(metric, *columns, groups) for columns in zip(ours.T, theirs.T, labels.T, strict=True)]
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
        paired_bootstrap(cells, others, groups),
        figures,
        notes,
    )


def _chance(metric: Metric, ours: Right, theirs: Right, labels: Labels, groups: Groups) -> float:
    """`chance` for one attribute, all (N,). For balanced accuracy, an answer counts as 1 / labels of its class."""
    known = np.isfinite(ours)
    differences = np.where(known, ours - theirs, 0)
    if metric != "accuracy":
        counts = np.bincount(labels[known])
        if (counts > 0).sum() < 2:  # there is no balanced accuracy
            return 1.0
        differences[known] /= counts[labels[known]]
    return chance(np.bincount(groups, differences).astype(np.float64))


@dataclass(frozen=True)
class GateVerdict:
    """The verdict of the gate.

    Attributes:
        metric: the metric of the gate.
        means: metric -> mean of the candidate on the test split, None if no attribute has it; `interval` holds the mean
            of `metric` with 95 %.
        fit: whether the candidate may become the champion.
        reasons: reasons, for people.
        champion, best: comparisons with the champion and with the best version; None if there is none, if it cannot be
            compared, or for the best version if that is the champion.
        champion_to_best: the champion against the best version, on the same images.
        slices: slices in which the candidate has wrong answers where the champion is right, the clearest first.
        warnings: slices in which it falls, for people; they do not refuse it.
    """

    metric: Metric
    means: Mapping[str, float | None]
    interval: tuple[float, float]
    fit: bool = False
    reasons: Sequence[str] = ()
    champion: Comparison | None = None
    best: Comparison | None = None
    champion_to_best: Comparison | None = None
    slices: Sequence[Change] = ()
    warnings: Sequence[str] = ()


def apply_gate(
    found: GateVerdict, min_accuracy: float, alpha: float, margin: float, refused: Sequence[str] = ()
) -> GateVerdict:
    """Decide whether a candidate may be released.

    Args:
        found: the measurements; `fit` and `reasons` are decided here.
        min_accuracy: least mean of the metric.
        alpha: level of significance: a candidate that is significantly worse than the champion in an attribute is
            refused.
        margin: a candidate whose mean is lower than the best version's by more is refused; likewise in an attribute, if
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
    """Attributes in which the candidate is significantly worse, and by more than `margin`."""
    metric, lines = comparison.metric, []
    for attribute in comparison.attributes.values():
        ours, theirs = attribute["candidate"][metric], attribute["version"][metric]
        if attribute["p"] < alpha and ours - theirs < -margin:
            figures = "" if metric == "accuracy" else f"{in_words(metric)} {ours:.4f} against {theirs:.4f}, "
            lines.append(
                f"worse than {comparison.version} in {attribute['title'].lower()}: {figures}"
                f"{attribute['worse']} answers worse, {attribute['better']} better (p {attribute['p']:.2g})"
            )
    return lines
