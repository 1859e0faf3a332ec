"""Accuracy on parts of the test images: on each lot, and on the images of each pair of classes.

A mean hides where a model fails. A slice is the images of one lot, or those with a class of one attribute and a class
of another; the accuracy of every attribute is reported for each slice. There are many slices, and most have few labels,
so the lowest accuracy is mostly chance. Hence a slice is named only if chance does not explain its accuracy, by a test
that is adjusted for all slices with enough labels (`stages.common.schema.statistics.tarone`). A slice with too few
labels is never named.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, hypergeom

from stages.common.inference.answers import Right
from stages.common.schema.attributes import Attributes
from stages.common.schema.statistics import independent, tarone, wilson

COLUMNS = ("kind", "slice", "attribute", "labels", "right", "accuracy", "low", "high", "elsewhere", "p")
"""Columns of slices.csv; `low` and `high` are the ends of the interval."""
LEVEL = 0.05
"""Probability that a slice is named although the model is equally good on all slices."""

Labels = npt.NDArray[np.integer[Any]]
"""(N, A) class indices, -1 where unknown."""
Groups = npt.NDArray[np.integer[Any]]
"""(N,), the same number for images that belong together, from 0 on without a gap."""


class Slices:
    """N images by lot, then by a class of one attribute and one of another.

    Attributes:
        kinds: "lot" or "classes" for each of the S slices.
        names: their names, as they follow "images of".
    """

    def __init__(self, attributes: Attributes, labels: Labels, lots: Sequence[str]) -> None:
        """Assign images to slices; an image without a label is in no slice of that attribute.

        Args:
            attributes: A of them.
            labels: (N, A).
            lots: that of each image.
        """
        known, self._lot = np.unique(np.asarray(lots), return_inverse=True)
        self._lots = len(known)
        of_class = [labels[:, [at]] == np.arange(len(attribute.classes)) for at, attribute in enumerate(attributes)]
        self._of_class = np.concatenate(of_class, axis=1).astype(np.float32)  # (N, classes of all attributes)
        owner = np.repeat(np.arange(len(attributes)), [len(attribute.classes) for attribute in attributes])
        self._pairs = np.nonzero(owner[:, None] < owner)
        words = [f"{attribute.title.lower()} {name}" for attribute in attributes for name in attribute.classes]
        pairs = [f"{words[one]} and {words[other]}" for one, other in zip(*self._pairs, strict=True)]
        self.names = [*(f"lot {lot}" for lot in known.tolist()), *pairs]
        self.kinds = ["lot"] * len(known) + ["classes"] * len(pairs)

    def sums(self, values: npt.NDArray[Any], at: Any = slice(None)) -> npt.NDArray[np.int64]:
        """Sums of whole numbers of images, over the images of each slice: (S,).

        One product of matrices gives all pairs of classes; single precision is exact up to 16 million.

        Args:
            values: (n,).
            at: positions of the n images; all by default.
        """
        of_lot = np.bincount(self._lot[at], values, minlength=self._lots)
        of_class = self._of_class[at]
        of_pair = (of_class.T * values.astype(np.float32)) @ of_class
        sums: npt.NDArray[np.int64] = np.rint(np.concatenate([of_lot, of_pair[self._pairs]])).astype(np.int64)
        return sums


@dataclass(frozen=True)
class Slice:
    """Answers about one attribute on the images of a slice.

    Attributes:
        kind: "lot" or "classes".
        name: of the slice, as it follows "images of".
        attribute: its title.
        labels, right: number of known labels, and of right answers.
        interval: holds the true accuracy with 95 % (Wilson, with the number of independent images).
        elsewhere: accuracy on all other images.
        p: probability of at least so many wrong answers in the slice if the model is equally good everywhere, adjusted
            for all slices.
    """

    kind: str
    name: str
    attribute: str
    labels: int
    right: int
    interval: tuple[float, float]
    elsewhere: float
    p: float

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / self.labels

    @property
    def cells(self) -> tuple[object, ...]:
        """Its row below `COLUMNS`."""
        figures = (self.accuracy, *self.interval, self.elsewhere)
        return (self.kind, self.name, self.attribute, self.labels, self.right, *(f"{figure:.4f}" for figure in figures),
                f"{self.p:.3g}")  # fmt: skip

    @property
    def text(self) -> str:
        """The text about the worst slice."""
        low, high = self.interval
        return (
            f"{self.attribute.lower()} on images of {self.name}: {self.right:,} of {self.labels:,} right "
            f"({self.accuracy:.3f}, 95 % from {low:.3f} to {high:.3f}; elsewhere {self.elsewhere:.3f}, p {self.p:.2g})"
        )


def measure_slices(
    attributes: Attributes, labels: Labels, lots: Sequence[str], right: Right, groups: Groups
) -> list[Slice]:
    """Every slice of N images in every attribute, if it has labels but not all of them.

    `p` is from Fisher's exact test, one-sided, of the slice against all other images. Where images belong together
    all counts are divided by the design effect of the attribute (Rao and Scott 1992, "A Simple Method for the Analysis
    of Clustered Binary Data", https://doi.org/10.2307/2532311).

    Args:
        attributes: A of them.
        labels: (N, A).
        lots: that of each image.
        right: (N, A).
        groups: (N,).
    """
    known = np.isfinite(right)
    effects = [
        known[:, column].sum() / independent(right[known[:, column], column] > 0, groups[known[:, column]])
        if known[:, column].any()
        else 1.0
        for column in range(len(attributes))
    ]
    slices = Slices(attributes, labels, lots)
    found: list[tuple[int, int, int, int, int, int]] = []
    for column in range(len(attributes)):
        counts, hits = slices.sums(known[:, column]), slices.sums(np.nan_to_num(right[:, column]))
        total, all_right = int(known[:, column].sum()), int(np.nansum(right[:, column]))
        for at in np.flatnonzero((counts > 0) & (counts < total)).tolist():
            found.append((at, column, int(counts[at]), int(hits[at]), total, all_right))
    if not found:
        return []
    _, columns, count, hit, every, rights = np.array(found).T
    effect = np.array(effects)[columns]
    population, sample = np.rint(every / effect).astype(int), np.maximum(1, count / effect).astype(int)
    wrong = np.minimum(population, np.rint((every - rights) / effect).astype(int))
    seen = np.minimum(np.minimum(sample, wrong), ((count - hit) / effect).astype(int))  # rounded down
    p = hypergeom.sf(seen - 1, population, wrong, sample)
    least = hypergeom.sf(np.minimum(sample, wrong) - 1, population, wrong, sample)
    return [
        Slice(
            slices.kinds[at], slices.names[at], attributes[where].title, labelled, hits_here,
            wilson(hits_here / labelled, labelled / effects[where]),
            (right_of_all - hits_here) / (of_all - labelled), adjusted,
        )
        for (at, where, labelled, hits_here, of_all, right_of_all), adjusted in zip(
            found, tarone(p, least, LEVEL).tolist(), strict=True
        )
    ]  # fmt: skip


def totals(
    attributes: Attributes, labels: Labels, lots: Sequence[str], right: Right
) -> dict[str, list[dict[str, str | int | float]]]:
    """The share of right answers about all attributes together, arguments as of `measure_slices`.

    Returns:
        {"lots": [{"name", "labels", "accuracy"}], "class_pairs": [likewise]}, without slices that have no label.
    """
    slices = Slices(attributes, labels, lots)
    counts, hits = (slices.sums(of) for of in (np.isfinite(right).sum(axis=1), np.nansum(right, axis=1)))
    found: dict[str, list[dict[str, str | int | float]]] = {"lots": [], "class_pairs": []}
    for kind, name, many, some in zip(slices.kinds, slices.names, counts.tolist(), hits.tolist(), strict=True):
        if many:
            total = {"name": name, "labels": many, "accuracy": some / many}
            found["lots" if kind == "lot" else "class_pairs"].append(total)
    return found


def worst(slices: Sequence[Slice]) -> Slice | None:
    """The slice with the lowest accuracy among those that are significantly worse than the rest, if any."""
    told = [each for each in slices if each.p < LEVEL]
    return min(told, key=lambda each: (each.accuracy, each.p), default=None)


@dataclass(frozen=True)
class Change:
    """Two models' answers about one attribute on the images of a slice, where both answer.

    Attributes:
        kind: "lot" or "classes".
        name: of the slice, as it follows "images of".
        attribute: its title.
        labels: number of known labels.
        candidate, version: accuracy of both.
        better, worse: number of answers that only the candidate, or only the version, has right.
        p: probability that equally good models differ at least so much to the candidate's disadvantage, adjusted for
            all slices.
    """

    kind: str
    name: str
    attribute: str
    labels: int
    candidate: float
    version: float
    better: int
    worse: int
    p: float

    @property
    def text(self) -> str:
        """The text about a slice that fell."""
        return (
            f"{self.attribute.lower()} on images of {self.name}: {self.candidate:.3f} against {self.version:.3f} of "
            f"{self.labels:,} labels right, {self.worse} answers worse, {self.better} better (p {self.p:.2g})"
        )


def compare_slices(
    attributes: Attributes, labels: Labels, lots: Sequence[str], ours: Right, theirs: Right, groups: Groups,
    level: float,
) -> list[Change]:  # fmt: skip
    """Every slice in which the candidate has a wrong answer where the version is right.

    `p` is from the sign test of groups of images; if each image is a group by itself, that is McNemar's exact test.

    Args:
        attributes: A of them.
        labels: (N, A).
        lots: that of each of the N images.
        ours: (N, A), of the candidate.
        theirs: (N, A), of the version.
        groups: (N,).
        level: below which `p` counts.
    """
    difference = ours - theirs  # NaN where one of both has no answer
    slices = Slices(attributes, labels, lots)
    found: list[Change] = []
    signs: list[tuple[int, int]] = []
    for column, attribute in enumerate(attributes):
        gain = np.nan_to_num(difference[:, column])
        at = np.flatnonzero(gain)
        if not (gain < 0).any():
            continue
        known = np.isfinite(difference[:, column])
        counts, hits = slices.sums(known), slices.sums(np.where(known, ours[:, column], 0))
        worse, better = (slices.sums(of[at], at) for of in (gain < 0, gain > 0))
        lost, won = _signs(slices, at, groups[at], gain[at])
        for number in np.flatnonzero(worse).tolist():
            labelled, right, rose, fell = (int(of[number]) for of in (counts, hits, better, worse))
            signs.append((int(lost[number]), int(won[number])))
            before = (right + fell - rose) / labelled
            found.append(
                Change(
                    kind=slices.kinds[number], name=slices.names[number], attribute=attribute.title, labels=labelled,
                    candidate=right / labelled, version=before, better=rose, worse=fell, p=1.0,
                )
            )  # fmt: skip
    if not found:
        return []
    losses, gains = np.array(signs).T
    p, least = binom.sf(losses - 1, losses + gains, 0.5), 0.5 ** (losses + gains)
    adjusted = tarone(p, least, level).tolist()
    return [replace(change, p=chance) for change, chance in zip(found, adjusted, strict=True)]


def _signs(
    slices: Slices, at: npt.NDArray[np.intp], groups: Groups, gain: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Number of groups of each slice in which the candidate is worse, and in which it is better: (S,) each.

    Args:
        slices: S slices.
        at: positions of the images with a gain or a loss.
        groups: groups of these images.
        gain: gains of these images.
    """
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    alone = size[group] == 1
    lost, won = (slices.sums(of[alone], at[alone]) for of in (gain < 0, gain > 0))
    for number in np.flatnonzero(size > 1).tolist():
        sums = slices.sums(gain[group == number], at[group == number])
        lost, won = lost + (sums < 0), won + (sums > 0)
    return lost, won


def fallen(changes: Sequence[Change], level: float, margin: float) -> list[Change]:
    """Significant changes for the worse by more than a margin (0-1), the worst first."""
    told = [change for change in changes if change.p < level and change.version - change.candidate > margin]
    return sorted(told, key=lambda change: (change.candidate - change.version, change.p))
