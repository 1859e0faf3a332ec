"""Fixtures: one running stack for all tests of this folder, and a run that has ended well."""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack.slow_run import build_slow_stage, with_slow_stage
from tests.stack.stack import DAG_ID, ROOT, RUN_S, Stack
from tests.waiting import wait_until

if TYPE_CHECKING:
    from docker import DockerClient

RETRY_DELAY_S = 2  # in place of 60 s, so that nobody waits for tests that kill
BRIEF = """
hyperopt: {epochs: 1, workers: 1}
train: {processes: 1}
label_doubt: {folds: 2, epochs: 1, workers: 1}
"""
"""A params.yaml of the data: training is over soon, and starts no processes that import as much as the stage itself."""
IMPATIENT = {  # seconds, likewise
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",  # a busy machine keeps living tasks from it for some
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
}


@dataclass(frozen=True)
class Run:
    """A run that ended well.

    Attributes:
        run_id: Airflow's name of it.
        containers: task id -> what the engine said about its container while it was there.
    """

    run_id: str
    containers: dict[str, dict[str, Any]]


@pytest.fixture(scope="package")
def stack(docker: "DockerClient", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, on 96 sample images, with the DAGs of the slow stage."""
    subprocess.run([ROOT / "scripts/images"], check=True)
    build_slow_stage()
    folder = tmp_path_factory.mktemp("stack")
    data = folder / "data"
    subprocess.run([sys.executable, "-m", "data.make_samples", "--out", data, "--count", "96"], cwd=ROOT, check=True)
    (data / "params.yaml").write_text(BRIEF)
    for parent in (data, folder, folder.parent):  # pytest's folders are private, and stages run as another user
        parent.chmod(0o755)
    with Stack(folder, data, files=[impatient(folder), with_slow_stage(folder)]) as stack:
        yield stack


def impatient(folder: Path) -> Path:
    """An addition to docker-compose.yml: params.yaml with short pauses, no schedules and approvals, a hasty Airflow."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    shorter, pauses = re.subn(r"(retry_delay|new_lots_interval): \d+", rf"\1: {RETRY_DELAY_S}", text)
    changed, schedules = re.subn('"@(daily|weekly)"', "null", shorter)  # or at midnight a run stands in a test's way
    changed, approvals = re.subn("approval: 0", "approval: 86400", changed)
    changed, tasks = re.subn(r"(mem_limit: \d+g)}", r"\1, cpus: 1}", changed)
    assert (pauses, schedules, approvals) == (2, 2, 1)
    # Beside other tests, a training in two threads took ten times the CPU seconds, for each waited for the other.
    assert tasks > 10
    params = folder / "params.yaml"
    params.write_text(changed, encoding="utf-8")
    params.chmod(0o644)
    file = folder / "impatient.yml"
    service = {"volumes": [f"{params}:/app/params.yaml:ro"], "environment": IMPATIENT}
    names = ("apiserver", "scheduler", "dag-processor", "triggerer", "worker")
    file.write_text(json.dumps({"services": {f"airflow-{name}": service for name in names}}))  # JSON is YAML
    return file


@pytest.fixture(scope="package")
def first(stack: Stack) -> Run:
    """The first run, triggered as people do from a terminal."""
    conf = json.dumps({"epochs": 1, "max_evals": 1})
    run_id = f"test-{uuid.uuid4().hex[:8]}"
    stack.airflow("dags", "trigger", DAG_ID, "--run-id", run_id, "--conf", conf)
    seen: dict[str, dict[str, Any]] = {}

    def ended() -> bool:
        for container in stack.inspect(*stack.stage_containers(run_id)):
            seen[container["Config"]["Labels"]["face-attributes.task"]] = container
        return stack.run_state(run_id) in {"success", "failed"}

    wait_until(ended, "end of the first run", RUN_S, pause=0.2)
    states = {task["task_id"]: task["state"] for task in stack.tasks(run_id)}
    assert set(states.values()) == {"success"}, states
    return Run(run_id, seen)
