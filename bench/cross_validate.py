"""Accuracy of stage train on held-out faces, overall and in each class.

    python -m bench.cross_validate --data FOLDER [--recipe NAME ...] [--folds 5 | --given] [--seed N] [--only N]
                                   [--of NAME ...] [--save DIR] [--set SECTION.KEY=VALUE ...]

FOLDER holds raw/, and annotations.csv or annotations/. All its images are validated and prepared as in the pipeline,
and assigned to folds; images of one group, such as those of one person, and near duplicates are in one fold. Each fold
is held out once, while a network is trained on all others as in stage train. The held-out images decide nothing: the
weights of the last epoch are the result. The network is measured after every epoch, which is part of the seconds;
images/s are those of training alone. Temperatures, for which stage train has a validation split, come from the other
half of the held-out images, so that no image is measured with a temperature that was fitted to it. With --given the one
fold is the test split of CelebA's list_eval_partition.txt beside the annotations. Each recipe has its own tables; the
folds are the same for all. With --of the tables have only some of the attributes that the networks learn. --save writes
the labels and answers of each fold, for `bench.releases --answers`.
"""

import argparse
import csv
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.machine import table
from bench.prepared import files_of, fit_as_stage_train, prepare
from stages.common.contract.data_folder import PARAMS
from stages.common.contract.logs import log, start_logging
from stages.common.contract.params import load_params
from stages.common.inference.calibration import fit_temperature, softmax
from stages.common.schema.attributes import UNKNOWN, Attribute, Attributes, names, read_attributes, write_attributes
from stages.common.schema.dataset import INDEX, index_columns, read_index, read_split
from stages.common.schema.learned import learned_classes
from stages.train.decide import TINY
from stages.train.params import Params

Numbers = npt.NDArray[np.floating[Any]]
Figures = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int16]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Result of one fold.

    Attributes:
        learned: number of training images.
        seconds: of the training.
        rate: images a second, of training alone.
        labels: int16 (N, A) of the held-out images, -1 where unknown.
        answers: int16 (2, N, A), the most probable class, and the class with the highest ratio of probability and share
            of the training labels; -1 for an attribute that is never answered.
        how: description of the training.
    """

    learned: int
    seconds: float
    rate: float
    labels: Classes
    answers: Classes
    how: str


def hold_back(attributes: Attributes, prepared: Path, fold: npt.NDArray[np.int32], number: int, folder: Path) -> Path:
    """A prepared data set with a fold as its validation split and all other images as its training split.

    Args:
        attributes: those of `prepared`.
        prepared: artifact of prepare_train.
        fold: int32 (N,), of every row of its index.
        number: the fold.
        folder: gets an index and a link to the shards.

    Returns:
        `folder`.
    """
    folder.mkdir()
    (folder / "shards").symlink_to(prepared / "shards")
    rows = read_index(prepared)
    write_attributes(folder, attributes)
    with (folder / INDEX).open("w", encoding="utf-8", newline="") as file:
        index = csv.DictWriter(file, index_columns(attributes), extrasaction="ignore")
        index.writeheader()
        index.writerows(
            row | {"split": "val" if part == number else "train"} for row, part in zip(rows, fold.tolist(), strict=True)
        )
    return folder


def calibrated(probabilities: Numbers, labels: npt.NDArray[np.integer[Any]], half: npt.NDArray[np.int32]) -> Figures:
    """Probabilities with temperatures, each half's fitted to the known labels of the other.

    Args:
        probabilities: (N, classes), at temperature 1.
        labels: (N,), -1 where unknown.
        half: (N,), 0 or 1.
    """
    logits = np.log(np.maximum(probabilities, TINY))
    found = np.empty_like(logits)
    for number in (0, 1):
        told = (half != number) & (labels != UNKNOWN)
        found[half == number] = softmax(logits[half == number] / fit_temperature(logits[told], labels[told]))
    return found


def train_and_measure(held: Path, params: Params, seed: int) -> Fold:
    """Train on a result of `hold_back`, and answer the held-out images."""
    from stages.common.training.device import choose_device
    from stages.common.training.network import Classifier, outputs_of
    from stages.label_doubt.folds import assign_folds

    started = time.monotonic()
    result, processes = fit_as_stage_train(held, params)
    seconds = time.monotonic() - started
    train, val = read_split(held, "train"), read_split(held, "val")
    seen = learned_classes(train.attributes, train.labels)
    classifier = Classifier(result.network, learned=seen, mirrored=params.train.mirrored_answers).eval()
    outputs = outputs_of(classifier, val, choose_device(params.train.device))[:-1]  # without embeddings
    half = assign_folds([row["group"] for row in read_index(held) if row["split"] == "val"], 2, seed)
    answers = np.full((2, *val.labels.shape), UNKNOWN, np.int16)
    for column, raw in enumerate(outputs):
        if np.isnan(raw).any():  # never answered
            continue
        probabilities = calibrated(raw, val.labels[:, column], half)
        of = train.labels[:, column]
        learned = np.bincount(of[of != UNKNOWN], minlength=raw.shape[1])
        answers[0, :, column] = probabilities.argmax(1)
        answers[1, :, column] = (probabilities / np.maximum(learned, 1)).argmax(1)
    rate = len(result.history) / sum(1 / epoch.images_per_s for epoch in result.history)
    how = f"{len(result.history)} epochs of {result.hyperparameters.batch_size} images a step on {result.device}"
    return Fold(len(train), seconds, rate, val.labels.astype(np.int16), answers, f"{how}, {processes} process(es)")


def count(attributes: Attributes, fold: Fold) -> list[Counts]:
    """Counts of answers by label, for each attribute: (2, classes, classes), rows are labels."""
    found = [np.zeros((2, len(attribute.classes), len(attribute.classes)), np.int64) for attribute in attributes]
    for column, of in enumerate(found):
        for at, answers in enumerate(fold.answers[:, :, column]):
            labels = fold.labels[:, column]
            known = (labels != UNKNOWN) & (answers != UNKNOWN)
            np.add.at(of[at], (labels[known], answers[known]), 1)
    return found


def accuracy(counts: Counts) -> float:
    """Share of right answers; NaN without labels."""
    return float(np.trace(counts) / total) if (total := counts.sum()) else float("nan")


def recalls(counts: Counts) -> Figures:
    """The same for each class (classes,)."""
    return np.array([row[at] / row.sum() if row.any() else np.nan for at, row in enumerate(counts)])


def class_rows(attribute: Attribute, counts: Counts) -> list[tuple[str, ...]]:
    """A row for the attribute and one for each class.

    Labels, their share, accuracy and balanced accuracy; for a class, recall and precision.

    Args:
        attribute: the attribute.
        counts: (2, classes, classes), as of `Fold`.
    """
    labels = counts[0].sum(1)
    if not labels.any():
        return [(attribute.title.lower(), "0", *[""] * 5)]
    per_class = [(recalls(count), recalls(count.T)) for count in counts]
    rows = [
        (attribute.title.lower(), f"{labels.sum():,}", f"{labels.max() / labels.sum():.4f}",
         *(_share(float(figure)) for count in counts for figure in (accuracy(count), np.nanmean(recalls(count))))),
    ]  # fmt: skip
    for at, name in enumerate(attribute.classes):
        figures = (shares[at] for pair in per_class for shares in pair)
        rows.append((f"- {name}", f"{labels[at]:,}", f"{labels[at] / labels.sum():.4f}", *map(_share, figures)))
    return rows


def _share(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def cross_validate(recipe: str, arguments: argparse.Namespace) -> None:
    """Train and measure by one recipe, and print its tables."""
    from stages.label_doubt.folds import assign_folds  # imports torch, which takes seconds

    params = load_params(Params, PARAMS, arguments.set, files_of(recipe))
    folds: list[Fold] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(arguments.data, folder, recipe, ["data.split=given"] if arguments.given else [])
        learned = read_attributes(prepared)
        known = names(learned)
        wanted = arguments.of or known
        if absent := set(wanted) - set(known):
            raise SystemExit(f"--of: no {', '.join(sorted(absent))} in the data, which have {', '.join(known)}")
        columns = [at for at, name in enumerate(known) if name in wanted]
        attributes = tuple(learned[at] for at in columns)
        index = read_index(prepared)
        groups = [row["group"] for row in index]
        if arguments.given:
            fold = np.array([row["split"] != "test" for row in index], np.int32)
        else:
            fold = assign_folds(groups, arguments.folds, arguments.seed)
        dealt = 1 if arguments.given else arguments.folds
        for number in range(min(dealt, arguments.only or dealt)):
            held = hold_back(learned, prepared, fold, number, folder / f"fold{number}")
            done = train_and_measure(held, params, arguments.seed)
            done = replace(done, labels=done.labels[:, columns], answers=done.answers[:, :, columns])
            folds.append(done)
            if arguments.save:
                arguments.save.mkdir(parents=True, exist_ok=True)
                np.savez(arguments.save / f"{recipe}-{number + 1}.npz", labels=done.labels, answers=done.answers)
            mean = np.nanmean([accuracy(counts[0]) for counts in count(attributes, done)])
            log.info("fold %d of %d: accuracy %.4f, %.1f s", number + 1, dealt, mean, done.seconds)

    rows: list[tuple[str, ...]] = []
    counts = [count(attributes, done) for done in folds]
    of_folds = np.array([[accuracy(counts[0]) for counts in of_fold] for of_fold in counts])
    for number, (done, shares) in enumerate(zip(folds, of_folds, strict=True), 1):
        cells = (f"{done.seconds:.1f}", f"{done.rate:,.0f}", _share(float(np.nanmean(shares))), *map(_share, shares))
        rows.append((str(number), str(done.learned), str(len(done.labels)), *cells))
    pooled = [np.sum([of_fold[at] for of_fold in counts], 0) for at in range(len(attributes))]
    seconds, rate = np.mean([done.seconds for done in folds]), np.mean([done.rate for done in folds])
    means = np.nanmean(of_folds, 0)
    all_in_all = [accuracy(counts[0]) for counts in pooled]
    rows.append(
        ("mean", "", "", f"{seconds:.1f}", f"{rate:,.0f}", _share(float(np.nanmean(means))), *map(_share, means))
    )
    rows.append(("pooled", "", "", "", "", _share(float(np.nanmean(all_in_all))), *map(_share, all_in_all)))
    print(f"\nrecipe {recipe}: {len(fold)} images in {len(set(groups))} groups, {dealt} folds", end=" ")
    print(f"(seed {arguments.seed}), {folds[0].how}\n")
    titles = [attribute.title.lower() for attribute in attributes]
    print(table(("fold", "learned from", "held back", "seconds", "images/s", "mean", *titles), rows))

    balanced = [[float(np.nanmean(recalls(counts[at]))) for counts in pooled if counts.any()] for at in (0, 1)]
    weighed = [accuracy(counts[1]) for counts in pooled]
    means_of = (np.nanmean(all_in_all), np.mean(balanced[0]), np.nanmean(weighed), np.mean(balanced[1]))
    print(
        "\nPooled. An attribute's figures are accuracy and balanced accuracy, a class's recall and precision; first of"
    )
    print("the most probable class, then of the one that is the most times its share of the labels learned from.\n")
    header = ("", "labels", "share, of the largest", "accuracy", "balanced", "weighed: accuracy", "balanced")
    every = [row for attribute, counts in zip(attributes, pooled, strict=True) for row in class_rows(attribute, counts)]
    print(table(header, [*every, ("mean", "", "", *map(_share, map(float, means_of)))]))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with raw/ and annotations")
    parser.add_argument("--recipe", action="append", metavar="NAME", help="repeatable (default: none, params.yaml)")
    held_back = parser.add_mutually_exclusive_group()
    held_back.add_argument("--folds", type=int, default=5, help="default: %(default)s")
    held_back.add_argument("--given", action="store_true", help="hold back the test split of list_eval_partition.txt")
    parser.add_argument("--seed", type=int, default=0, help="of the folds (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="N", help="hold back the first N folds only, to be quick")
    parser.add_argument("--of", nargs="+", metavar="NAME", help="attributes in the tables (default: all)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep labels and answers here")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="of stage train")
    arguments = parser.parse_args()
    start_logging()
    for recipe in arguments.recipe or ["none"]:
        cross_validate(recipe, arguments)


if __name__ == "__main__":
    main()
