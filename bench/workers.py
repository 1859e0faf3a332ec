"""Tasks of one Celery worker and of two, side by side: seconds, memory, and whether all is done once.

    python -m bench.workers [--images N] [--lot N] [--workers N ...] [--folder FOLDER]

For each number of workers, N pictures of `bench.scale` go through what Airflow runs if all DAGs that need the same
artifacts start at one moment: validate three times, predict twice, monitor, and prepare_train, first in groups of lots.
They share one store. A worker does two tasks at a time, each in a process of its own; Airflow, Celery and containers
are left out. It fails if an artifact or a lot is made twice, or if the predictions have not every image once.
"""

import argparse
import csv
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import Memory, run_measured, table
from bench.scale import release, write_data
from stages.common.contract.data_folder import PARAMS

TASKS = 2
"""Of a worker at a time, as WORKER_CONCURRENCY."""
GROUPS = 32
"""Of lots, as `airflow.lot_groups` of params.yaml."""
SIDE = "data.image_size=32"


@dataclass(frozen=True)
class Done:
    """A task that has ended: its result, its seconds, and the memory of all its processes."""

    result: dict[str, Any]
    seconds: float
    memory: Memory


def do(store: Path, name: str, *arguments: object) -> Done:
    """Run a stage in a process of its own, as the container of a task does."""
    command = [sys.executable, "-m", f"stages.{name}", *map(str, arguments), "--store", str(store)]
    command += ["--params", str(PARAMS)] + ["--set", SIDE] * (name == "prepare_train")
    started = time.monotonic()
    output, memory = run_measured(command)
    return Done(json.loads(output.splitlines()[-1]), time.monotonic() - started, memory)


def made_lots(done: Sequence[Done]) -> int:
    """How many lots tasks of prepare_train or predict say that they have made."""
    told = [task.result["headline"] for task in done if not task.result.get("cached")]
    return sum(headline["lots"] - headline["lots_reused"] for headline in told)


def predicted(artifact: Path) -> list[str]:
    """The file names in the predictions of all lots."""
    names = []
    for file in sorted((artifact / "outputs").glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as rows:
            names += [row["filename"] for row in csv.DictReader(rows)]
    return names


def measure(workers: int, images: int, data: Path, champion: Path, store: Path) -> list[list[str]]:
    """The rows of the table.

    Raises:
        SystemExit: something was done twice, or is missing.
    """
    raw = ("--raw", data / "raw")
    started = time.monotonic()
    with ThreadPoolExecutor(workers * TASKS) as slots:

        def task(stage: str, *arguments: object) -> "Future[Done]":
            return slots.submit(do, store, stage, *arguments)

        predicts = [task("predict", *raw, "--champion", champion) for _ in range(2)]
        validates = [task("validate", *raw, "--annotations", data / "annotations.csv") for _ in range(3)]
        done = {"validate": [validate.result() for validate in validates]}
        known = ("--validate", done["validate"][0].result["path"])
        lots = list(task("prepare_train", *raw, *known, "--check").result().result["lots"])
        groups = [lots[at::GROUPS] for at in range(min(GROUPS, len(lots)))]
        parts = [task("prepare_train", *raw, *known, "--lots", json.dumps(group)) for group in groups]
        done["predict"] = [predict.result() for predict in predicts]
        seen = ("--champion", champion, "--predict", done["predict"][0].result["path"])
        monitor = task("monitor", *seen, *known, "--logs", store / "logs")
        done["groups of lots"] = [part.result() for part in parts]
        done["prepare_train"] = [task("prepare_train", *raw, *known).result()]
        done["monitor"] = [monitor.result()]
    seconds = time.monotonic() - started
    made = {stage: made_lots(done[stage]) for stage in ("predict", "groups of lots", "prepare_train")}
    if made != {"predict": len(lots), "groups of lots": len(lots), "prepare_train": 0}:
        raise SystemExit(f"of {len(lots)} lots were made: {made}")
    for stage in ("validate", "predict"):
        if (computed := sum(not each.result["cached"] for each in done[stage])) != 1:
            raise SystemExit(f"{stage} has computed its artifact {computed} times")
    names = predicted(Path(done["predict"][0].result["path"]))
    if not images == len(names) == len(set(names)):
        raise SystemExit(f"there are {len(names)} predictions, of {len(set(names))} of {images} images")
    rows = [
        [
            str(workers), stage, str(len(those)), str(made.get(stage, "")),
            f"{max(task.seconds for task in those):.0f}", f"{max(task.memory.proportional for task in those):.0f}",
        ]
        for stage, those in done.items()
    ]  # fmt: skip
    return [*rows, [str(workers), "all", "", "", f"{seconds:.0f}", ""]]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="pictures (default: %(default)s)")
    parser.add_argument("--lot", type=int, default=1000, help="images a lot (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1, then 2")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        champion = release(folder / "small", {"prepare_train": [SIDE]})
        write_data(folder / "data", arguments.images, arguments.lot)
        print(table(("workers", "stage", "tasks", "lots made", "longest, s", "MB of a task"), []))
        for workers in arguments.workers:
            store = folder / f"store{workers}"
            for row in measure(workers, arguments.images, folder / "data", champion, store):
                print(f"| {' | '.join(row)} |", flush=True)
            shutil.rmtree(store)


if __name__ == "__main__":
    main()
