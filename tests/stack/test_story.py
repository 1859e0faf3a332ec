"""The story of a user in a real browser: log in, trigger, watch, read; and what somebody without a login sees."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.airflow_user import sign_in
from tests.stack.conftest import Run
from tests.stack.stack import DAG_ID, RUN_S, Stack
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.docker


@pytest.fixture
def stranger(stack: Stack, browser: "Browser") -> "Iterator[Page]":
    """A page of a browser in which nobody has logged in."""
    context = browser.new_context(base_url=stack.url)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def logged_in(stack: Stack, browser: "Browser") -> "Iterator[BrowserContext]":
    """A browser in which `airflow` has logged in through the form."""
    context = browser.new_context(base_url=stack.url, viewport={"width": 1360, "height": 900})
    page = context.new_page()
    page.goto("/")
    sign_in(page, "airflow", stack.password)
    page.get_by_test_id("nav-dags-link").wait_for()
    page.close()
    yield context
    context.close()


@pytest.fixture
def page(logged_in: "BrowserContext") -> "Iterator[Page]":
    page = logged_in.new_page()
    yield page
    page.close()


def test_the_commands_of_the_terminal(stack: Stack) -> None:
    run_id = re.findall(r"run_id=(manual__\S+)", stack.airflow("dags", "trigger", DAG_ID))[0]
    try:
        assert re.search(rf"{re.escape(run_id)} *\| (queued|running)", stack.airflow("dags", "list-runs", DAG_ID))
    finally:
        stack.end_run(run_id)


def test_an_anonymous_visitor_is_sent_to_the_form(stack: Stack, first: Run, stranger: "Page") -> None:
    for path in ("/", f"/dags/{DAG_ID}", f"/dags/{DAG_ID}/runs/{first.run_id}", "/reports/", "/auth/users/list/"):
        stranger.goto(path)
        stranger.get_by_label("Password").wait_for()
        assert DAG_ID not in stranger.locator("body").inner_text()


@pytest.mark.parametrize(("user", "password"), [("airflow", "airflow"), ("admin", "admin"), ("airflow", "' OR 1=1 --")])
def test_a_wrong_password_opens_nothing(stranger: "Page", user: str, password: str) -> None:
    stranger.goto("/")
    sign_in(stranger, user, password)
    stranger.get_by_text("Invalid login").wait_for()
    stranger.goto("/dags")
    stranger.get_by_label("Password").wait_for()


def test_from_the_form_to_the_report(stack: Stack, first: Run, page: "Page", tmp_path: Path) -> None:
    page.goto("/dags")
    page.get_by_role("link", name=DAG_ID).first.click()
    page.get_by_role("link", name="Overview").wait_for()
    page.get_by_test_id("trigger-dag-button").click()
    page.locator("[name=element_epochs]").fill("2")
    page.locator("[name=element_max_evals]").fill("1")
    page.screenshot(path=tmp_path / "trigger.png")
    before = newest(stack)["dag_run_id"]
    page.get_by_test_id("trigger-dag-submit").click()

    def started() -> "dict[str, Any] | None":
        run = newest(stack)
        return None if run["dag_run_id"] == before else run

    runs = wait_until(started, "the run of the form")
    run_id = runs["dag_run_id"]
    assert runs["conf"] == {
        "epochs": 2,
        "max_evals": 1,
        "lots": None,
        "annotations": None,
        "recipe": "none",
        "settings": "data",
        "force": False,
        "recompute": False,
    }

    page.goto(f"/dags/{DAG_ID}/runs/{run_id}")
    # The innermost element that has both the title and the state; it changes without a reload.
    title = page.locator("div", has=page.get_by_role("heading", name=run_id))
    title.filter(has=page.get_by_test_id("state-badge")).last.get_by_text("Success").wait_for(timeout=RUN_S * 1000)
    note = newest(stack)["note"]  # in the list of runs
    assert note.startswith("**To inspect**: ")  # after two epochs
    assert " is not fit: mean accuracy 0." in note
    assert "\n\narchive: version v" in note
    assert "evaluate: mean accuracy 0." in note
    page.screenshot(path=tmp_path / "run.png")
    page.get_by_role("link", name="Reports").last.click()
    frame = page.frame_locator("iframe[title=Reports]")
    row = frame.get_by_role("row").filter(has_text="archive")
    assert "mean_accuracy" in row.inner_text()
    page.screenshot(path=tmp_path / "reports.png")
    row.get_by_role("link", name="report").click()
    frame.get_by_role("heading", name="Face Attributes").first.wait_for()
    page.screenshot(path=tmp_path / "report.png")

    page.goto(f"/dags/{DAG_ID}/runs/{run_id}/tasks/validate")
    page.get_by_role("link", name="Details").click()
    page.get_by_role("link", name="Report", exact=True).click()
    frame = page.frame_locator("iframe[title=Reports]")
    frame.get_by_role("link", name="Findings of Great Expectations").first.click()
    frame.get_by_text("raw_annotations").first.wait_for()
    page.screenshot(path=tmp_path / "data_docs.png")


def test_a_training_is_started_on_the_report_of_a_run(stack: Stack, first: Run, page: "Page", tmp_path: Path) -> None:
    page.goto(f"/dags/{DAG_ID}/runs/{first.run_id}")
    page.get_by_role("link", name="Reports").last.click()
    frame = page.frame_locator("iframe[title=Reports]")
    frame.get_by_role("row").filter(has_text="archive").get_by_role("link", name="report").click()
    frame.get_by_role("heading", name="Hardest test images").first.wait_for()
    frame.get_by_role("group").first.get_by_role("button", name="unknown").wait_for()
    frame.get_by_role("button", name="Train").press("Enter")
    run_id = frame.get_by_role("status").get_by_role("link").inner_text()
    page.screenshot(path=tmp_path / "train.png")
    try:
        wait_until(lambda: stack.stage_containers(run_id), "the first stage")
        run = stack.api(f"/dags/{DAG_ID}/dagRuns/{quote(run_id)}")
        assert (run["conf"], run["triggering_user_name"]) == ({}, "airflow")  # as the form is when nobody fills it in
    finally:
        stack.end_run(run_id)


def test_a_person_decides_in_the_form(stack: Stack, first: Run, page: "Page", tmp_path: Path) -> None:
    page.goto("/dags/release_version")
    page.get_by_test_id("trigger-dag-button").click()
    page.locator("[name=element_version]").fill("v1")
    page.locator("[name=element_reason]").fill("to see what it does")
    page.screenshot(path=tmp_path / "decide.png")
    page.get_by_test_id("trigger-dag-submit").click()

    def started() -> Any:
        return stack.api("/dags/release_version/dagRuns?order_by=-run_after&state=success&limit=1")["dag_runs"]

    run_id = wait_until(started, "the decision")[0]["dag_run_id"]
    page.goto(f"/dags/release_version/runs/{run_id}")
    page.get_by_role("link", name="Reports").last.click()
    frame = page.frame_locator("iframe[title=Reports]")
    frame.get_by_role("row").filter(has_text="release").get_by_role("link", name="report").click()
    frame.get_by_text("v1 is the champion (promote").first.wait_for()
    page.screenshot(path=tmp_path / "decided.png")


def newest(stack: Stack) -> "dict[str, Any]":
    """The last run."""
    return dict(stack.api(f"/dags/{DAG_ID}/dagRuns?order_by=-run_after&limit=1")["dag_runs"][0])


def test_the_log_of_a_task_is_readable(stack: Stack, first: Run, page: "Page", tmp_path: Path) -> None:
    page.goto(f"/dags/{DAG_ID}/runs/{first.run_id}/tasks/train")
    page.get_by_text(re.compile(r"epoch 1 of 1: loss [\d.]+")).first.wait_for()
    page.screenshot(path=tmp_path / "log.png")
    answer = stack.api(f"/dags/{DAG_ID}/dagRuns/{first.run_id}/taskInstances/train/logs/1?full_content=true")
    lines = [line["event"] for line in answer["content"]]
    assert any(re.search(r"INFO epoch 1 of 1: loss", line) for line in lines)
    assert not [line for line in lines if "\r" in line or "\x1b" in line or "\ufffd" in line]
