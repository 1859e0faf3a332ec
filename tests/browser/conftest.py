"""Fixture: Airflow in its image, with the real DAG on the real engine, whose stages a fake stands in for."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.airflow_user import ask, log_in
from tests.pipeline import STAGES
from tests.waiting import wait_until

if TYPE_CHECKING:
    from docker import DockerClient

ROOT = Path(__file__).parents[2]
DAG_ID = "ml_pipeline_face_attributes"
SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


@dataclass(frozen=True)
class Airflow:
    """A running Airflow.

    Attributes:
        url: its address, without a slash at the end.
        passwords: user -> password. `airflow` is an administrator, `nobody` has no role at all.
        run_id: of a run in which `validate` made a report, and `prepare_train` one of what is wrong with the data.
    """

    url: str
    passwords: dict[str, str]
    run_id: str


@pytest.fixture(scope="module")
def airflow(docker: "DockerClient") -> Iterator[Airflow]:
    """Airflow in a container, after one run of the pipeline."""
    subprocess.run([ROOT / "scripts/images", "airflow"], check=True)
    base = subprocess.run([ROOT / "images/base/build"], check=True, capture_output=True, text=True)
    name = f"test-browser-{uuid.uuid4().hex[:8]}"
    fake, _ = docker.images.build(
        path=str(Path(__file__).parent / "fake_stage"), buildargs={"BASE_IMAGE": base.stdout.strip()}, rm=True
    )
    for stage in STAGES:
        fake.tag(f"face-attributes/{stage}", name)
    data, artifacts = docker.volumes.create(f"{name}-data"), docker.volumes.create(f"{name}-artifacts")
    container = docker.containers.run(
        "face-attributes/airflow",
        ["standalone"],
        detach=True,
        name=name,
        ports={"8080/tcp": ("127.0.0.1", 0)},
        volumes={
            artifacts.name: {"bind": "/artifacts", "mode": "ro"},
            SOCKET: {"bind": "/var/run/docker.sock", "mode": "rw"},
        },
        group_add=[str(Path(SOCKET).stat().st_gid)],
        environment={
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "airflow:admin,nobody:",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "FACE_ATTRIBUTES_TAG": name,
            "FACE_ATTRIBUTES_DATA_VOLUME": data.name,
            "FACE_ATTRIBUTES_ARTIFACTS_VOLUME": artifacts.name,
        },
    )
    try:
        yield start(container)
    finally:
        container.remove(force=True, v=True)
        data.remove()
        artifacts.remove()
        for stage in STAGES:
            docker.images.remove(f"face-attributes/{stage}:{name}", noprune=True)


def start(container: Any) -> Airflow:
    """Wait until Airflow answers and its first run has ended."""
    container.reload()
    url = f"http://127.0.0.1:{container.ports['8080/tcp'][0]['HostPort']}"

    def answers() -> Any:
        try:
            return ask(f"{url}/api/v2/monitor/health")
        except OSError:
            return None

    def told() -> str:
        return str(container.logs(tail=50).decode())

    wait_until(answers, told)
    _, stored = container.exec_run("cat /opt/airflow/simple_auth_manager_passwords.json.generated")
    passwords = json.loads(stored)
    token = log_in(url, "airflow", passwords["airflow"])
    wait_until(lambda: ask(f"{url}/api/v2/dags?dag_id_pattern={DAG_ID}", token)["dags"], told)
    runs = f"{url}/api/v2/dags/{DAG_ID}/dagRuns"
    run_id = ask(runs, token, {"logical_date": None})["dag_run_id"]
    wait_until(lambda: ask(f"{runs}/{quote(run_id)}", token)["state"] == "failed", told)
    return Airflow(url, passwords, run_id)
