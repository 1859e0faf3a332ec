"""The DAG as Airflow reads it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"epochs": 1, "max_evals": 1000, "lots": ["s1", "s2-b"], "force": True},
    {"epochs": None, "max_evals": None, "lots": None},
]
REFUSED: list[dict[str, Any]] = [
    {"epochs": -1},
    {"epochs": 0},
    {"epochs": 1001},
    {"epochs": "ten"},
    {"epochs": "{{ 7*7 }}"},
    {"max_evals": 1.5},
    {"max_evals": "; rm -rf /"},
    {"lots": "s1"},
    {"lots": ["; rm"]},
    {"lots": ["{{ 7*7 }}"]},
    {"lots": ["../s1"]},
    {"lots": ["--force"]},
    {"force": "yes"},
]


def describe(*confs: dict[str, Any]) -> Any:
    command = [sys.executable, "-m", "tests.dags.describe_dag", *map(json.dumps, confs)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def dag() -> Any:
    return describe(*ACCEPTED, *REFUSED)


def test_a_run_a_day_and_one_at_a_time(dag: Any) -> None:
    assert dag["dag_id"] == "ml_pipeline_face_attributes"
    assert dag["schedule"] == "@daily"
    assert not dag["catchup"]
    assert dag["max_active_runs"] == 1
    assert "Run with parameters" in dag["doc"]


def test_nothing_runs_before_the_checks(dag: Any) -> None:
    assert dag["upstream"]["check_environment"] == []
    assert dag["upstream"]["check_raw_data"] == ["check_environment"]
    assert dag["upstream"]["validate"] == ["check_raw_data"]
    assert dag["groups"] == {
        "check_environment": "checks",
        "check_raw_data": "checks",
        "validate": "data",
        "prepare_train": "data",
        "hyperopt": "model",
        "train": "model",
        "evaluate": "model",
        "label_doubt": "model",
        "archive": "release",
    }


def test_every_task_is_tried_again_with_growing_pauses(dag: Any) -> None:
    assert set(map(tuple, dag["retries"].values())) == {(3, True)}


def test_each_parameter_of_a_run_reaches_a_stage(dag: Any) -> None:
    used = {name for settings in dag["settings"].values() for name in settings.values()}
    assert used | {"force"} == set(dag["params"])


def test_the_form_refuses_what_no_stage_can_use(dag: Any) -> None:
    refusals = dag["refusals"]
    assert refusals[: len(ACCEPTED)] == [None] * len(ACCEPTED)
    accepted = [conf for conf, refusal in zip(REFUSED, refusals[len(ACCEPTED) :], strict=True) if refusal is None]
    assert accepted == []


@pytest.mark.docker
def test_what_the_environment_lacks_is_said_in_a_line_each_and_not_tried_again(docker: Any) -> None:
    code = "from tests.dags.describe_dag import dag; dag.get_task('check_environment').python_callable(dag=dag)"
    absent = {"FACE_ATTRIBUTES_TAG": "never-built", "FACE_ATTRIBUTES_DATA_VOLUME": "face-attributes-never-filled"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | absent, capture_output=True, text=True)
    *images, volume = done.stderr.partition("AirflowFailException: ")[2].splitlines()
    assert images == [
        f"image face-attributes/{stage}:never-built is missing: build it with `make images`"
        for stage in ("validate", "prepare_train", "hyperopt", "train", "evaluate", "label_doubt", "archive")
    ]
    assert volume == (
        "volume face-attributes-never-filled with the raw data is missing: fill it, or set FACE_ATTRIBUTES_DATA_VOLUME"
    )
