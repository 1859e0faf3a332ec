"""Share of flipped labels that stage label_doubt finds.

python -m bench.label_doubt --data FOLDER [--seed N] [--set label_doubt.KEY=VALUE ...]

FOLDER holds raw/ and annotations.csv or annotations/. The images are validated and prepared as in the pipeline. Then 3
% of the known labels of each attribute are changed to another class, and all labels are checked. If the top of the
ranking has as many labels as were flipped, precision and recall are equal. Other errors of the annotations count
against precision, so it is a lower bound.

Then the first doubts of all attributes together, ranked as in the stage and by the probability of the label alone: the
number of flipped labels among them, and their share of the total distortion of balanced accuracy.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.prepared import prepare
from stages.common.contract.data_folder import PARAMS
from stages.common.contract.logs import start_logging
from stages.common.contract.params import Section, load_params
from stages.common.schema.attributes import UNKNOWN
from stages.common.schema.dataset import Split, map_images, read_index
from stages.common.training.augmentation import Augmentation
from stages.common.training.device import trainings_at_once
from stages.common.training.fit import FitSettings
from stages.label_doubt.doubts import Doubt, find_doubts
from stages.label_doubt.folds import assign_folds, predict_out_of_fold
from stages.label_doubt.params import LabelDoubtSection
from stages.train.params import TrainSection

FLIPPED = 0.03  # of the known labels of each attribute
FIRST = (25, 50, 100, 200)  # doubts of the ranking


class Params(Section):
    """Parameters that decide the figures."""

    augmentation: Augmentation
    label_doubt: LabelDoubtSection
    train: TrainSection


def flip(images: Split, seed: int) -> Split:
    """The same images, with some wrong labels."""
    random, labels = np.random.default_rng(seed), images.labels.copy()
    for column, attribute in enumerate(images.attributes):
        known = np.flatnonzero(labels[:, column] != UNKNOWN)
        for number in random.choice(known, round(FLIPPED * len(known)), replace=False):
            others = [label for label in range(len(attribute.classes)) if label != labels[number, column]]
            labels[number, column] = random.choice(others)
    return replace(images, labels=labels)


def main() -> None:
    """Flip labels, check them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with raw/ and annotations")
    parser.add_argument("--seed", type=int, default=0, help="of what is flipped (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    start_logging()
    params = load_params(Params, PARAMS, arguments.set)
    section = params.label_doubt
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(arguments.data, folder)
        rows = read_index(prepared)
        before = map_images(prepared, rows)
        images = flip(before, arguments.seed)
        settings = FitSettings(
            hyperparameters=params.train.hyperparameters().model_copy(
                update={"width": section.width, "batch_size": section.batch_size}
            ),
            augmentation=params.augmentation,
            epochs=section.epochs,
            seed=section.seed,
            device=section.device,
            threads=1,
        )
        (folder / "state").mkdir()
        workers = trainings_at_once(section.device, section.workers, section.folds)
        started = time.monotonic()
        fold = assign_folds([row["group"] for row in rows], section.folds, section.seed)
        predicted = predict_out_of_fold(images, fold, settings, folder / "state", workers)
        seconds = time.monotonic() - started

    print(f"{'attribute':<12} labels flipped  P=R at flipped  listed  precision  recall  accuracy out of fold")
    total = [0, 0, 0, 0]
    every: list[tuple[Doubt, bool]] = []
    for column, attribute in enumerate(images.attributes):
        labels, truth = images.labels[:, column], before.labels[:, column]
        probabilities = predicted[attribute.name]
        wrong = labels != truth
        known = np.flatnonzero(labels != UNKNOWN)
        ranked = known[np.argsort(probabilities[known, labels[known]], kind="stable")]
        doubts = find_doubts(attribute, labels, probabilities)
        every += [(doubt, bool(wrong[doubt.image])) for doubt in doubts]
        listed = [doubt.image for doubt in doubts]
        top, found = wrong[ranked[: wrong.sum()]], wrong[listed]
        counts = [int(wrong.sum()), int(top.sum()), len(listed), int(found.sum())]
        total = [part + other for part, other in zip(total, counts, strict=True)]
        accuracy = (probabilities[known].argmax(1) == truth[known]).mean()  # against the labels before
        print(_line(attribute.title, len(known), counts) + f"  {accuracy:8.3f}")
    print(_line("all", int((images.labels != UNKNOWN).sum()), total))
    for name, doubted in (
        ("worth", sorted(every, key=lambda pair: -pair[0].worth)),
        ("probability", sorted(every, key=lambda pair: pair[0].probability_of_label)),
    ):
        told = [
            f"{sum(flipped for _, flipped in doubted[:first])} of {first}" for first in FIRST if first <= len(every)
        ]
        print(f"flipped of the first by {name:<12} {', '.join(told)}; of the distortion {', '.join(_worth(doubted))}")
    print(f"{len(images)} images, {section.folds} folds of {section.epochs} epochs, {seconds:.0f} s")


def _worth(ranked: list[tuple[Doubt, bool]]) -> list[str]:
    found = np.array([flipped * doubt.worth / (1 - doubt.probability_of_label) for doubt, flipped in ranked])
    return [f"{found[:first].sum() / found.sum():.2f}" for first in FIRST if first <= len(ranked)]


def _line(name: str, labels: int, counts: list[int]) -> str:
    flipped, top, listed, found = counts
    return (
        f"{name:<12} {labels:>6} {flipped:>7}  {top / max(flipped, 1):14.3f}  {listed:>6}"
        f"  {found / max(listed, 1):9.3f}  {found / max(flipped, 1):6.3f}"
    )


if __name__ == "__main__":
    main()
