"""What the stack survives: tasks failed by hand amid their work, and parameters that make no sense."""

import json
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.stack.conftest import Run
from tests.stack.stack import DAG_ID, RUN_S, Stack, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.faults]

LONG = 900  # epochs; some minutes


def task_of(stack: Stack, run_id: str, task_id: str) -> dict[str, Any]:
    """A task that is not mapped, as the API describes it."""
    return next(task for task in stack.tasks(run_id) if task["task_id"] == task_id)


def wait_for_training(stack: Stack, run_id: str) -> str:
    """Id of the container of `train`, as soon as it trains."""

    def training() -> str:
        found = stack.inspect(*stack.stage_containers(run_id, "train"))
        return next((one["Id"] for one in found if one["State"]["Running"]), "")

    return str(wait_until(training, RUN_S, f"begin of the training in {run_id}", pause=0.2))


def test_a_task_that_is_marked_failed_leaves_no_container(stack: Stack, first: Run) -> None:
    run_id = stack.trigger(epochs=LONG, max_evals=1)
    wait_for_training(stack, run_id)
    stack.api(f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/train", {"new_state": "failed"}, "PATCH")
    wait_until(lambda: not stack.stage_containers(run_id), 5, "end of the container", pause=0.1)
    assert stack.wait_for_run(run_id) == "failed"
    assert task_of(stack, run_id, "evaluate")["state"] == "upstream_failed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", "text"),
        ("epochs", "{{7*7}}"),
        ("epochs", "; rm -rf /artifacts"),
        ("max_evals", 10**9),
        ("lots", ["s1", "{{7*7}}"]),
        ("lots", ["../s1"]),
        ("lots", "s1"),
        ("force", "yes"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(stack: Stack, name: str, value: Any) -> None:
    before = stack.api(f"/dags/{DAG_ID}/dagRuns")["total_entries"]
    with pytest.raises(HTTPError) as refusal:
        stack.trigger(**{name: value})
    assert refusal.value.code in {400, 422}
    told = json.load(refusal.value)["detail"]
    assert name in told
    assert "49" not in told
    assert stack.api(f"/dags/{DAG_ID}/dagRuns")["total_entries"] == before
