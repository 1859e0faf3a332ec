"""The DAGs in which people decide about releases, as Airflow reads them."""

import json
from typing import Any

import pytest

from tests.dags.dag_reader import DagReader

pytestmark = pytest.mark.slow

DECIDE, APPROVE = "release_version", "approve_version"
ACCEPTED: list[dict[str, Any]] = [
    {"action": "promote", "version": "v12", "reason": "it looks better"},
    {"action": "rollback", "reason": "--force; {{ 7*7 }} $(id)"},
]
REFUSED: list[dict[str, Any]] = [
    {},
    {"version": "v1"},
    {"action": "promote", "version": "v1", "reason": ""},
    {"action": "promote", "version": "v1", "reason": " "},
    {"action": "promote", "version": "v1", "reason": "two\nlines"},
    {"action": "promote", "version": "v1", "reason": "x" * 501},
    {"action": "release", "version": "v1", "reason": "x"},
    {"action": "promote", "version": "3", "reason": "x"},
    {"action": "promote", "version": "v1; rm", "reason": "x"},
]


def test_a_decision_asks_for_a_reason_and_runs_when_a_person_triggers_it(dag_reader: DagReader) -> None:
    dag = dag_reader.describe(DECIDE, *ACCEPTED, *REFUSED)
    assert (dag["next_run"], dag["starts_on"]) == (None, [])
    assert dag["upstream"] == {"check_environment": [], "release": ["check_environment"]}
    assert dag["makes"] == {"release": ["face_attributes_model"]}
    assert "Run with parameters" in dag["doc"]
    refusals = dag["refusals"]
    assert refusals[: len(ACCEPTED)] == [None] * len(ACCEPTED)
    assert [conf for conf, refusal in zip(REFUSED, refusals[len(ACCEPTED) :], strict=True) if refusal is None] == []


def test_the_form_becomes_a_command_in_which_nothing_is_an_option(dag_reader: DagReader) -> None:
    code = """
for params in ({"action": "promote", "version": "v3", "reason": "--force"},
               {"action": "rollback", "version": None, "reason": "no"}):
    print(json.dumps(dag.get_task("release")._command({"params": params})))
"""
    promote, rollback = map(json.loads, dag_reader.run_with(DECIDE, code).stdout.splitlines()[-2:])
    end = ["--registry", "/artifacts/registry", "--store", "/artifacts", "--result", "/result/result.json"]
    assert promote == ["promote", "v3", "--reason=--force", *end]
    assert rollback == ["rollback", "--reason=no", *end]


@pytest.mark.parametrize(
    ("action", "version", "why"),
    [
        ("promote", None, "promote needs a version, for example v3: trigger it again with one"),
        ("rollback", "v3", "rollback returns to the previous champion: leave v3 out, or promote it"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(
    dag_reader: DagReader, action: str, version: str | None, why: str
) -> None:
    params = {"action": action, "version": version, "reason": "x"}
    done = dag_reader.run_with(DECIDE, f"dag.get_task('release')._command({{'params': {params}}})")
    assert f"AirflowFailException: {why}" in done.stderr.splitlines()[-1]


GATE = {"version": "v2", "champion": "v1", "fit": "no", "mean_accuracy": 0.9, "why": "worse than v1 in a class"}
ASKED = """
from datetime import datetime
from types import SimpleNamespace
from airflow.sdk import Asset
def context(headline):
    report = "/artifacts/run/" + "0" * 64 + "/report.html"
    news = SimpleNamespace(timestamp=datetime(2026, 1, 1), extra={"report": report, "headline": headline})
    answer = {"params_input": {"reason": "seen"}, "responded_by_user": {"id": "1", "name": "anna"}}
    return {"triggering_asset_events": {Asset("face_attributes_model"): [news]}, "params": {},
            "ti": SimpleNamespace(xcom_pull=lambda task_ids: answer)}
"""


def test_only_a_version_that_the_gate_refused_is_asked_about(dag_reader: DagReader) -> None:
    released = {"version": "v2", "champion": "v2", "action": "promote", "by": "anna", "reason": "x"}
    cases = [GATE, GATE | {"fit": "yes"}, GATE | {"champion": "v2"}, released, {}]
    code = f"{ASKED}\nprint(json.dumps([bool(module.refused(context(one))) for one in {cases}]))"
    assert json.loads(dag_reader.run_with(APPROVE, code).stdout.splitlines()[-1]) == [True, False, False, False, False]


def test_an_approval_promotes_by_name_if_the_champion_is_still_the_same(dag_reader: DagReader) -> None:
    code = f"{ASKED}\nprint(json.dumps(dag.get_task('release')._command(context({GATE}))[:5]))"
    words = json.loads(dag_reader.run_with(APPROVE, code).stdout.splitlines()[-1])
    assert words == ["promote", "v2", "--against=v1", "--reason=seen", "--by=anna"]


def test_a_question_that_nobody_answers_in_time_is_a_no(dag_reader: DagReader) -> None:
    code = """
from datetime import timedelta
module.TIME = timedelta(hours=1)
task = module.approve_version().get_task("approval")
print(json.dumps([task.response_timeout.total_seconds(), task.defaults, task.options]))
"""
    told = json.loads(dag_reader.run_with(APPROVE, code).stdout.splitlines()[-1])
    assert told == [3600, ["Reject"], ["Approve", "Reject"]]  # the default is what Airflow takes when the time is over


def test_nobody_is_asked_unless_params_yaml_says_for_how_long(dag_reader: DagReader) -> None:
    dag = dag_reader.describe(APPROVE)
    assert dag["starts_on"] == []
    assert dag["upstream"] == {"approval": [], "check_environment": ["approval"], "release": ["check_environment"]}
