"""Decline of the champion by a series of slightly worse candidates, and refusals of candidates, by metric.

python -m bench.releases [--series N] [--judged N] [--images N [N ...]] [--seed N] [--parts margin metric test]
                         [--answers FILE FILE]

Without --answers nothing is trained: the true recalls of the classes are given, and the answers to test images are
drawn with them. Some images are harder than others, so models err mostly on the same images. Every candidate goes
through the gate of stage archive, on new test images.

margin  decline of the champion in 40 releases, and share of good candidates that are refused, with and without a margin
metric  shares of equally good, better and worse candidates that are refused by accuracy and by balanced accuracy, with
        equally frequent classes and with a class of 3.5 % of the labels
test    false alarms of two tests of one attribute for equally good models, at a level of 5 %

--answers uses real answers of two networks to the same images, from `bench.cross_validate --save`. Test splits are
drawn from these images. On each, two pairs are compared: the networks themselves, and two equally good models, which
get each image's answers by chance.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from bench.machine import table
from stages.archive import gate
from stages.archive.gate import GateVerdict, apply_gate, chance, compare, means_by_metric
from stages.common.inference.answers import Right
from stages.common.inference.measures import METRICS, Metric, in_words
from stages.common.schema.attributes import UNKNOWN, Attribute, Attributes

ATTRIBUTES = tuple(Attribute(name, ("no", "yes"), name, name) for name in "abcde")
IMAGES = 200  # of a test split
START = 0.984  # true accuracy of the first champion, and recall of both classes
STEP = 0.002  # that each candidate is truly worse than the champion
CANDIDATES = 40
ALPHA = 0.05
MARGIN = 0.01
SHARED = 0.8  # of what decides whether an answer is right: the image; the rest is the model
NO_MARGIN = 1.0
RESAMPLES = 1_000  # instead of the gate's 10,000, which give the same up to rounding and take ten times as long
RARE = 0.035
EQUAL: Sequence[float] = (0.5,) * len(ATTRIBUTES)
DATA: Mapping[str, Sequence[float]] = {
    "equal classes": EQUAL,
    "one attribute with a rare class": (*EQUAL[1:], RARE),
    "all with a rare class": (RARE,) * len(ATTRIBUTES),
}
"""Share of the second class per attribute."""

Recalls = tuple[float, float]
"""Of the first and the second class, in every attribute."""
Labels = npt.NDArray[np.int16]


def draw_labels(random: np.random.Generator, shares: Sequence[float], images: int) -> Labels:
    """(images, A), each class as often as its share says."""
    ordered = [np.arange(images) < round(share * images) for share in shares]
    return np.stack([random.permutation(column) for column in ordered], axis=1).astype(np.int16)


def answers(random: np.random.Generator, labels: Labels, recalls: Sequence[Recalls]) -> list[Right]:
    """Answers of models with given recalls to the same images, (N, A) each."""
    ease = np.sqrt(SHARED) * random.standard_normal(labels.shape)
    own = [np.sqrt(1 - SHARED) * random.standard_normal(labels.shape) for _ in recalls]
    return [(ease + noise < norm.ppf(recall)[labels]).astype(float) for noise, recall in zip(own, recalls, strict=True)]


def judged(
    metric: Metric,
    labels: Labels,
    candidate: Right,
    champion: Right,
    best: Right | None,
    margin: float,
    attributes: Attributes = ATTRIBUTES,
) -> GateVerdict:
    """Verdict of the gate; the best version is the champion where it is None."""
    found = replace(
        GateVerdict(metric, means_by_metric(candidate, labels), (0, 1)),
        champion=compare(attributes, metric, labels, "champion", candidate, champion),
        best=None if best is None else compare(attributes, metric, labels, "best", candidate, best),
    )
    return apply_gate(found, 0, ALPHA, margin)


def sink(random: np.random.Generator, margin: float, candidates: int = CANDIDATES) -> list[float]:
    """The champion's true accuracy after each candidate, all of them worse by `STEP`."""
    champion = best = START
    path = []
    for _ in range(candidates):
        labels = draw_labels(random, EQUAL, IMAGES)
        accuracies = [champion - STEP, champion, *([best] if best != champion else [])]
        candidate, *others = answers(random, labels, [(accuracy, accuracy) for accuracy in accuracies])
        found = judged("accuracy", labels, candidate, others[0], others[1] if len(others) > 1 else None, margin)
        measure = found.best or found.champion
        if found.fit:
            champion -= STEP
            if measure and measure.better:
                best = champion
        path.append(champion)
    return path


def refused(
    random: np.random.Generator,
    margin: float,
    candidate: Recalls,
    champion: Recalls,
    count: int,
    shares: Sequence[float] = EQUAL,
    images: int = IMAGES,
    metrics: Sequence[Metric] = ("accuracy",),
) -> list[float]:
    """Share of candidates that are refused, by each metric; the champion is the best version as well."""
    fit = np.zeros(len(metrics))
    for _ in range(count):
        labels = draw_labels(random, shares, images)
        ours, theirs = answers(random, labels, [candidate, champion])
        fit += [judged(metric, labels, ours, theirs, None, margin).fit for metric in metrics]
    return [float(1 - share) for share in fit / count]


def bootstrap_by_class(
    random: np.random.Generator, better: Sequence[int], worse: Sequence[int], labels: Sequence[int]
) -> float:
    """The other test: share of stratified bootstrap draws without a lower balanced accuracy."""
    differences = np.zeros(RESAMPLES)
    for won, lost, count in zip(better, worse, labels, strict=True):
        drawn = random.multinomial(count, np.array([won, lost, count - won - lost]) / count, size=RESAMPLES)
        differences += (drawn[:, 0] - drawn[:, 1]) / count
    return float((differences >= 0).mean())


def called_worse(random: np.random.Generator, counts: tuple[int, int], recalls: Recalls, pairs: int) -> list[float]:
    """Share of pairs of equally good models whose second both tests call worse: by class, and by the bootstrap."""
    labels = np.repeat(np.arange(2, dtype=np.int16), counts)[:, None]
    called = np.zeros(2)
    for _ in range(pairs):
        ours, theirs = (right[:, 0] for right in answers(random, labels, [recalls, recalls]))
        of = [labels[:, 0] == number for number in range(2)]
        won, lost = ([int((which & members).sum()) for members in of] for which in (ours > theirs, ours < theirs))
        differences = (ours - theirs) / np.array(counts)[labels[:, 0]]
        called += [chance(differences) < ALPHA, bootstrap_by_class(random, won, lost, counts) < ALPHA]
    return [float(share) for share in called / pairs]


def _margins(arguments: argparse.Namespace) -> None:
    sunk, kept = [], []
    for name, margin in (("none", NO_MARGIN), ("0.005", 0.005), ("0.01", 0.01), ("0.02", 0.02)):
        random = np.random.default_rng(arguments.seed)
        paths = np.array([sink(random, margin) for _ in range(arguments.series)])
        sunk.append([name, *paths[:, 9::10].mean(axis=0).round(4), paths[:, -1].min().round(4)])
        gains = [(START + gain, START + gain) for gain in (0, 0.005)]
        shares = [refused(random, margin, gain, (START, START), arguments.judged)[0] for gain in gains]
        kept.append([name, *(f"{share:.1%}" for share in shares)])
    print(table(["margin", *(f"after {count}" for count in range(10, CANDIDATES + 1, 10)), "least"], sunk))
    print(table(["margin", "equally good, refused", "better by .005, refused"], kept))


def _metrics(arguments: argparse.Namespace) -> None:
    champion = (0.99, 0.7)  # the second class is the harder one, as a rare one is
    kinds = {
        "equally good, refused": champion,
        "second class .70 to .80, refused": (0.99, 0.8),
        "so, for .99 to .98 in the first, refused": (0.98, 0.8),
        "second class .70 to .55, released": (0.99, 0.55),
    }
    rows = []
    for images in arguments.images:
        for data, shares in DATA.items():
            random = np.random.default_rng(arguments.seed)
            found = [
                refused(random, MARGIN, candidate, champion, arguments.judged, shares, images, METRICS)
                for candidate in kinds.values()
            ]
            for at, metric in enumerate(METRICS):
                told = [
                    1 - share[at] if kind.endswith("released") else share[at]
                    for kind, share in zip(kinds, found, strict=True)
                ]
                rows.append([f"{images:,}", data, in_words(metric), *(f"{share:.0%}" for share in told)])
    print(table(["images", "data", "metric", *kinds], rows))


def _tests(arguments: argparse.Namespace) -> None:
    rows = []
    for counts in ((100, 100), (193, 7), (1930, 70)):
        shares = called_worse(np.random.default_rng(arguments.seed), counts, (0.99, 0.7), 10 * arguments.judged)
        rows.append([f"{counts[0]:,} and {counts[1]}", *(f"{share:.1%}" for share in shares)])
    print(table(["labels of the classes", "permutation (the gate's)", "stratified bootstrap"], rows))


def _trained(files: Sequence[Path], arguments: argparse.Namespace) -> None:
    with np.load(files[0]) as one, np.load(files[1]) as other:
        if not np.array_equal(one["labels"], other["labels"]):
            raise SystemExit(f"bench.releases: {files[0]} and {files[1]} are not about the same images")
        labels, networks = one["labels"], np.stack([one["answers"][0], other["answers"][0]])
    told = (labels != UNKNOWN).any(0) & (networks != UNKNOWN).all((0, 1))
    labels, networks = labels[:, told], networks[:, :, told]
    attributes = tuple(
        Attribute(f"a{column}", tuple(map(str, range(classes))), f"a{column}", f"A {column}")
        for column, classes in enumerate(labels.max(0) + 1)
    )
    right = np.where(labels == UNKNOWN, np.nan, networks == labels)
    means = [means_by_metric(model, labels) for model in right]
    rows = []
    for images in (count for count in arguments.images if count <= len(labels)):
        random = np.random.default_rng(arguments.seed)
        refusals = np.zeros((len(METRICS), 3))
        for _ in range(arguments.judged):
            drawn = random.choice(len(labels), images, replace=False)
            first, second = right[:, drawn]
            swapped = random.random((images, 1)) < 0.5
            equal = np.where(swapped, second, first), np.where(swapped, first, second)
            for at, metric in enumerate(METRICS):
                for kind, (candidate, champion) in enumerate(((second, first), (first, second), equal)):
                    found = judged(metric, labels[drawn], candidate, champion, None, MARGIN, attributes)
                    refusals[at, kind] += not found.fit
        for metric, shares in zip(METRICS, refusals / arguments.judged, strict=True):
            rows.append([f"{images:,}", in_words(metric), *(f"{share:.0%}" for share in shares)])
    for file, mean in zip(files, means, strict=True):
        print(f"{file.stem}: " + ", ".join(f"{in_words(metric)} {mean[metric]:.4f}" for metric in METRICS))
    header = ("images", "metric", "second after first, refused", "first after second, refused", "equally good, refused")
    print(table(header, rows))


PARTS = {"margin": _margins, "metric": _metrics, "test": _tests}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.releases", description=__doc__)
    parser.add_argument("--series", type=int, default=10, help="of 40 candidates (default: %(default)s)")
    parser.add_argument("--judged", type=int, default=300, help="candidates of each kind (default: %(default)s)")
    parser.add_argument("--images", type=int, nargs="+", default=[IMAGES, 2_000], help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--answers", type=Path, nargs=2, metavar="FILE", help="of two networks to the same images")
    arguments = parser.parse_args()
    gate.RESAMPLES = RESAMPLES
    if arguments.answers:
        _trained(arguments.answers, arguments)
        return
    for part in arguments.parts:
        PARTS[part](arguments)


if __name__ == "__main__":
    main()
