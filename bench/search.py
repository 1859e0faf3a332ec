"""Is what stage hyperopt finds better than the defaults, and than what random search finds in the same time?

    python -m bench.search --data FOLDER [--seeds 5] [--seconds 300] [--epochs N] [--final-epochs N] [--workers N]

FOLDER holds raw/ and annotations.csv, or is an artifact of prepare_train. Each seed deals all its images out anew: 60%
to learn from, 20% for the search to choose by, and 20% held back. Three searches run one after the other, each for the
same time, on the same cores and in the same space: TPE with successive halving (what the stage does), random search
with successive halving, and plain random search, which trains every trial in full. The defaults are the first trial of
each, so no search can do worse on the images that it chooses by. Then a network is trained with what each found, and
one with the defaults, for the same epochs and with the same seed, and measured on the held-back images.
"""

import argparse
import csv
import dataclasses
import shlex
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import describe, table
from bench.prepared import prepare
from stages.common.artifacts import MANIFEST
from stages.common.attributes import UNKNOWN
from stages.common.dataset import INDEX, INDEX_COLUMNS, read_index, read_split
from stages.common.errors import StageError
from stages.common.hyperparameters import Hyperparameters
from stages.common.logs import log, start_logging
from stages.common.params import load_params
from stages.common.pool import WorkerPool
from stages.common.version import ROOT
from stages.hyperopt.params import HyperoptSection
from stages.hyperopt.params import Params as HyperoptParams
from stages.train.params import Params as TrainParams

SHARES = (0.6, 0.8)
"""Of the images: below the first one learns, from there to the second one chooses, what is above is held back."""
CHANCE = {"startup_trials": 1_000_000}
WAYS: dict[str, dict[str, Any]] = {
    "TPE, halving": {},
    "random, halving": CHANCE,
    "random": CHANCE | {"rungs": []},
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A network of full length.

    Attributes:
        chosen_by: mean accuracy (0-1) on the images that the search chose by.
        accuracy: on those held back, likewise.
        loss: on those held back, in nats, mean over attributes.
    """

    chosen_by: float
    accuracy: float
    loss: float


def deal(prepared: Path, seed: int, folder: Path) -> Path:
    """Deal the images of a prepared data set out anew; those of one picture stay together.

    Returns:
        `folder`, with the same shards and another index.
    """
    rows = read_index(prepared)
    pictures = sorted({row["pixels"] for row in rows})
    order = np.random.default_rng(seed).permutation(len(pictures)).tolist()
    place = {picture: position / len(pictures) for picture, position in zip(pictures, order, strict=True)}
    folder.mkdir()
    (folder / "shards").symlink_to((prepared / "shards").absolute())
    with (folder / INDEX).open("w", encoding="utf-8", newline="") as file:
        index = csv.DictWriter(file, INDEX_COLUMNS, extrasaction="ignore")
        index.writeheader()
        for row in rows:
            share = place[row["pixels"]]
            split = "train" if share < SHARES[0] else "val" if share < SHARES[1] else "test"
            index.writerow(row | {"split": split})
    return folder


def train_and_measure(dealt: Path, section: HyperoptSection, epochs: int, chosen: Hyperparameters) -> Measured:
    """Train with one thread (it is called in other processes) and measure."""
    # not needed to search: importing torch takes seconds
    import torch

    from stages.common.fit import FitSettings, fit
    from stages.common.network import outputs_of

    learned, chosen_by, held_back = (read_split(dealt, split) for split in ("train", "val", "test"))
    settings = FitSettings(chosen, epochs, section.seed, section.device, threads=1)
    result = fit(learned, held_back, settings)
    outputs = outputs_of(result.network, chosen_by, torch.device("cpu"))
    known = chosen_by.labels != UNKNOWN
    right = np.stack([logits.argmax(1) for logits in outputs], 1) == chosen_by.labels
    return Measured(
        chosen_by=float(np.mean((right & known).sum(0) / known.sum(0))),
        accuracy=result.history[-1].val_mean_accuracy,
        loss=result.history[-1].val_loss,
    )


def compare(
    dealt: Path, section: HyperoptSection, epochs: int, workers: int, folder: Path
) -> dict[str, tuple[str, Measured]]:
    """One seed: way -> how many trials it had, and the network of full length.

    Args:
        dealt: data with three splits.
        section: of the searches; its first trial has the defaults.
        epochs: of the network.
        workers: processes.
        folder: for the state of the searches.
    """
    from stages.hyperopt.search import search
    from stages.hyperopt.training import run_trial

    found = {"defaults": ("", section.first)}
    for way, changes in WAYS.items():
        changed = section.model_copy(update=changes)
        state = folder / way
        state.mkdir()
        result = search(changed, partial(run_trial, dealt, changed), state, workers)
        finished = sum(trial.state == "finished" for trial in result.trials)
        found[way] = (f"{finished} of {len(result.trials)}", Hyperparameters(**result.best.hyperparameters))
        log.info("%s chose trial %d: %s", way, result.best.number, found[way][1].model_dump_json())
    with WorkerPool(workers, "--workers") as pool:
        jobs = [chosen for _, chosen in found.values()]
        measured = pool.map(partial(train_and_measure, dealt, section, epochs), jobs)
        return {way: (trials, one) for (way, (trials, _)), one in zip(found.items(), measured, strict=True)}


def rows_of(seeds: Sequence[Mapping[str, tuple[str, Measured]]]) -> list[list[str]]:
    """A row per seed and way, then the medians, and in how many seeds a way was better or worse than the defaults."""
    rows = [
        [str(seed), way, trials, f"{one.chosen_by:.4f}", f"{one.accuracy:.4f}", f"{one.loss:.4f}", ""]
        for seed, ways in enumerate(seeds, 1)
        for way, (trials, one) in ways.items()
    ]
    for way in seeds[0]:
        all_of_way = [ways[way][1] for ways in seeds]
        defaults = [ways["defaults"][1] for ways in seeds]
        medians = [
            f"{statistics.median(getattr(one, field.name) for one in all_of_way):.4f}"
            for field in dataclasses.fields(Measured)
        ]
        pairs = list(zip(all_of_way, defaults, strict=True))
        better = sum(one.accuracy > default.accuracy for one, default in pairs)
        worse = sum(one.accuracy < default.accuracy for one, default in pairs)
        lower = sum(one.loss < default.loss for one, default in pairs)
        told = "" if way == "defaults" else f"accuracy better {better}, worse {worse}; loss lower {lower}"
        rows.append(["median", way, "", *medians, told])
    return rows


def main() -> None:
    """Compare and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="raw/ and annotations.csv, or prepared data")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=300, help="for each search")
    arguments.add_argument("--epochs", type=int, default=0, help="of a trial in full (default: as in params.yaml)")
    arguments.add_argument("--final-epochs", type=int, default=0, help="of the networks (default: as in section train)")
    arguments.add_argument("--workers", type=int, default=0, help="processes (default: one per core or GPU)")
    arguments.add_argument("--set", action="append", default=[], metavar="hyperopt.KEY=VALUE")
    given = arguments.parse_args()
    start_logging()
    params = ROOT / "params.yaml"
    section = load_params(HyperoptParams, params, given.set).hyperopt
    section = section.model_copy(
        update={
            "timeout": given.seconds,
            "max_evals": 10_000,
            "epochs": given.epochs or section.epochs,
            "workers": given.workers,
        }
    )
    epochs = given.final_epochs or load_params(TrainParams, params).train.epochs
    from stages.hyperopt.training import count_workers

    workers = count_workers(section)
    lines = describe(f"python -m bench.search {shlex.join(sys.argv[1:])}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = given.data
        if not (prepared / MANIFEST).exists():
            prepared = prepare(given.data / "raw", given.data / "annotations.csv", folder)
        seeds = []
        for seed in range(1, given.seeds + 1):
            place = folder / str(seed)
            place.mkdir()
            dealt = deal(prepared, seed, place / "dealt")
            one = compare(dealt, section.model_copy(update={"seed": seed}), epochs, workers, place)
            seeds.append(one)
            log.info("seed %d: %s", seed, ", ".join(f"{way} {m.accuracy:.4f}" for way, (_, m) in one.items()))
    print("\n".join(f"- {line}" for line in lines))
    print(f"- {section.timeout:g} s a search, {workers} workers, networks of {epochs} epochs\n")
    header = ["seed", "way", "finished trials", "accuracy, chosen by", "accuracy, held back", "loss, held back",
              "seeds against the defaults"]  # fmt: skip
    print(table(header, rows_of(seeds)))


if __name__ == "__main__":
    try:
        main()
    except StageError as error:
        sys.exit(str(error))
