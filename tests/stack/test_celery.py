"""Workers on two machines: two engines, each with a worker and a proxy of its own, and a folder that they share."""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack.conftest import impatient
from tests.stack.other_engine import OtherEngine
from tests.stack.slow_run import SlowRun, build_slow_stage, one_after_the_other, with_slow_stage
from tests.stack.stack import ROOT, Stack
from tests.waiting import free_port, wait_until

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = [pytest.mark.docker, pytest.mark.faults]

LOTS = [f"s{number}" for number in range(8)]
AT_ONCE = 2  # tasks of a worker
IMAGES = ("face-attributes/airflow", "face-attributes/engine_proxy", "face-attributes/slow_stage")


@dataclass(frozen=True)
class Cluster:
    """A stack with two workers.

    Attributes:
        stack: the first machine, with all services and a worker for all queues.
        engine: of the second.
        here: host name of the first machine's worker, which is the start of its container's id.
        there: likewise of the second's, a worker without a GPU.
    """

    stack: Stack
    engine: OtherEngine
    here: str
    there: str


@pytest.fixture(scope="module")
def cluster(docker: "DockerClient", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Both machines. They share the artifacts and the logs, as they would by NFS."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        lack = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        lack("a second engine needs root and dockerd")
    subprocess.run([ROOT / "scripts/images", "airflow", "engine_proxy", "serve", "archive"], check=True)
    build_slow_stage()
    folder = tmp_path_factory.mktemp("cluster")
    for parent in (folder, folder.parent):  # pytest's folders are private
        parent.chmod(0o755)
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/annotations.csv").touch()
    for name, uid in {"artifacts": 10001, "logs": 50000}.items():
        (folder / name).mkdir()
        os.chown(folder / name, uid, uid)
    artifacts = f"face-attributes-test-{uuid.uuid4().hex[:8]}-artifacts"
    with OtherEngine() as engine:
        engine.load(*IMAGES)
        share(folder / "artifacts", artifacts, ["docker", "--host", engine.host])
        share(folder / "artifacts", artifacts, ["docker"])
        api, redis = (f"{engine.address}:{free_port()}" for _ in range(2))
        files = [impatient(folder), with_slow_stage(folder), several_machines(folder, api, redis)]
        with Stack(
            folder, folder / "data", ["celery"], files,
            FACE_ATTRIBUTES_ARTIFACTS_VOLUME=artifacts, WORKER_CONCURRENCY=str(AT_ONCE),
        ) as stack:  # fmt: skip
            own = {"AIRFLOW_EXECUTION_URL": f"http://{api}/execution/", "REDIS_ADDRESS": redis}
            own |= {"WORKER_QUEUES": "default", "ENGINE_SOCKET": str(engine.socket)}
            worker = start_worker(stack, engine, own)
            yield Cluster(stack, engine, stack.container("airflow-worker")[:12], worker[:12])


def share(folder: Path, volume: str, docker: list[str]) -> None:
    """Make a volume that is a folder of this machine."""
    options = [f"--opt={option}" for option in ("type=none", "o=bind", f"device={folder}")]
    subprocess.run([*docker, "volume", "create", *options, volume], check=True, stdout=subprocess.DEVNULL)


def several_machines(folder: Path, api: str, redis: str) -> Path:
    """An addition to docker-compose.yml, that of docs/operate.md: what the first machine publishes, and shared logs."""
    file = folder / "docker-compose.override.yml"
    services = {
        "airflow-apiserver": {"ports": [f"{api}:8080"]},
        "redis": {"ports": [f"{redis}:6379"], "networks": ["default"]},
    }
    logs = {"driver_opts": {"type": "none", "o": "bind", "device": str(folder / "logs")}}
    file.write_text(json.dumps({"services": services, "volumes": {"logs": logs}}))
    return file


def start_worker(stack: Stack, engine: OtherEngine, own: dict[str, str]) -> str:
    """Start the worker of the second machine, as docs/operate.md says; the id of its container."""
    file = stack.folder / "worker.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in (stack.settings | own).items()))
    for name in ("DATA", "CORRECTIONS"):  # which Compose asks for, though no service here uses them
        volume = stack.settings[f"FACE_ATTRIBUTES_{name}_VOLUME"]
        subprocess.run(
            ["docker", "--host", engine.host, "volume", "create", volume], check=True, stdout=subprocess.DEVNULL
        )
    settings = ("--env-file", str(file))
    command = ("up", "--detach", "--wait", "--no-deps", "engine-proxy", "airflow-worker")
    stack.compose(*settings, *command, DOCKER_HOST=engine.host)
    return stack.compose(*settings, "ps", "--quiet", "airflow-worker", DOCKER_HOST=engine.host).strip()


def of_lots(run: SlowRun) -> dict[str, dict[str, Any]]:
    """Lot -> its task instance."""
    return {LOTS[task["map_index"]]: task for task in run.tasks("lots") if task["map_index"] >= 0}


def run_on_both(cluster: Cluster) -> SlowRun:
    """A run that has ended well, at which both machines had all hands full."""
    run = SlowRun(cluster.stack, dag_id="slow_lots")
    wait_until(lambda: both_at_work(cluster, run), "work on both machines")
    run.release(*LOTS)
    assert run.wait() == "success"
    assert {task["hostname"] for task in of_lots(run).values()} == {cluster.here, cluster.there}
    return run


def test_lots_run_on_both_machines_and_what_needs_a_gpu_where_one_is(cluster: Cluster) -> None:
    run = run_on_both(cluster)
    lots = of_lots(run)
    assert {task["hostname"] for task in run.tasks("on_gpu")} == {cluster.here}
    assert [lots[lot]["try_number"] for lot in LOTS] == [1] * len(LOTS)
    assert {lot: len(one_after_the_other(those)) for lot, those in run.writers_of_lots().items()} == dict.fromkeys(
        LOTS, 1
    )
    # The second task finds what the first has made, on whichever machine.
    assert {run.result("on_gpu", index)["headline"]["lots_reused"] for index in range(2)} == {1}
    log = cluster.stack.api(f"/dags/slow_lots/dagRuns/{run.run_id}/taskInstances/{on(cluster.there, lots)}")
    assert "Container ran" in json.dumps(log["content"])  # readable, on whichever machine it was written


def on(worker: str, lots: dict[str, dict[str, Any]]) -> str:
    """The end of the address of the log of a lot that ran on a worker."""
    index = next(task["map_index"] for task in lots.values() if task["hostname"] == worker)
    return f"lots/logs/1?map_index={index}&full_content=true"


def both_at_work(cluster: Cluster, run: SlowRun) -> dict[int, str]:
    """The containers of the second machine, by the index of their lot, once both have all hands full."""
    there = cluster.engine.stage_containers(run.run_id)
    at_work = len(there) == AT_ONCE == len(cluster.stack.stage_containers(run.run_id))
    return there if at_work and run.writers_of_lots().keys() >= {LOTS[index] for index in there} else {}


def test_a_redis_that_restarts_amid_lots_costs_none_and_both_workers_take_more(cluster: Cluster) -> None:
    stack = cluster.stack
    run = SlowRun(stack, dag_id="slow_lots")
    wait_until(lambda: both_at_work(cluster, run), "work on both machines")
    stack.compose("restart", "redis")
    run.release(*LOTS)
    assert run.wait() == "success"
    assert {len(one_after_the_other(writers)) for writers in run.writers_of_lots().values()} == {1}
    wait_until(lambda: "(healthy)" in stack.compose("ps", "airflow-worker"), "a worker that answers Celery")
    run_on_both(cluster)


def test_a_redis_that_is_gone_for_long_amid_lots_costs_none_and_both_workers_take_more(cluster: Cluster) -> None:
    stack = cluster.stack
    run = SlowRun(stack, dag_id="slow_lots")
    wait_until(lambda: both_at_work(cluster, run), "work on both machines")
    stack.compose("kill", "redis")
    time.sleep(45)
    stack.compose("up", "--detach", "--no-deps", "redis")
    run.release(*LOTS)
    assert run.wait() == "success"
    for writers in run.writers_of_lots().values():
        one_after_the_other(writers)
    run_on_both(cluster)


def test_a_worker_that_does_not_hear_celery_is_ended_and_starts_again(cluster: Cluster) -> None:
    stack = cluster.stack
    worker = stack.container("airflow-worker")
    started = stack.inspect(worker)[0]["State"]["StartedAt"]
    stop = "for one in /proc/[0-9]*; do grep -q '[M]ainProcess' $one/cmdline && kill -STOP ${one#/proc/}; done; true"
    stack.compose("exec", "-T", "airflow-worker", "sh", "-c", stop)
    wait_until(lambda: stack.inspect(worker)[0]["State"]["StartedAt"] != started, "a new start")
    wait_until(lambda: "(healthy)" in stack.compose("ps", "airflow-worker"), "a worker that answers Celery")


def test_a_worker_killed_amid_its_lots_loses_none(cluster: Cluster) -> None:
    stack, engine = cluster.stack, cluster.engine
    run = SlowRun(stack, dag_id="slow_lots")

    there = wait_until(lambda: both_at_work(cluster, run), "work on both machines")
    engine.docker("kill", cluster.there)  # with SIGKILL; the proxy there, and with it the engine, see its lines end
    wait_until(lambda: not engine.stage_containers(run.run_id), "end of the stages that the worker has left")
    run.release(*(lot for index, lot in enumerate(LOTS) if index not in there))
    second = {index: run.wait_for_writer(LOTS[index], beside=there[index][:12]) for index in there}
    run.release(*LOTS)

    assert run.wait() == "success"
    writers = {lot: one_after_the_other(those) for lot, those in run.writers_of_lots().items()}
    assert writers.keys() == set(LOTS)
    assert {index: writers[LOTS[index]] for index in there} == {
        index: [there[index][:12], second[index]] for index in there
    }
    assert {len(writers[lot]) for index, lot in enumerate(LOTS) if index not in there} == {1}
    lots = of_lots(run)
    assert {lot for lot, task in lots.items() if task["try_number"] == 2} == {LOTS[index] for index in there}
    assert {lots[LOTS[index]]["hostname"] for index in there} == {cluster.here}
    results = [run.result("lots", index) for index in range(len(LOTS))]
    assert [result["lots"] for result in results] == [[lot] for lot in LOTS]
    assert [result["headline"]["lots_reused"] for result in results] == [0] * len(LOTS)
