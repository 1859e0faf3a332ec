"""The page of all versions in a browser: from a folder without a network, and as Airflow's plugin serves it."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stages.common.registry.registry import PAGE
from tests.dags.test_reports_plugin import SERVER
from tests.stages.archived import Pipeline
from tests.waiting import free_port, wait_until
from tests.widths import WIDTHS, assert_fits

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of three versions: v2 errs elsewhere than v1, and v3, of other pictures, is not fit."""
    made = Pipeline(tmp_path_factory.mktemp("versions"))
    for model, (pictures, seed) in enumerate([("a", 1), ("a", 2), ("b", 2)]):
        made.prepare(pictures, wrong=(10, 4, 0, 0, 0, 0), lots=2, seed=seed)
        made.train(model)
        assert made.archive() == 0
    return made.registry.home


@pytest.fixture
def open_page(browser: "Browser", registry: Path, tmp_path: Path) -> "Iterator[Callable[..., Page]]":
    """Opens a copy of the page by file:// with the network off, and sees that it complains of nothing."""
    folder = shutil.copytree(registry / PAGE.parent, tmp_path / "copy")
    opened, complaints = [], list[str]()

    def watch(request: "Request") -> None:
        if not request.url.startswith(folder.as_uri()):
            complaints.append(request.url)

    def hear(message: "ConsoleMessage") -> None:
        if not message.location["url"].endswith("/favicon.ico"):  # which a browser asks every server for
            complaints.append(message.text)

    def call(width: int = 1200, *, address: str = "", scripts: bool = True) -> "Page":
        context = browser.new_context(
            offline=not address, viewport={"width": width, "height": 900}, java_script_enabled=scripts
        )
        opened.append(context)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if not address:
            page.on("request", watch)
        page.goto(address or (folder / PAGE.name).as_uri())
        return page

    yield call
    for context in opened:
        context.close()
    assert complaints == []


def names(page: "Page") -> list[str]:
    """The versions that are seen, in their order."""
    rows = page.locator("#versions tbody tr:visible")
    return [str(row.get_attribute("data-name")) for row in rows.all()]


def test_versions_are_sorted_and_filtered(open_page: "Callable[..., Page]") -> None:
    page = open_page()
    assert names(page) == ["v3", "v2", "v1"]
    accuracy = page.locator("#versions").get_by_role("columnheader", name="Accuracy", exact=True)
    accuracy.get_by_role("button").click()
    assert accuracy.get_attribute("aria-sort") == "descending"
    assert names(page) == ["v3", "v2", "v1"]
    accuracy.get_by_role("button").click()
    assert accuracy.get_attribute("aria-sort") == "ascending"
    assert names(page) == ["v1", "v2", "v3"]
    page.get_by_label("Filter: all of these words").fill("data.seed=2")
    assert names(page) == ["v2", "v3"]
    page.get_by_label("Which").select_option("released")
    assert names(page) == ["v2"]
    assert "1 of 3 versions" in page.locator("#count").inner_text()
    page.get_by_label("Filter: all of these words").fill("no such word")
    assert names(page) == []


def test_any_two_stand_side_by_side_with_the_images_that_they_answer_differently(
    open_page: "Callable[..., Page]",
) -> None:
    page = open_page()
    page.get_by_label("First version").select_option("v1")
    page.get_by_label("Second version").select_option("v2")
    text = page.locator("#compare").inner_text()
    assert "200 of the kept test images are the same (by picture), with 1,000 labels" in text
    assert "Only v1 is right on 4 of these labels, only v2 on 10. 14 answers differ." in text
    assert page.locator("#compare .pictures figure").count() == 14
    page.get_by_text("Slices: pairs of classes that changed most").click()
    slices = page.get_by_role("region", name="Slices").get_by_role("row").all_inner_texts()[1:]
    assert 0 < len(slices) <= 20
    for made in slices:
        *_, labels, first, second, lost, won = made.split("\t")
        assert float(second) - float(first) == pytest.approx((int(won) - int(lost)) / int(labels), abs=2e-4)
    picture = page.locator("#compare .pictures img").first
    page.wait_for_function("picture => picture.complete && picture.naturalWidth > 0", arg=picture.element_handle())
    row = page.locator("#compare").get_by_role("row").filter(has_text="data.seed")
    assert row.inner_text().split("\t") == ["data.seed", "1", "2"]
    assert "Mean accuracy\t0.9900\t0.9960\t+0.0060" in text
    page.get_by_label("First version").select_option("v3")  # which never met v2
    assert "They share no test image" in page.locator("#compare").inner_text()


def test_all_of_it_works_with_the_keyboard(open_page: "Callable[..., Page]") -> None:
    page = open_page()
    page.get_by_label("Filter: all of these words").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText")
        if focused == "Made, UTC":
            page.keyboard.press("Enter")
        if focused == "compare v1":
            page.keyboard.press("Space")
            break
    else:
        pytest.fail("the first version was never reached")
    assert page.get_by_role("columnheader", name="Made, UTC").first.get_attribute("aria-sort") == "ascending"
    assert page.get_by_label("Second version").input_value() == "v1"
    assert "v1" in page.locator("#compare").inner_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_all_of_it_fits(open_page: "Callable[..., Page]", width: int) -> None:
    page = open_page(width)
    assert_fits(page)
    for name in ("v1", "v2"):
        page.get_by_label(f"compare {name}").check()
    assert page.locator("#compare .pictures figure").count() == 14
    assert_fits(page)


def test_where_no_script_runs_the_page_says_so(open_page: "Callable[..., Page]") -> None:
    page = open_page(scripts=False)
    assert "This page needs its own script" in page.locator("body").inner_text()


@pytest.fixture
def served(registry: Path, tmp_path: Path) -> Iterator[str]:
    """Address of the page in the plugin, for somebody who is logged in."""
    store = tmp_path / "store"
    shutil.copytree(registry / PAGE.parent, store / "registry" / PAGE.parent)
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path / "home"), "FACE_ATTRIBUTES_REPORTS": str(store)}
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER, str(port)], cwd=ROOT, env=environment
    ) as server:

        def listens() -> bool:
            with socket.socket() as listener:
                return listener.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens, "start of the server")
        yield f"http://127.0.0.1:{port}/registry/{PAGE}"
        server.terminate()


def test_the_policy_of_the_plugin_lets_this_script_run_and_no_other(
    open_page: "Callable[..., Page]", browser: "Browser", served: str, tmp_path: Path
) -> None:
    page = open_page(address=served)
    assert names(page) == ["v3", "v2", "v1"]
    page.get_by_label("First version").select_option("v1")
    page.get_by_label("Second version").select_option("v2")
    picture = page.locator("#compare .pictures img").first
    page.wait_for_function("picture => picture.complete && picture.naturalWidth > 0", arg=picture.element_handle())
    written = tmp_path / "store" / "registry" / PAGE
    hostile = written.read_text().replace('"use strict";', '"use strict"; document.title = "hostile";')
    written.write_text(hostile.replace("http-equiv=", "data-no="))
    other = browser.new_page()
    other.goto(served)
    assert other.title() == "Versions"
    assert "This page needs its own script" in other.locator("body").inner_text()
    other.close()
