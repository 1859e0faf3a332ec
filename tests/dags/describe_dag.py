"""Description of a DAG for tests; it runs in the process of `dag_reader`, where Airflow may be imported."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import XComArg
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction
from stage_operator import StageOperator


def refusal(dag: Any, conf: dict[str, Any]) -> str | None:
    """Why the server refuses to trigger a run with these values, or None."""
    try:
        DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).params.deep_merge(conf).validate()
    except ParamValidationError as error:
        return str(error)
    return None


def source(path: Any) -> str | None:
    """The task whose XCom an input is, or None for a path from outside."""
    return next(task.task_id for task, _ in path.iter_references()) if isinstance(path, XComArg) else None


def example(task: Any) -> Any:
    """A task as it runs, of a mapped one the first."""
    return task.unmap({**task.partial_kwargs, "lots": ["s1"]}) if isinstance(task, MappedOperator) else task


def described(dag: Any, confs: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Description of a DAG, and its answers to runs with these parameters."""
    timetable = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).timetable
    asked = datetime.now(UTC)
    next_run = timetable.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(None, None, dag.catchup)
    )
    assert not dag.start_date
    tasks = [task for task in map(example, dag.tasks) if isinstance(task, StageOperator)]
    return {
        "dag_id": dag.dag_id,
        "doc": dag.doc_md,
        "asked": asked.isoformat(),
        "next_run": next_run.run_after.isoformat() if next_run else None,  # None: when assets have news
        "starts_on": [asset.name for _, asset in timetable.asset_condition.iter_assets()],
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "groups": {task.task_id: task.task_group.group_id for task in dag.tasks if task.task_group},
        "upstream": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
        "retries": {task.task_id: [task.retries, bool(task.retry_exponential_backoff)] for task in dag.tasks},
        "mapped": [task.task_id for task in dag.tasks if isinstance(task, MappedOperator)],
        "docs": {task.task_id: task.doc_md or "" for task in dag.tasks},
        "owners": sorted({task.owner for task in dag.tasks}),
        "tags": sorted(dag.tags),
        "run_as": {
            task.task_id: {
                "retries": task.retries,
                "timeout": int(task.execution_timeout.total_seconds()) if task.execution_timeout else None,
                "mem_limit": task.mem_limit,
            }
            for task in tasks
        },
        "retry_delays": sorted({int(task.retry_delay.total_seconds()) for task in dag.tasks}),
        "gpu": {task.task_id: [task.gpu, task.pool, task.queue] for task in tasks},
        "makes": {task.task_id: [asset.name for asset in task.outlets] for task in tasks if task.outlets},
        "images": {task.task_id: task.image for task in tasks},
        "files": {task.task_id: task.files for task in tasks},
        "settings": {task.task_id: task.settings for task in tasks},
        "inputs": {task.task_id: {name: source(value) for name, value in task.inputs.items()} for task in tasks},
        "params": list(dag.params),
        "refusals": [refusal(dag, conf) for conf in confs],
    }
