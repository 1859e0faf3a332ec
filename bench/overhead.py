"""What a task costs beside the work of its container: Airflow's part, the engine's part, on the real stack.

    python -m bench.overhead [--tasks N]

Starts the stack of docker-compose.yml under a name of its own (needs a container engine, and builds the images of
Airflow, the engine's proxy and stage archive if need be), runs N tasks of a stage without work one after the other and
N at once, and removes it all. A container's start and end are what the engine says (State.StartedAt and FinishedAt,
which the operator logs), those of a task what Airflow's API says.
"""

import argparse
import itertools
import json
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import table
from tests.stack.slow_run import SlowRun, build_slow_stage, with_slow_stage
from tests.stack.stack import ROOT, Stack

RAN = re.compile(r"Container ran [\d.]+ s, ([\dT:.+-]+) to ([\dT:.+-]+)")


class Times(NamedTuple):
    """Seconds of one task.

    Attributes:
        queued: until a process of its own began with it, after all that it waited for was done.
        before: from then to the start of the container.
        container: that it ran.
        after: from its end to the end of the task.
    """

    queued: float
    before: float
    container: float
    after: float


def times(stack: Stack, run: SlowRun, task: dict[str, Any]) -> Times:
    """The seconds of a task that has ended.

    Raises:
        ValueError: its log does not say when its container ran.
    """
    path = f"/dags/slow_stage/dagRuns/{run.run_id}/taskInstances/{task['task_id']}/logs/1?full_content=true"
    found = RAN.search(json.dumps(stack.api(path)["content"]))
    if not found:
        raise ValueError(f"the log of {run.run_id} does not say when its container ran")
    stamps = [task["scheduled_when"], task["start_date"], *found.groups(), task["end_date"]]
    moments = [datetime.fromisoformat(stamp) for stamp in stamps]
    return Times(*((later - earlier).total_seconds() for earlier, later in itertools.pairwise(moments)))


def line(how: str, measured: Iterable[Times]) -> list[str]:
    """A line of the table: medians and ranges."""
    parts: list[Callable[[Times], float]] = [
        lambda one: one.queued,
        lambda one: one.before,
        lambda one: one.after,
        lambda one: one.before + one.after,
        lambda one: one.container,
    ]
    cells = [sorted(part(one) for one in measured) for part in parts]
    return [how, *(f"{statistics.median(cell):.2f} ({cell[0]:.2f} to {cell[-1]:.2f})" for cell in cells)]


def measure(stack: Stack, count: int) -> Iterable[list[str]]:
    """The lines of the table."""
    SlowRun(stack, seconds=0).wait()  # the first one is slower: nothing is in the page cache yet
    single = []
    for _ in range(count):
        run = SlowRun(stack, seconds=0)
        run.wait()
        single += [times(stack, run, task) for task in run.tasks()]
    yield line("one after the other", single)
    runs = [SlowRun(stack, seconds=0) for _ in range(count)]
    for run in runs:
        run.wait()
    yield line(f"{count} at once", [times(stack, run, task) for run in runs for task in run.tasks()])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10, metavar="N", help="default: %(default)s, 16 at most")
    count = parser.parse_args().tasks
    subprocess.run([ROOT / "scripts/images", "airflow", "engine_proxy", "archive"], check=True, stdout=subprocess.PIPE)
    build_slow_stage()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # Airflow reads the DAGs there as another user
        (folder / "data/raw").mkdir(parents=True)
        with Stack(folder, folder / "data", files=[with_slow_stage(folder)]) as stack:
            header = ("tasks", "waiting", "task to container start", "container end to task end", "sum", "container")
            print("Seconds, median (lowest to highest)\n")
            print(table(header, measure(stack, count)))


if __name__ == "__main__":
    main()
