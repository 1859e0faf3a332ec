"""Airflow's own processes on SQLite, without an engine: what they survive, and what is cleaned up after them.

A DAG of the form of `predict_new_lots` waits for lots; its task writes down which there are, and works on until it may
end.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import is_running
from tests.waiting import PATIENCE_S, free_port, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DAG = """
import json, os, time
from pathlib import Path
from airflow.sdk import Asset, AssetWatcher, dag, task
from new_lots import NewLots

home = Path(os.environ["AIRFLOW_HOME"])
raw_data = Asset("raw_data", watchers=[AssetWatcher("new_lots", NewLots(str(home / "raw"), 1))])

@dag(schedule=(raw_data | Asset("model")), catchup=False, max_active_runs=1)
def predict():
    @task
    def work():
        lots = sorted(path.name for path in (home / "raw").iterdir())
        with (home / "begun").open("a") as file:
            file.write(json.dumps(lots) + "\\n")
        while not (home / "go").exists():
            time.sleep(0.1)
    work()

predict()
"""


class Airflow:
    """API server, scheduler, DAG processor and triggerer, each with its output in a file."""

    def __init__(self, home: Path) -> None:
        self.home, self.running = home, dict[str, subprocess.Popen[bytes]]()
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.environment = os.environ | {
            "PATH": f"{ROOT / 'images/airflow/bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "dags"),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API_AUTH__JWT_SECRET": uuid.uuid4().hex * 2,
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": str(PATIENCE_S),  # or a slow answer fails the task
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": str(int(PATIENCE_S)),
        }
        self.lot("s1")
        (home / "dags").mkdir()
        (home / "dags" / "predict.py").write_text(DAG)
        subprocess.run([*self.command("db"), "migrate"], env=self.environment, check=True, capture_output=True)
        for service in ("api-server", "scheduler", "dag-processor", "triggerer"):
            self.start(service)

    @staticmethod
    def command(*words: str) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "airflow", *words]

    def start(self, service: str) -> None:
        with (self.home / f"{service}.log").open("wb") as log:
            self.running[service] = subprocess.Popen(
                self.command(service), env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def end(self, service: str) -> None:
        """End it and its children, as with a power cut."""
        os.killpg(self.running[service].pid, signal.SIGKILL)
        self.running.pop(service).wait()

    def lot(self, name: str) -> None:
        (self.home / "raw" / name).mkdir(parents=True)
        (self.home / "raw" / name / f"{name}_1.png").write_bytes(b"x")

    def sql(self, text: str, *values: Any) -> list[Any]:
        with sqlite3.connect(self.home / "airflow.db", timeout=PATIENCE_S) as base:
            return base.execute(text, values).fetchall()

    def events(self) -> list[list[str]]:
        """The lots of all events."""
        extras = [json.loads(extra) for (extra,) in self.sql("select extra from asset_event order by id")]
        return [extra["payload"]["lots"] for extra in extras]

    def begun(self) -> list[list[str]]:
        """The lots that each run has found."""
        file = self.home / "begun"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def ago(column: str, days: int) -> str:
    """A time so long before that of a column, in SQL."""
    return f"strftime('%Y-%m-%d %H:%M:%f', {column}, '-{days} days')"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    started = Airflow(tmp_path_factory.mktemp("airflow"))
    yield started
    for service in [*started.running]:
        started.end(service)


def test_a_lot_that_arrives_while_another_is_predicted_is_predicted_after_it(airflow: Airflow) -> None:
    wait_until(airflow.begun, "the first run")
    assert airflow.begun() == [["s1"]]
    airflow.lot("s2")
    wait_until(lambda: len(airflow.events()) == 2, "the event of the second lot")
    assert airflow.begun() == [["s1"]]
    (airflow.home / "go").touch()
    wait_until(lambda: len(airflow.begun()) == 2, "the second run")
    assert airflow.begun()[1] == ["s1", "s2"]


def test_a_triggerer_that_starts_again_tells_what_came_meanwhile_and_nothing_twice(airflow: Airflow) -> None:
    wait_until(lambda: airflow.sql("select 1 from asset_state_store"), "that it keeps what it told")
    assert airflow.events() == [["s1"], ["s2"]]
    kept = wait_until(lambda: airflow.sql("select value from asset_state_store"), "what is kept")
    airflow.end("triggerer")
    airflow.start("triggerer")
    log = airflow.home / "triggerer.log"
    wait_until(lambda: "has not changed since the last event" in log.read_text(), "its first look")
    assert airflow.events() == [["s1"], ["s2"]]
    airflow.lot("s3")
    wait_until(lambda: len(airflow.events()) == 3, "the event of the third lot")
    assert airflow.events()[2] == ["s3"]
    wait_until(lambda: airflow.sql("select value from asset_state_store") != kept, "that it keeps this, too")
    airflow.end("triggerer")
    airflow.lot("s4")
    airflow.start("triggerer")
    wait_until(lambda: len(airflow.events()) == 4, "the event of the fourth lot")
    assert airflow.events()[3] == ["s1", "s2", "s3", "s4"]  # which are new, nobody knows


def test_a_scheduler_without_a_heartbeat_is_ended_and_one_that_works_is_not(airflow: Airflow) -> None:
    scheduler = airflow.running["scheduler"]
    command = [str(ROOT / "images/airflow/bin/watch"), "scheduler", str(scheduler.pid), "1", "3"]
    with (airflow.home / "watch.log").open("wb") as log:
        watch = subprocess.Popen(command, env=airflow.environment, stderr=log)
    with pytest.raises(subprocess.TimeoutExpired):
        watch.wait(8)
    assert is_running(scheduler.pid)
    scheduler.send_signal(signal.SIGSTOP)  # it lives, and does nothing, whatever it is told but SIGKILL
    airflow.sql(
        f"update job set latest_heartbeat = {ago('latest_heartbeat', 1)} where job_type = 'SchedulerJob'"  # noqa: S608
    )
    assert scheduler.wait(PATIENCE_S) == -signal.SIGKILL
    watch.wait(PATIENCE_S)
    (line,) = (airflow.home / "watch.log").read_text().splitlines()
    assert line.startswith("watch: scheduler is unhealthy for 3 s and more: ending it")


def test_the_database_loses_what_is_old_but_the_newest_run_and_event(airflow: Airflow) -> None:
    for service in [*airflow.running]:
        airflow.end(service)
    for table, column in (("dag_run", "start_date"), ("task_instance", "start_date"), ("asset_event", "timestamp"),
                          ("log", "dttm"), ("job", "latest_heartbeat"), ("xcom", "timestamp")):  # fmt: skip
        airflow.sql(f"update {table} set {column} = {ago(column, 40)}")  # noqa: S608
    clean = [sys.executable, str(ROOT / "images/airflow/bin/clean-database")]
    done = subprocess.run(clean, env=airflow.environment, check=True, capture_output=True, text=True)
    assert airflow.events() == [["s1", "s2", "s3", "s4"]]
    assert airflow.sql("select count(*) from dag_run") == [(1,)]
    assert airflow.sql("select count(*) from job") == [(0,)]
    assert airflow.sql("select count(*) from asset_state_store") == [(1,)]  # or all lots would be new again
    assert not airflow.sql("select name from sqlite_master where name like '_airflow_deleted%'")
    (line,) = done.stdout.splitlines()
    assert " rows older than 30d removed, " in line
    assert "asset_event 3" in line
