"""OpenLineage: what is told of a task, through Airflow's own provider; nothing where no transport is configured."""

import json
from pathlib import Path
from typing import Any

from tests.dags.worker import Worker

KEY = "0" * 64
OTHER = "f" * 64


def events(home: Path, **environment: str) -> list[dict[str, Any]]:
    """The events of a task whose engine is away."""
    (home / "airflow").mkdir()
    told = home / "events.jsonl"
    worker = Worker(home / "airflow", {name: value.format(told) for name, value in environment.items()})
    try:
        assert worker.run("unplugged").state == "up_for_retry"
    finally:
        worker.close()
    return [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []


def test_a_file_gets_the_events_of_a_task(tmp_path: Path) -> None:
    transport = '{{"type": "file", "log_file_path": "{}", "append": true}}'
    started, failed = events(tmp_path, AIRFLOW__OPENLINEAGE__TRANSPORT=transport)
    assert [event["eventType"] for event in (started, failed)] == ["START", "FAIL"]
    assert failed["job"]["name"] == "unplugged.stage"
    assert [(dataset["namespace"], dataset["name"]) for dataset in failed["inputs"]] == [
        ("face-attributes-data", "raw.sh")
    ]
    assert failed["outputs"] == []


def test_nothing_is_told_where_no_transport_is_configured(tmp_path: Path) -> None:
    assert events(tmp_path, AIRFLOW__OPENLINEAGE__TRANSPORT="") == []  # as docker-compose.yml has it


def test_artifacts_have_the_stage_as_name_and_the_key_as_version() -> None:
    from stage_operator.lineage import lineage

    inputs = {"raw": "/data/raw", "train": f"/artifacts/train/{KEY}", "registry": "/artifacts/registry"}
    result = {"path": f"/artifacts/evaluate/{OTHER}", "content": "c0", "cached": False, "headline": {"accuracy": 0.5}}
    told = lineage(inputs, result)
    assert [(dataset.namespace, dataset.name) for dataset in told.inputs] == [
        ("face-attributes-data", "raw"), ("face-attributes-artifacts", "train"),
        ("face-attributes-artifacts", "registry"),
    ]  # fmt: skip
    (made,) = told.outputs
    assert (made.name, made.facets["version"].datasetVersion) == ("evaluate", OTHER)
    assert told.inputs[1].facets["version"].datasetVersion == KEY
    assert {tag.key: tag.value for tag in told.run_facets["tags"].tags} == {
        "content": "c0", "cached": "False", "accuracy": "0.5",
    }  # fmt: skip
