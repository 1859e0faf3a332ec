"""Fixtures that tests of several folders use."""

import gc
import os
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from docker import DockerClient
    from playwright.sync_api import Browser, Page, Request

    from tests.dags.dag_reader import DagReader
    from tests.scripts.made_run import MadeRun

ROOT = Path(__file__).parents[1]
ENDED = signal.getsignal(signal.SIGTERM)
# Before anything is imported that reads it. Threads spin while they wait, where other tests want the cores, and a stage
# starts a process for each core, which imports as much as the stage, unless a test asks for a number.
os.environ.setdefault("OMP_NUM_THREADS", "1")


SHARED = {
    "with Stack(": "stacks",  # each of these files starts one of its own
    "pytest.mark.docker": "engine",
    "made_run": "run",
    "dag_reader": "dags",
}
"""Text in a test file -> the group of tests that run in one process, one after the other; the first match counts.

The longest comes first: a group that begins last should be short.
"""


@cache
def group_of(file: str) -> str:
    """The group of a file's tests; the file is one of its own where it shares nothing with others."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return next((group for mark, group in SHARED.items() if mark in text), file)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a browser, and let the groups come first, then the files with the most slow tests."""
    slow = Counter[str]()
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        slow[item.location[0]] += item.get_closest_marker("slow") is not None
    groups = list(SHARED.values())

    def place(item: pytest.Item) -> tuple[int, int]:
        file = item.location[0]
        group = group_of(file)
        return (groups.index(group), 0) if group in groups else (len(groups), -slow[file])

    items.sort(key=place)


class Shares(LoadFileScheduling):  # type: ignore[misc]
    """Hands out the groups, in the order in which their tests were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shares | None:
    """Share the tests out among processes, if there are several; by files alone where none needs the engine."""
    return None if "docker" in config.option.markexpr else Shares(config, log)


@pytest.fixture(autouse=True)
def _own_signal_handler() -> Iterator[None]:
    """Stages that run in this process leave theirs."""
    yield
    signal.signal(signal.SIGTERM, ENDED)


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> "MadeRun":
    """`make run ENGINE=none`, once for all files."""
    from tests.scripts.made_run import make_run

    return make_run(tmp_path_factory.mktemp("download"))


@pytest.fixture(scope="session")
def dag_reader(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[DagReader]":
    """Airflow as it reads DAGs, imported once for all files."""
    from tests.dags.dag_reader import DagReader

    reader = DagReader(tmp_path_factory.mktemp("airflow"))
    yield reader
    reader.close()


@pytest.fixture(scope="session")
def docker() -> "Iterator[DockerClient]":
    """A client of the container engine. Without one the test is skipped, but fails in CI."""
    import docker

    client, reason = None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves its socket open when nothing answers
        try:
            client = docker.from_env()
        except docker.errors.DockerException as error:
            reason = f"no container engine answers, start one with `make engine`: {error}"
        gc.collect()
    if client is None and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if client is None:
        pytest.skip(reason)
    yield client
    client.close()


@pytest.fixture(scope="module")  # not the session: its event loop would be in the way of other tests' own
def chromium() -> "Iterator[Callable[..., Browser]]":
    """Starts the Chromium that is installed here, with arguments. Without one the test is skipped, but fails in CI."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None and os.environ.get("CI") == "true":
        pytest.fail("no Chromium is installed: scripts/apt-install chromium")
    if program is None:
        pytest.skip("no Chromium is installed: scripts/apt-install chromium")
    with sync_playwright() as playwright:
        started = []

        def start(*arguments: str) -> "Browser":
            told = ["--no-sandbox", *arguments]  # root has no sandbox
            browser = playwright.chromium.launch(
                executable_path=ROOT / "tests/chromium.py",
                env=dict[str, str | float | bool](os.environ, CHROMIUM=program),
                args=told,
                timeout=1000 * PATIENCE_S,
            )
            browser.on("context", lambda context: context.set_default_timeout(1000 * PATIENCE_S))
            started.append(browser)
            return browser

        yield start
        for browser in started:
            browser.close()


@pytest.fixture(scope="module")
def browser(chromium: "Callable[..., Browser]") -> "Browser":
    """A Chromium as it is."""
    return chromium()


@pytest.fixture
def open_offline(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Opens a HTML file with the network off, and sees that it asks for nothing and complains of nothing.

    Usage:
        page = open_offline(artifact / "report.html")  # also width=400, dark=True
        page.get_by_role("link", name="Data Docs").click()

    What the page does later counts too: it is looked at again when the test ends.
    """
    opened = []
    complaints: list[str] = []

    def settle() -> None:
        found = complaints.copy()
        complaints.clear()
        assert found == []

    def call(file: Path, width: int = 1200, *, dark: bool = False) -> "Page":
        context = browser.new_context(
            offline=True, viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        opened.append(context)
        page = context.new_page()

        def watch(request: "Request") -> None:
            followed = request.url.startswith("file:") and request.is_navigation_request()
            if not (request.url.startswith("data:") or (followed and request.frame == page.main_frame)):
                complaints.append(f"request: {request.url}")

        page.on("request", watch)
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.goto(file.resolve().as_uri())
        settle()
        return page

    yield call
    for context in opened:
        context.close()
    settle()
