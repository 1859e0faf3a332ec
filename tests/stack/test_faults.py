"""Faults that the stack survives: services killed or restarted amid a task, runs that meet, and people."""

import json
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.stack.conftest import Run
from tests.stack.slow_run import SlowRun, one_after_the_other
from tests.stack.stack import DAG_ID, RUN_S, Stack
from tests.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.faults]

LONG = 900  # epochs; some minutes


def task_of(stack: Stack, run_id: str, task_id: str) -> dict[str, Any]:
    """A task that is not mapped, as the API describes it."""
    return next(task for task in stack.tasks(run_id) if task["task_id"] == task_id)


def wait_for_training(stack: Stack, run_id: str) -> str:
    """Id of the container of `train`, as soon as it trains."""

    def training() -> str:
        found = stack.inspect(*stack.stage_containers(run_id, "train"))
        return next((container["Id"] for container in found if container["State"]["Running"]), "")

    return str(wait_until(training, f"begin of the training in {run_id}", RUN_S, pause=0.2))


def test_a_task_that_is_marked_failed_leaves_no_container(stack: Stack, first: Run) -> None:
    run_id = stack.trigger(epochs=LONG, max_evals=1)
    wait_for_training(stack, run_id)
    stack.api(f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/train", {"new_state": "failed"}, "PATCH")
    wait_until(lambda: not stack.stage_containers(run_id), "end of the container")
    assert stack.wait_for_run(run_id) == "failed"
    assert task_of(stack, run_id, "evaluate")["state"] == "upstream_failed"


def test_a_database_that_restarts_amid_a_task_costs_no_work(stack: Stack) -> None:
    run = SlowRun(stack)
    writer = run.wait_for_writer()
    stack.compose("restart", "postgres")
    stack.wait_until_it_answers()
    run.release()
    assert run.wait() == "success"
    assert one_after_the_other(run.writers())[0] == writer


def test_a_killed_scheduler_comes_back_and_its_task_has_one_writer(stack: Stack) -> None:
    run = SlowRun(stack)
    first = run.wait_for_writer()
    # Every process there, the tasks' supervisors too. The engine starts the container again, as after any crash; after
    # `docker kill` it would not.
    stack.run("exec", "-T", "airflow-scheduler", "sh", "-c", "kill -9 -1")
    wait_until(
        lambda: not any(container["State"]["Running"] for container in stack.inspect(first)), "end of its container"
    )
    second = run.wait_for_writer(beside=first)
    assert not stack.inspect(first)
    run.release()
    assert run.wait() == "success"
    assert one_after_the_other(run.writers()) == [first, second]


def test_an_engine_proxy_that_restarts_costs_a_try(stack: Stack) -> None:
    run = SlowRun(stack)
    first = run.wait_for_writer()
    stack.compose("restart", "--timeout", "1", "engine-proxy")
    second = run.wait_for_writer(beside=first)
    run.release()
    assert run.wait() == "success"
    assert one_after_the_other(run.writers()) == [first, second]


def test_a_restart_of_the_whole_stack_loses_no_run(stack: Stack) -> None:
    run = SlowRun(stack)
    first = run.wait_for_writer()
    stack.compose("restart")
    stack.wait_until_it_answers()
    second = run.wait_for_writer(beside=first)
    run.release()
    assert run.wait() == "success"
    assert one_after_the_other(run.writers()) == [first, second]


def test_two_identical_runs_at_once_make_one_artifact(stack: Stack) -> None:
    one = SlowRun(stack)
    writer = one.wait_for_writer()
    other = SlowRun(stack, one.word)
    wait_until(lambda: stack.stage_containers(other.run_id), "the container of the other run", pause=0.2)
    one.release()
    assert [one.wait(), other.wait()] == ["success", "success"]
    assert one_after_the_other(one.writers()) == [writer]
    results = [one.result(), other.result()]
    assert [result["cached"] for result in results] == [False, True]
    assert results[0]["path"] == results[1]["path"]


def test_two_different_runs_at_once_make_two_artifacts(stack: Stack) -> None:
    runs = [SlowRun(stack), SlowRun(stack)]
    writers = [run.wait_for_writer() for run in runs]
    assert all(container["State"]["Running"] for container in stack.inspect(*writers))
    for run in runs:
        run.release()
    assert [run.wait() for run in runs] == ["success", "success"]
    assert [one_after_the_other(run.writers()) for run in runs] == [[writer] for writer in writers]
    results = [run.result() for run in runs]
    assert [result["headline"] for result in results] == [{"word": run.word} for run in runs]
    assert [result["cached"] for result in results] == [False, False]
    assert results[0]["path"] != results[1]["path"]


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
        ("recipe", "../photographs"),
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
