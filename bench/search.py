"""Results of stage hyperopt, compared with the defaults, and with random search with as much training.

    python -m bench.search --data FOLDER [--budget-epochs N | --seconds N] [--seeds 5] [--epochs N] [--final-epochs N]

FOLDER holds raw/ and annotations.csv, or is an artifact of prepare_train. Each seed divides all its images anew: into
training images, images by which the search chooses, and held-out images (`--shares`). Three searches run one after the
other, in the same space and on the same cores: TPE with successive halving (as in the stage), random search with
successive halving, and plain random search, which trains every trial in full. Each has the same number of epochs in
total, over the same images: that is equal time on an idle machine, and it does not depend on other load; the table has
the seconds per epoch of each. With --seconds they get equal seconds instead.

The defaults are the first trial of each search, so no search is worse on the images by which it chooses. The results
and the defaults are then trained for --final-epochs, with several training seeds that no search has used, and measured
on the held-out images. The loss is that of a model of stage train: after temperatures fitted to the images by which the
search chose.

The protocols of the figures in bench/README.md were fixed before the seeds reported there were run; space, objective,
rungs and length of the trials were developed with other divisions of the faces (seeds above 100).
"""

import argparse
import csv
import dataclasses
import math
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.machine import describe, table
from bench.prepared import prepare
from stages.common.contract.artifacts import MANIFEST
from stages.common.contract.data_folder import PARAMS
from stages.common.contract.errors import StageError
from stages.common.contract.logs import log, start_logging
from stages.common.contract.params import load_params
from stages.common.inference.calibration import cross_entropy, fit_temperature
from stages.common.schema.attributes import UNKNOWN, read_attributes, write_attributes
from stages.common.schema.dataset import INDEX, Split, index_columns, read_index, read_split
from stages.common.training.hyperparameters import Hyperparameters
from stages.common.workers.pool import WorkerPool
from stages.hyperopt.params import Params as HyperoptParams
from stages.train.params import Params as TrainParams

CHANCE = {"startup_trials": 1_000_000}
WAYS: dict[str, dict[str, Any]] = {
    "TPE, halving": {},
    "random, halving": CHANCE,
    "random": CHANCE | {"rungs": []},
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of searches and trainings.

    Attributes:
        ways: the searches, by their names in `WAYS`.
        budget: epochs of all trials of a search.
        epochs: of a network.
        trainings: with another seed each, of every network.
    """

    ways: Sequence[str]
    budget: float
    epochs: int
    trainings: int


@dataclasses.dataclass(frozen=True)
class Measured:
    """A network of full length, or the mean of some.

    Attributes:
        chosen_by: mean accuracy (0-1) on the images that the search chose by.
        accuracy: on those held back, likewise.
        loss: on those held back, in nats, mean over attributes, after temperature scaling.
        seconds: of training.
    """

    chosen_by: float
    accuracy: float
    loss: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Found:
    """Result of a way with one seed.

    Attributes:
        trials: how many there were, and how many of them were trained in full; empty for the defaults.
        pace: seconds that an epoch of its trials took, likewise 0.
        measured: the mean of its networks.
    """

    trials: str
    pace: float
    measured: Measured


def deal(prepared: Path, seed: int, shares: Sequence[float], folder: Path) -> Path:
    """Deal the images of a prepared data set out anew; those of one picture stay together.

    Args:
        prepared: artifact of prepare_train.
        seed: of the deal.
        shares: of the images, to learn from and to choose by; the rest is held back.
        folder: is made if it is not there.

    Returns:
        `folder`, with the same shards and another index.
    """
    rows = read_index(prepared)
    pictures = sorted({row["group"] for row in rows})
    order = np.random.default_rng(seed).permutation(len(pictures)).tolist()
    place = {picture: position / len(pictures) for picture, position in zip(pictures, order, strict=True)}
    if folder.exists():
        return folder
    folder.mkdir()
    (folder / "shards").symlink_to((prepared / "shards").absolute())
    attributes = read_attributes(prepared)
    write_attributes(folder, attributes)
    with (folder / INDEX).open("w", encoding="utf-8", newline="") as file:
        index = csv.DictWriter(file, index_columns(attributes), extrasaction="ignore")
        index.writeheader()
        for row in rows:
            share = place[row["group"]]
            split = "train" if share < shares[0] else "val" if share < sum(shares) else "test"
            index.writerow(row | {"split": split})
    return folder


def train_and_measure(dealt: Path, params: HyperoptParams, epochs: int, job: tuple[Hyperparameters, int]) -> Measured:
    """Train what was chosen, with a training seed and one thread (it is called in other processes), and measure."""
    # not needed to search: importing torch takes seconds
    from stages.common.training.device import choose_device
    from stages.common.training.fit import FitSettings, fit
    from stages.common.training.network import outputs_of

    chosen, seed = job
    learned, chosen_by, held_back = (read_split(dealt, split) for split in ("train", "val", "test"))
    started = time.process_time()
    device = params.hyperopt.device
    settings = FitSettings(chosen, params.augmentation, epochs, seed, device, threads=1)
    network = fit(learned, chosen_by, settings).network
    seconds = time.process_time() - started
    before, new = (outputs_of(network, split, choose_device(device, threads=1)) for split in (chosen_by, held_back))
    losses = [
        cross_entropy(logits, held_back.labels[:, column], fit_temperature(before[column], chosen_by.labels[:, column]))
        for column, logits in enumerate(new)
    ]
    return Measured(_accuracy(before, chosen_by), _accuracy(new, held_back), float(np.mean(losses)), seconds)


def _accuracy(outputs: Sequence[npt.NDArray[np.float32]], split: Split) -> float:
    known = split.labels != UNKNOWN
    right = np.stack([logits.argmax(1) for logits in outputs], 1) == split.labels
    return float(np.mean((right & known).sum(0) / known.sum(0)))


def compare(dealt: Path, params: HyperoptParams, limits: Limits, workers: int, folder: Path) -> dict[str, Found]:
    """One seed: what each way came to.

    Args:
        dealt: data with three splits.
        params: of the searches; the first trial has the defaults.
        limits: of searches and networks.
        workers: processes.
        folder: for the state of the searches.
    """
    from stages.hyperopt.search import search
    from stages.hyperopt.training import run_trial

    section = params.hyperopt
    chosen, told = {"defaults": section.first}, {"defaults": ("", 0.0)}
    for way in limits.ways:
        changed = section.model_copy(update=WAYS[way])
        state = folder / way
        state.mkdir(exist_ok=True)
        trial = partial(run_trial, dealt, params.augmentation, changed, "accuracy")
        result = search(changed, trial, state, workers, limits.budget)
        finished = sum(trial.state == "finished" for trial in result.trials)
        spent = sum(trial.epochs for trial in result.trials)
        told[way] = f"{finished} of {len(result.trials)}", sum(trial.seconds for trial in result.trials) / spent
        chosen[way] = Hyperparameters(**result.best.hyperparameters)
        log.info("%s chose trial %d: %s", way, result.best.number, chosen[way].model_dump_json())
    seeds = [section.seed + 1000 * number for number in range(1, limits.trainings + 1)]
    with WorkerPool(workers, "--workers") as pool:
        jobs = [(hyperparameters, seed) for seed in seeds for hyperparameters in chosen.values()]
        networks = list(pool.map(partial(train_and_measure, dealt, params, limits.epochs), jobs))
    return {way: Found(*told[way], _mean(networks[at :: len(chosen)])) for at, way in enumerate(chosen)}


def _mean(networks: Sequence[Measured]) -> Measured:
    return Measured(*np.mean([dataclasses.astuple(network) for network in networks], axis=0).tolist())


def rows_of(seeds: Sequence[Mapping[str, Found]], first: int) -> list[list[str]]:
    """A row per seed and way, then the medians, and in how many seeds a way was better or worse than the others."""
    rows = [
        [str(number), way, found.trials, _short(found.pace), *_cells(found.measured), ""]
        for number, ways in enumerate(seeds, first)
        for way, found in ways.items()
    ]
    for way in seeds[0]:
        mine = [ways[way].measured for ways in seeds]
        medians = Measured(*np.median([dataclasses.astuple(measured) for measured in mine], axis=0).tolist())
        told = []
        for other in seeds[0]:
            if other != way:
                pairs = list(zip(mine, (ways[other].measured for ways in seeds), strict=True))
                more = sum(own.accuracy > against.accuracy for own, against in pairs)
                lower = sum(own.loss < against.loss for own, against in pairs)
                told.append(f"{other} {more}, {lower}")
        pace = statistics.median(ways[way].pace for ways in seeds)
        rows.append(["median", way, "", _short(pace), *_cells(medians), "; ".join(told)])
    return rows


def _short(seconds: float) -> str:
    return f"{seconds:.3f}" if seconds else ""


def _cells(measured: Measured) -> list[str]:
    return [f"{measured.chosen_by:.4f}", f"{measured.accuracy:.4f}", f"{measured.loss:.4f}", f"{measured.seconds:.1f}"]


def main() -> None:
    """Compare and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="raw/ and annotations.csv, or prepared data")
    arguments.add_argument("--seeds", type=int, default=5, help="how many (default: %(default)s)")
    arguments.add_argument("--first-seed", type=int, default=1, help="the others follow (default: %(default)s)")
    budget = arguments.add_mutually_exclusive_group()
    budget.add_argument("--budget-epochs", type=int, default=480, help="for each search (default: %(default)s)")
    budget.add_argument("--seconds", type=float, default=math.inf, help="for each search, in place of epochs")
    arguments.add_argument("--shares", type=float, nargs=2, default=(0.6, 0.2), help="to learn from and to choose by")
    arguments.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="searches (default: all)")
    arguments.add_argument("--epochs", type=int, default=0, help="of a trial in full (default: as in params.yaml)")
    arguments.add_argument("--final-epochs", type=int, default=0, help="of the networks (default: as in section train)")
    arguments.add_argument("--trainings", type=int, default=3, help="of each network (default: %(default)s)")
    arguments.add_argument("--workers", type=int, default=0, help="processes (default: one per core or GPU)")
    arguments.add_argument("--work", type=Path, help="searches kept there go on, perhaps with a larger budget")
    arguments.add_argument("--set", action="append", default=[], metavar="hyperopt.KEY=VALUE")
    given = arguments.parse_args()
    start_logging()
    params = load_params(HyperoptParams, PARAMS, given.set)
    section = params.hyperopt.model_copy(
        update={
            "timeout": given.seconds,
            "max_evals": 10_000,
            "epochs": given.epochs or params.hyperopt.epochs,
            "workers": given.workers,
        }
    )
    limits = Limits(
        ways=given.ways,
        budget=given.budget_epochs if math.isinf(given.seconds) else math.inf,
        epochs=given.final_epochs or load_params(TrainParams, PARAMS).train.epochs,
        trainings=given.trainings,
    )
    from stages.common.training.device import trainings_at_once
    from stages.hyperopt.stage import complete

    workers = trainings_at_once(section.device, section.workers, section.lag)
    lines = describe(f"python -m bench.search {shlex.join(sys.argv[1:])}")
    with tempfile.TemporaryDirectory() as name:
        folder = given.work or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        prepared = given.data
        if not (prepared / MANIFEST).exists():
            prepared = prepare(given.data, folder)
        section = complete(section, prepared)
        seeds = []
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            place = folder / str(seed)
            place.mkdir(exist_ok=True)
            dealt = deal(prepared, seed, given.shares, place / "dealt")
            searched = params.model_copy(update={"hyperopt": section.model_copy(update={"seed": seed})})
            by_way = compare(dealt, searched, limits, workers, place)
            seeds.append(by_way)
            log.info("seed %d: %s", seed, ", ".join(f"{way} {found.measured}" for way, found in by_way.items()))
    print("\n".join(f"- {line}" for line in lines))
    print(
        f"- a search has {limits.budget:g} epochs and {section.timeout:g} s, {workers} workers; networks of "
        f"{limits.epochs} epochs, means of {limits.trainings} training seeds\n"
    )
    header = [
        "seed", "way", "trials in full, of all", "s an epoch", "accuracy, chosen by", "accuracy, held back",
        "loss, held back", "s to train", "seeds with higher accuracy, lower loss than",
    ]  # fmt: skip
    print(table(header, rows_of(seeds, given.first_seed)))


if __name__ == "__main__":
    try:
        main()
    except StageError as error:
        sys.exit(str(error))
