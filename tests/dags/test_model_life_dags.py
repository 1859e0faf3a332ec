"""The DAGs that predict and that watch, as Airflow reads them."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.dags.dag_reader import DagReader

pytestmark = pytest.mark.slow

PREDICT, MONITOR = "predict_new_lots", "model_monitoring_and_retraining"
VALIDATE = "validate_data"
ACCEPTED: dict[str, list[dict[str, Any]]] = {
    PREDICT: [{}, {"lots": ["s1"], "version": "v12", "recompute": True}, {"version": None, "recipe": "photographs"}],
    VALIDATE: [{}, {"annotations": "labels.csv", "lots": ["s1"]}],
    MONITOR: [
        {},
        {"min_accuracy": 0.9, "min_labels": 10, "min_images": 30, "alpha": 0.05, "min_psi": 0.1, "epochs": 5},
    ],
}
REFUSED: dict[str, list[dict[str, Any]]] = {
    PREDICT: [{"version": "3"}, {"version": "v0"}, {"version": "v1; rm"}, {"version": "{{ 7*7 }}"},
              {"lots": ["../s1"]}, {"lots": ["s1\n"]}, {"version": "v1\n"}],
    VALIDATE: [{"annotations": "/etc/passwd"}, {"lots": "s1"}],
    MONITOR: [{"min_accuracy": 1.5}, {"min_labels": 0}, {"min_images": 1}, {"alpha": 0}, {"min_psi": -1},
              {"epochs": "ten"}, {"alpha": "{{ 7*7 }}"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def dags(dag_reader: DagReader) -> dict[str, Any]:
    return {dag: dag_reader.describe(dag, *ACCEPTED[dag], *REFUSED[dag]) for dag in (PREDICT, MONITOR, VALIDATE)}


def test_new_lots_and_new_models_start_predictions(dags: dict[str, Any]) -> None:
    dag = dags[PREDICT]
    assert dag["next_run"] is None
    assert sorted(dag["starts_on"]) == ["face_attributes_model", "face_attributes_raw_data"]
    assert dag["upstream"] == {
        "check_environment": [],
        "champion": ["check_environment"],
        "predict": ["champion"],
    }
    assert dag["makes"] == {"predict": ["face_attributes_predictions", "face_attributes_findings"]}


def test_the_champion_is_watched_every_week_and_trained_again_only_if_that_is_due(dags: dict[str, Any]) -> None:
    dag = dags[MONITOR]
    following = datetime.fromisoformat(dag["next_run"])
    assert (
        timedelta(0)
        <= following - datetime.fromisoformat(dag["asked"]) + timedelta(minutes=1)
        <= timedelta(days=7, minutes=1)
    )
    assert (following.weekday(), following.hour) == (6, 0)  # Sunday, midnight
    assert dag["upstream"] == {
        "check_environment": [],
        "champion": ["check_environment"],
        "validate": ["champion"],
        "predict": ["champion"],
        "monitor": ["champion", "predict", "validate"],
        "retraining_is_due": ["monitor"],
        "train_again": ["retraining_is_due"],
    }


def test_validation_alone_starts_when_annotations_change_or_a_person_names_others(dags: dict[str, Any]) -> None:
    dag = dags[VALIDATE]
    assert dag["starts_on"] == ["face_attributes_annotations"]
    assert dag["upstream"] == {"check_environment": [], "validate": ["check_environment"]}
    assert dag["files"] == {"validate": {"annotations": "annotations"}}
    assert dag["params"] == ["annotations", "lots", "recipe", "settings", "recompute"]


def test_drift_is_told_though_the_annotations_are_refused(dag_reader: DagReader) -> None:
    code = """
task = dag.get_task("monitor")
made = {name: f"/artifacts/{name}/" + "0" * 64 for name in ("champion", "predict")}
task.inputs |= made | {"validate": None}
print(json.dumps([str(task.trigger_rule.value), task._command({"params": dict.fromkeys(task.settings.values())})]))
"""
    rule, command = json.loads(dag_reader.run_with(MONITOR, code).stdout.splitlines()[-1])
    assert rule == "all_done_min_one_success"  # of champion, predict and validate
    assert {"--champion", "--predict", "--logs"} <= set(command)
    assert "--validate" not in command


@pytest.mark.parametrize("name", [PREDICT, MONITOR])
def test_one_run_at_a_time_and_documented(dags: dict[str, Any], name: str) -> None:
    dag = dags[name]
    assert dag["max_active_runs"] == 1
    assert not dag["catchup"]
    assert "Run with parameters" in dag["doc"]
    assert dag["owners"] == ["face-attributes"]
    assert all("**In**" in dag["docs"][task] and "**Out**" in dag["docs"][task] for task in dag["images"])
    assert {name for used in dag["settings"].values() for name in used.values()} <= set(dag["params"])


@pytest.mark.parametrize("name", [PREDICT, MONITOR])
def test_the_form_refuses_what_no_stage_can_use(dags: dict[str, Any], name: str) -> None:
    accepted, refusals = len(ACCEPTED[name]), dags[name]["refusals"]
    assert refusals[:accepted] == [None] * accepted
    assert [conf for conf, refusal in zip(REFUSED[name], refusals[accepted:], strict=True) if refusal is None] == []
