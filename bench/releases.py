"""How far does the champion sink while each candidate is a little worse than it, and how often is a good one refused?

python -m bench.releases [--series N] [--judged N] [--seed N]

No training: the true accuracies are given, and the answers to test images are drawn with them. Images differ in how
hard they are, so models err mostly in the same ones. Every candidate is judged by the gate of stage archive, on new
test images.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import norm

from bench.machine import table
from stages.archive.gate import Judgement, compare, judge, mean_accuracy
from stages.common.inference.answers import Right
from stages.common.schema.attributes import Attribute

ATTRIBUTES = tuple(Attribute(name, ("no", "yes"), name, name) for name in "abcde")
IMAGES = 200  # of a test split
START = 0.984  # true accuracy of the first champion
STEP = 0.002  # that each candidate is truly worse than the champion
CANDIDATES = 40
ALPHA = 0.05
SHARED = 0.8  # of what decides whether an answer is right: the image; the rest is the model
NO_MARGIN = 1.0


def answers(random: np.random.Generator, accuracies: Sequence[float]) -> list[Right]:
    """What models of some accuracies answer to the same new images, (IMAGES, A) each."""
    shape = (IMAGES, len(ATTRIBUTES))
    ease = np.sqrt(SHARED) * random.standard_normal(shape)
    own = [np.sqrt(1 - SHARED) * random.standard_normal(shape) for _ in accuracies]
    return [(ease + one < norm.ppf(accuracy)).astype(float) for one, accuracy in zip(own, accuracies, strict=True)]


def judged(candidate: Right, champion: Right, best: Right | None, margin: float) -> Judgement:
    """What the gate says; the best version is the champion where it is None."""
    found = replace(
        Judgement(mean_accuracy(candidate), (0, 1), fit=False, reasons=[]),
        champion=compare(ATTRIBUTES, "champion", candidate, champion),
        best=None if best is None else compare(ATTRIBUTES, "best", candidate, best),
    )
    return judge(found, 0, ALPHA, margin)


def sink(random: np.random.Generator, margin: float, candidates: int = CANDIDATES) -> list[float]:
    """The champion's true accuracy after each candidate, all of them worse by `STEP`."""
    champion = best = START
    path = []
    for _ in range(candidates):
        accuracies = [champion - STEP, champion, *([best] if best != champion else [])]
        candidate, *others = answers(random, accuracies)
        found = judged(candidate, others[0], others[1] if len(others) > 1 else None, margin)
        measure = found.best or found.champion
        if found.fit:
            champion -= STEP
            if measure and measure.better:
                best = champion
        path.append(champion)
    return path


def refused(random: np.random.Generator, margin: float, gain: float, count: int) -> float:
    """Share of candidates that are refused which are truly better than the champion, the best version, by `gain`."""
    drawn = (answers(random, [START + gain, START]) for _ in range(count))
    return 1 - float(np.mean([judged(candidate, champion, None, margin).fit for candidate, champion in drawn]))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.releases", description=__doc__)
    parser.add_argument("--series", type=int, default=10, help="of 40 candidates (default: %(default)s)")
    parser.add_argument("--judged", type=int, default=300, help="candidates of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sunk, kept = [], []
    for name, margin in (("none", NO_MARGIN), ("0.005", 0.005), ("0.01", 0.01), ("0.02", 0.02)):
        random = np.random.default_rng(arguments.seed)
        paths = np.array([sink(random, margin) for _ in range(arguments.series)])
        sunk.append([name, *paths[:, 9::10].mean(axis=0).round(4), paths[:, -1].min().round(4)])
        shares = [refused(random, margin, gain, arguments.judged) for gain in (0, 0.005)]
        kept.append([name, *(f"{share:.1%}" for share in shares)])
    print(table(["margin", *(f"after {count}" for count in range(10, CANDIDATES + 1, 10)), "least"], sunk))
    print(table(["margin", "equally good, refused", "better by .005, refused"], kept))


if __name__ == "__main__":
    main()
