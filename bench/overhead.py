"""Cost of a task beside the work of its container, and of a run on unchanged data, on the real stack.

    python -m bench.overhead [--tasks N] [--runs N] [--parts tasks runs]

Starts the stack of docker-compose.yml under another name (needs a container engine, and builds images if needed), and
removes all of it at the end. Start and end of a container are from the engine (State.StartedAt and FinishedAt, which
the operator logs), those of a task and of a run from Airflow's API.

    tasks   of a stage without work, N one after the other and N at once
    runs    of the whole pipeline on 400 sample avatars, N after the first, all of whose artifacts are there
"""

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import table
from tests.stack.slow_run import SlowRun, build_slow_stage, with_slow_stage
from tests.stack.stack import DAG_ID, ROOT, Stack

PARTS = ("tasks", "runs")
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


def container_ran(stack: Stack, task: dict[str, Any]) -> tuple[str, ...]:
    """When the container of a task that has ended began and ended; () if it had none."""
    run, name, index = (task[key] for key in ("dag_run_id", "task_id", "map_index"))
    path = f"/dags/{task['dag_id']}/dagRuns/{run}/taskInstances/{name}/logs/1?map_index={index}&full_content=true"
    found = RAN.search(json.dumps(stack.api(path)["content"]))
    return found.groups() if found else ()


def times(stack: Stack, task: dict[str, Any]) -> Times:
    """The seconds of a task that has ended, and had a container."""
    stamps = [task["scheduled_when"], task["start_date"], *container_ran(stack, task), task["end_date"]]
    moments = [datetime.fromisoformat(stamp) for stamp in stamps]
    return Times(*((later - earlier).total_seconds() for earlier, later in itertools.pairwise(moments)))


def cell(seconds: Iterable[float]) -> str:
    """Median and range."""
    ordered = sorted(seconds)
    return f"{statistics.median(ordered):.2f} ({ordered[0]:.2f} to {ordered[-1]:.2f})"


def line(how: str, measured: Iterable[Times]) -> list[str]:
    """A line of the table: medians and ranges."""
    parts: list[Callable[[Times], float]] = [
        lambda task: task.queued,
        lambda task: task.before,
        lambda task: task.after,
        lambda task: task.before + task.after,
        lambda task: task.container,
    ]
    measured = list(measured)
    return [how, *(cell(part(task) for task in measured) for part in parts)]


def measure_tasks(stack: Stack, count: int) -> Iterable[list[str]]:
    """The lines of the table."""
    SlowRun(stack, seconds=0).wait()  # the first one is slower: nothing is in the page cache yet
    single = []
    for _ in range(count):
        run = SlowRun(stack, seconds=0)
        run.wait()
        single += [times(stack, task) for task in run.tasks()]
    yield line("one after the other", single)
    runs = [SlowRun(stack, seconds=0) for _ in range(count)]
    for run in runs:
        run.wait()
    yield line(f"{count} at once", [times(stack, task) for run in runs for task in run.tasks()])


class RunTimes(NamedTuple):
    """Seconds of a run of the pipeline.

    Attributes:
        whole: from its trigger to its end.
        container: in which a container ran.
        task: in which a task ran, but no container.
        between: in which neither did.
    """

    whole: float
    container: float
    task: float
    between: float


def covered(spans: Iterable[tuple[str, ...]]) -> float:
    """Seconds that lie in at least one span of time."""
    seconds, end = 0.0, float("-inf")
    for start, stop in sorted([datetime.fromisoformat(moment).timestamp() for moment in span] for span in spans):
        seconds += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return seconds


def run_times(stack: Stack, run_id: str) -> RunTimes:
    """The seconds of a run that has ended."""
    run = stack.api(f"/dags/{DAG_ID}/dagRuns/{run_id}")
    ran = [task for task in stack.tasks(run_id) if task["state"] == "success"]
    whole = covered([(run["queued_at"], run["end_date"])])
    tasks = covered((task["start_date"], task["end_date"]) for task in ran)
    containers = covered(filter(None, (container_ran(stack, task) for task in ran)))
    return RunTimes(whole, containers, tasks - containers, whole - tasks)


def measure_runs(stack: Stack, count: int) -> Iterator[list[str]]:
    """The line of the table."""
    stack.api("/dags/predict_new_lots", {"is_paused": True}, "PATCH")  # it would predict beside the runs
    found = []
    for number in range(count + 1):
        run_id = stack.trigger(epochs=1, max_evals=1)
        if (state := stack.wait_for_run(run_id, 1800)) != "success":
            sys.exit(f"a run ended in {state}: {[task for task in stack.tasks(run_id) if task['state'] == 'failed']}")
        if number:  # the first makes what the others find
            found.append(run_times(stack, run_id))
    done = sum(task["state"] == "success" for task in stack.tasks(run_id))
    yield [str(done), *(cell(parts) for parts in zip(*found, strict=True))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10, metavar="N", help="default: %(default)s, 16 at most")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    arguments = parser.parse_args()
    needed = [] if "runs" in arguments.parts else ["airflow", "engine_proxy", "archive"]  # none named: all
    subprocess.run([ROOT / "scripts/images", *needed], check=True, stdout=subprocess.PIPE)
    build_slow_stage()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # Airflow reads the DAGs there as another user
        draw = [sys.executable, "-m", "data.make_samples", "--count", "400", "--out", str(folder / "data")]
        subprocess.run(draw, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        with Stack(folder, folder / "data", files=[with_slow_stage(folder)]) as stack:
            print("Seconds, median (lowest to highest)")
            if "tasks" in arguments.parts:
                header = (
                    "tasks",
                    "waiting",
                    "task to container start",
                    "container end to task end",
                    "sum",
                    "container",
                )
                print("\n" + table(header, measure_tasks(stack, arguments.tasks)))
            if "runs" in arguments.parts:
                columns = (
                    "tasks done",
                    "run on unchanged data",
                    "in a container",
                    "in a task beside it",
                    "between tasks",
                )
                print("\n" + table(columns, measure_runs(stack, arguments.runs)))


if __name__ == "__main__":
    main()
