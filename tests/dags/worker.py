"""Runs single tasks as an Airflow worker does: forked, supervised, with a real database, in a process of its own."""

import hashlib
import json
import os
import sqlite3
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

HERE = Path(__file__).parent
IMAGE = "face-attributes/test-stage:latest"
ARTIFACT = f"/artifacts/fake/{hashlib.sha256(b'key').hexdigest()}"
"""Path of what the fake stage makes, unless it is asked for another name than `key`."""
TASKS = ("stage", "release")
"""The task that is run; a DAG has one of them."""
VOLUMES = ("face-attributes-test-data", "face-attributes-test-artifacts")


@dataclass
class Outcome:
    """How one try of a task ended: its state, the lines of its log, its exceptions (type: text), its XComs.

    `label` is what the pages of Airflow call one of the tasks that were mapped.
    """

    state: str
    label: str | None
    log: list[str]
    error: str
    xcoms: dict[str, Any]


class Worker:
    """A process that runs one task after the other, each in a supervised fork as in production.

    Attributes:
        home: AIRFLOW_HOME, with the database and the tasks' logs.
        pid: of the process, which is the supervisor of the tasks.
    """

    def __init__(self, home: Path, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start the process and wait until it has its database, which may be there from an earlier worker."""
        self.home = home
        self.environment = {**environment_of(home), **environment}
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_configure, initargs=(self.environment,))
        self.pid = self._pool.submit(_prepare).result()

    def start_run(self, dag_id: str, behaviour: str = "succeed", recompute: bool = False) -> str:
        """Make a DAG run that asks the fake stage for a behaviour; return its id, which the stage knows as its name."""
        return self._pool.submit(_start_run, dag_id, behaviour, recompute).result()

    def run_try(self, run_id: str, environment: dict[str, str] | None = None, map_index: int = -1) -> Future[Outcome]:
        """Run the next try of the run's task, and return at once."""
        return self._pool.submit(_run_try, run_id, environment or {}, map_index)

    def run(self, dag_id: str, behaviour: str = "succeed") -> Outcome:
        """Start a run and run its first try to the end."""
        return self.run_try(self.start_run(dag_id, behaviour)).result()

    def set_xcom(self, run_id: str, task_id: str, value: Any, key: str = "return_value") -> None:
        """Set an XCom of a task, as people can with the API."""
        self._pool.submit(_set_xcom, run_id, task_id, key, value).result()

    def cancel(self, run_id: str) -> None:
        """Mark the run's task as failed in the database, which is what the user interface does."""
        with sqlite3.connect(self.home / "airflow.db") as database:
            database.execute("UPDATE task_instance SET state = 'failed' WHERE run_id = ?", (run_id,))
        database.close()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def environment_of(home: Path) -> dict[str, str]:
    """Environment in which Airflow runs the tests' DAGs with a database of its own."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "faults"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",  # seconds until a running task learns that it was cancelled
        "PYTHONPATH": str(HERE.parents[1] / "dags"),
    }


def _configure(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def _prepare() -> int:
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    from airflow.utils.db import initdb

    initdb()
    bundle = _bundle()
    bag = BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, bundle.name, bundle.version)
    _client()
    return os.getpid()


@cache
def _bundle() -> Any:
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    manager.sync_bundles_to_db()
    (bundle,) = manager.get_all_dag_bundles()
    bundle.initialize()
    return bundle


@cache
def _client() -> Any:
    """A client of the Execution API, which is served in this process: the same routes, without a port."""
    from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI
    from airflow.sdk.api.client import Client

    client: Any = Client(base_url=None, token="", dry_run=True, transport=InProcessExecutionAPI().transport)
    client.base_url = "http://in-process.invalid./"
    return client


def _start_run(dag_id: str, behaviour: str, recompute: bool) -> str:
    from airflow.models.dagbag import DBDagBag
    from airflow.sdk import timezone
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    run_id = uuid.uuid4().hex
    with create_session() as session:
        dag = DBDagBag().get_latest_version_of_dag(dag_id, session=session)
        assert dag
        dag.create_dagrun(
            run_id=run_id,
            run_after=timezone.utcnow(),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            conf={"behaviour": behaviour, "name": run_id, "recompute": recompute},
            session=session,
        )
    return run_id


def _set_xcom(run_id: str, task_id: str, key: str, value: Any) -> None:
    from airflow.models import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        task = select(TaskInstance).where(TaskInstance.run_id == run_id, TaskInstance.task_id == task_id)
        dag_id = session.scalars(task).one().dag_id
        XComModel.set(
            key=key, value=value, serialize=False, dag_id=dag_id, task_id=task_id, run_id=run_id, session=session
        )


def _run_try(run_id: str, environment: dict[str, str], map_index: int) -> Outcome:
    from airflow.executors.workloads import BundleInfo
    from airflow.models import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.sdk.api.datamodels._generated import TaskInstance as Work
    from airflow.sdk.execution_time.supervisor import supervise_task
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import select

    os.environ.update(environment)
    query = select(TaskInstance).where(
        TaskInstance.run_id == run_id, TaskInstance.task_id.in_(TASKS), TaskInstance.map_index == map_index
    )
    with create_session() as session:
        instance = session.scalars(query).one()
        instance.try_number += 1
        instance.state = TaskInstanceState.QUEUED
        session.flush()
        work = Work.model_validate(instance, from_attributes=True)
    log = Path(os.environ["AIRFLOW_HOME"], f"{run_id}.{map_index}.{work.try_number}.log")
    supervise_task(
        ti=work,
        bundle_info=BundleInfo(name=_bundle().name),
        dag_rel_path="stage_faults.py",
        token="",
        client=_client(),
        log_path=str(log),
    )
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    errors = [entry["error_detail"][0] for entry in entries if entry.get("error_detail")]
    with create_session() as session:
        instance = session.scalars(query).one()
        xcoms = session.scalars(
            select(XComModel).where(
                XComModel.run_id == run_id, XComModel.task_id.in_(TASKS), XComModel.map_index == map_index
            )
        ).all()
        return Outcome(
            state=str(instance.state),
            label=instance.rendered_map_index,
            log=[entry["event"] for entry in entries],
            error="\n".join(f"{error['exc_type']}: {error['exc_value']}" for error in errors),
            xcoms={xcom.key: XComModel.deserialize_value(xcom) for xcom in xcoms},
        )
