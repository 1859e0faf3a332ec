"""How accurate are the defaults of section train on faces that the network has not seen?

    python -m bench.cross_validate --data FOLDER [--folds 5] [--seed N] [--only N] [--set train.KEY=VALUE ...]

FOLDER holds raw/ and annotations.csv. All its images are validated and prepared as the pipeline does it and dealt out
to folds; nearly the same pictures are in one fold. Each fold is held back once, while a network learns from
all others as stage train does. What is held back chooses nothing: the last epoch's weights are the result. It is only
measured, after every epoch, which the seconds include; images/s are those of training alone.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.machine import table
from bench.prepared import fit_as_stage_train, prepare
from stages.common.contract.logs import log, start_logging
from stages.common.contract.params import load_params
from stages.common.contract.version import ROOT
from stages.common.schema.attributes import Attributes, names, read_attributes, write_attributes
from stages.common.schema.dataset import INDEX, index_columns, read_index
from stages.train.params import Params

Figures = npt.NDArray[np.float64]


def hold_back(
    attributes: Attributes, prepared: Path, fold: npt.NDArray[np.int32], number: int, folder: Path
) -> tuple[Path, Figures]:
    """Show a prepared data set as if a fold were its validation split and all else its training split.

    Args:
        attributes: those of `prepared`.
        prepared: artifact of prepare_train.
        fold: int32 (N,), of every row of its index.
        number: the fold.
        folder: gets an index and a link to the shards.

    Returns:
        `folder`, and how many labels of each attribute are known in the fold, (attributes,).
    """
    folder.mkdir()
    (folder / "shards").symlink_to(prepared / "shards")
    rows = read_index(prepared)
    write_attributes(folder, attributes)
    with (folder / INDEX).open("w", encoding="utf-8", newline="") as file:
        index = csv.DictWriter(file, index_columns(attributes))
        index.writeheader()
        index.writerows(
            row | {"split": "val" if one == number else "train"} for row, one in zip(rows, fold.tolist(), strict=True)
        )
    held_back = [row for row, one in zip(rows, fold.tolist(), strict=True) if one == number]
    return folder, np.array([sum(bool(row[name]) for row in held_back) for name in names(attributes)], np.float64)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with raw/ and annotations.csv")
    parser.add_argument("--folds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the folds (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="N", help="hold back the first N folds only, to be quick")
    parser.add_argument("--set", action="append", default=[], metavar="train.KEY=VALUE")
    arguments = parser.parse_args()
    start_logging()
    section = load_params(Params, ROOT / "params.yaml", arguments.set).train

    from stages.label_doubt.folds import assign_folds  # imports torch, which takes seconds

    rows: list[tuple[object, ...]] = []
    right, known, seconds, rates = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(arguments.data / "raw", arguments.data / "annotations.csv", folder)
        attributes = read_attributes(prepared)
        fold = assign_folds([row["group"] for row in read_index(prepared)], arguments.folds, arguments.seed)
        for number in range(min(arguments.folds, arguments.only or arguments.folds)):
            held, labels = hold_back(attributes, prepared, fold, number, folder / f"fold{number}")
            started = time.monotonic()
            result, processes = fit_as_stage_train(held, section)
            seconds.append(time.monotonic() - started)
            rates.append(len(result.history) / sum(1 / epoch.images_per_s for epoch in result.history))
            told = result.history[-1].val_accuracy
            accuracy = np.array([np.nan if (share := told[one]) is None else share for one in names(attributes)])
            right.append(np.nan_to_num(accuracy) * labels)
            known.append(labels)
            learned, images = int((fold != number).sum()), int((fold == number).sum())
            rows.append((number + 1, learned, images, f"{seconds[-1]:.1f}", f"{rates[-1]:,.0f}", *_shares(accuracy)))
            log.info(
                "fold %d of %d: accuracy %.4f, %.1f s", number + 1, arguments.folds, np.nanmean(accuracy), seconds[-1]
            )
    of_folds = np.array(right) / np.maximum(known, 1)
    of_folds[np.array(known) == 0] = np.nan
    pooled = np.sum(right, 0) / np.maximum(np.sum(known, 0), 1)
    rows.append(
        ("mean", "", "", f"{np.mean(seconds):.1f}", f"{np.mean(rates):,.0f}", *_shares(np.nanmean(of_folds, 0)))
    )
    rows.append(("pooled", "", "", "", "", *_shares(np.where(np.sum(known, 0) > 0, pooled, np.nan))))
    print(f"\n{len(fold)} images, {arguments.folds} folds (seed {arguments.seed}), {section.epochs} epochs of", end=" ")
    print(f"{section.batch_size} images a step on {result.device}, {processes} process(es)\n")
    titles = [attribute.title.lower() for attribute in attributes]
    print(table(("fold", "learned from", "held back", "seconds", "images/s", "mean", *titles), rows))


def _shares(accuracy: Figures) -> list[str]:
    """Mean and single accuracies; those without known labels count for nothing."""
    return [f"{np.nanmean(accuracy):.4f}", *("" if np.isnan(share) else f"{share:.4f}" for share in accuracy)]


if __name__ == "__main__":
    main()
