"""Seconds and memory of the DAGs that see every image, on Celery workers, and a check that all is done once.

    python -m bench.celery_workers [--images N ...] [--lot N] [--workers N] [--share] [--folder FOLDER]

For each N, it starts the stack of docker-compose.yml with that many workers under a name of its own (needs a container
engine, and builds images if need be), on N pictures of `bench.scale`. A champion is trained on the first lot. Then four
DAGs start at one moment: the pipeline, which ends after prepare_train, and those that validate, predict and monitor.
It fails if a task needs a second try, if an artifact or a lot is made twice, or if the predictions have not every image
once. Memory and CPU seconds of a container are those of all its processes, looked at every second, so that what it does
after the last look is missing.
"""

import argparse
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]

from bench.machine import memory_of, table
from bench.scale import write_data
from tests.stack.stack import DAG_ID, ROOT, Stack
from tests.waiting import wait_until

SHORT = """
data: {image_size: 32}
train: {epochs: 20, processes: 1}
label_doubt: {folds: 2, epochs: 1, workers: 1}
"""
"""params.yaml of the data: the champion is soon there."""
DAGS = (DAG_ID, "validate_data", "predict_new_lots", "model_monitoring_and_retraining")
ONCE = {"validate", "predict", "prepare_lots", "prepare_train", "monitor"}
"""Tasks whose work, as a whole or of a lot, is done once."""
LONGEST_S = 4 * 3600.0
LOOK_S = 1.0


class Used(NamedTuple):
    """Use of a container: its highest memory in MB (PSS), and CPU seconds."""

    memory: float
    cpu: float


class Watch(threading.Thread):
    """Looks at the containers of some runs until it is told to stop."""

    def __init__(self, stack: Stack) -> None:
        """Look at the containers of a stack's runs."""
        super().__init__(daemon=True)
        self.used: dict[tuple[str, ...], Used] = {}
        self.over = threading.Event()
        self._stack = stack

    def run(self) -> None:
        """Look again and again."""
        mine = ("--filter", f"volume={self._stack.artifacts}", "--filter", "label=face-attributes.run")
        while not self.over.wait(LOOK_S):
            found = subprocess.check_output(["docker", "ps", "--quiet", *mine], text=True).split()
            for container in self._stack.inspect(*found) if found else []:
                labels = container["Config"]["Labels"]
                key = tuple(labels[f"face-attributes.{name}"] for name in ("run", "task", "map_index"))
                before = self.used.get(key, Used(0, 0))
                with suppress(psutil.NoSuchProcess):
                    now = memory_and_cpu(container["State"]["Pid"])
                    self.used[key] = Used(*map(max, zip(before, now, strict=True)))

    def of(self, task: dict[str, Any]) -> Used:
        """Use of a task's container; zeros if it had none, or if that ended at once."""
        return self.used.get((task["dag_run_id"], task["task_id"], str(task["map_index"])), Used(0, 0))


def memory_and_cpu(pid: int) -> Used:
    """Use of a process and of all below it."""
    first = psutil.Process(pid)
    processes = [first, *first.children(recursive=True)]
    cpu = sum(sum(process.cpu_times()[:4]) for process in processes)  # with that of children that have ended
    return Used(sum(memory_of(process.pid) for process in processes), cpu)


def result(stack: Stack, task: dict[str, Any]) -> dict[str, Any]:
    """Return value of a task."""
    run, name, index = (task[key] for key in ("dag_run_id", "task_id", "map_index"))
    path = f"/dags/{task['dag_id']}/dagRuns/{run}/taskInstances/{name}/xcomEntries/return_value"
    return dict(stack.api(f"{path}?map_index={index}&deserialize=true")["value"])


def span(tasks: Sequence[dict[str, Any]]) -> float:
    """Seconds from the first start to the last end."""
    times = [[datetime.fromisoformat(task[name]) for task in tasks] for name in ("start_date", "end_date")]
    return (max(times[1]) - min(times[0])).total_seconds()


def wait(stack: Stack, run_id: str, dag: str) -> None:
    """Wait for the end of a run.

    Raises:
        SystemExit: it has failed.
    """
    if stack.wait_for_run(run_id, LONGEST_S, dag) != "success":
        failed = [task["task_id"] for task in stack.tasks(run_id, dag) if task["state"] == "failed"]
        raise SystemExit(f"a run of {dag} failed: {failed}")


def run_all(stack: Stack) -> list[dict[str, Any]]:
    """The tasks of all DAGs, started at one moment, that have ended well."""
    begun = datetime.now(UTC).isoformat()
    for dag in DAGS[1:]:
        stack.api(f"/dags/{dag}", {"is_paused": False}, "PATCH")
    runs = {dag: stack.trigger(dag) for dag in DAGS}

    def prepared() -> bool:
        states = {task["task_id"]: task["state"] for task in stack.tasks(runs[DAG_ID])}
        return states["prepare_train"] in {"success", "failed", "upstream_failed"}

    wait_until(prepared, "prepare_train", LONGEST_S)
    stack.end_run(runs[DAG_ID])
    for dag in DAGS[1:]:
        wait(stack, runs[dag], dag)
    found = []
    for dag in DAGS:  # those that the watchers have started, too
        for run in stack.api(f"/dags/{dag}/dagRuns?start_date_gte={begun.replace('+', '%2B')}")["dag_runs"]:
            found += [task for task in stack.tasks(run["dag_run_id"], dag) if task["state"] == "success"]
    return found


def predicted(stack: Stack, artifact: str) -> tuple[int, int]:
    """How many predictions an artifact has, and of how many images."""
    names = f"tail -q -n +2 {artifact}/outputs/*.csv | cut -d , -f 1"
    script = f"{names} | wc -l; {names} | sort -u | wc -l"
    rows, images = stack.compose("exec", "-T", "airflow-apiserver", "sh", "-c", script).split()
    return int(rows), int(images)


def measure(folder: Path, images: int, lots: int, workers: int) -> Iterator[list[str]]:
    """The rows of the table.

    Raises:
        SystemExit: something was done twice, or is missing.
    """
    made, computed = Counter[str](), Counter[str]()
    with Stack(folder, folder / "data", ["celery"]) as stack:
        for dag in DAGS[1:]:  # or their watchers start them as soon as they have looked twice
            stack.api(f"/dags/{dag}", {"is_paused": True}, "PATCH")
        scale = ("--no-recreate", "--scale", f"airflow-worker={workers}", "airflow-worker")
        stack.compose("up", "--detach", "--wait", *scale)
        wait(stack, stack.trigger(max_evals=0, lots=["l0000"], force=True), DAG_ID)
        watch = Watch(stack)
        watch.start()
        tasks = run_all(stack)
        watch.over.set()
        watch.join()
        results = [(task["task_id"], result(stack, task)) for task in tasks if task["task_id"] in ONCE]
        names = predicted(stack, next(told["path"] for name, told in results if name == "predict"))
    for name, told in results:
        if not told.get("cached"):
            computed[name] += 1
            if "lots_reused" in told["headline"]:
                made[name] += told["headline"]["lots"] - told["headline"]["lots_reused"]
    hosts = sorted({task["hostname"] for task in tasks})
    groups: dict[str, list[dict[str, Any]]] = {}
    for task in sorted(tasks, key=lambda task: str(task["start_date"])):
        groups.setdefault(task["task_id"], []).append(task)
    for name, those in [*groups.items(), ("all", tasks)]:
        took = Counter(task["hostname"] for task in those)
        used = [watch.of(task) for task in those]
        if not any(use.memory for use in used):
            continue  # it had no container
        yield [
            f"{images:,} in {lots}", name, " + ".join(str(took[host]) for host in hosts), str(made.get(name, "")),
            f"{span(those) if name == 'all' else max(span([task]) for task in those):.0f}",
            f"{sum(use.cpu for use in used):.0f}", f"{max(use.memory for use in used):.0f}",
        ]  # fmt: skip
    if again := [task["task_id"] for task in tasks if task["try_number"] > 1]:
        raise SystemExit(f"these were tried again: {again}")
    if dict(made) != {"predict": lots, "prepare_lots": lots - 1, "prepare_train": 0}:  # the champion has prepared one
        raise SystemExit(f"of {lots} lots were made: {dict(made)}")
    if {computed[name] for name in ("validate", "predict", "prepare_train", "monitor")} != {1}:
        raise SystemExit(f"an artifact was computed more than once: {dict(computed)}")
    if names != (images, images):
        raise SystemExit(f"there are {names[0]} predictions, of {names[1]} of {images} images")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000], help="pictures (default: 10000)")
    parser.add_argument("--lot", type=int, default=1000, help="images a lot (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--share", action="store_true", help="only 10,000 different pictures, and links to them")
    parser.add_argument("--folder", type=Path, help="where to write pictures (default: a temporary folder)")
    arguments = parser.parse_args()
    subprocess.run([ROOT / "scripts/images"], check=True, stdout=subprocess.PIPE)
    print(
        table(("images in lots", "task", "on each worker", "lots made", "longest, s", "CPU s", "MB of a container"), [])
    )
    for images in arguments.images:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            Path(name).chmod(0o755)  # stages run as another user
            data = Path(name) / "data"
            write_data(data, images, arguments.lot, share=arguments.share)
            (data / "params.yaml").write_text(SHORT, encoding="utf-8")
            for row in measure(Path(name), images, -(-images // arguments.lot), arguments.workers):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
