"""The gallery in Chromium: filters, pages, an image's own dialog, keyboard, phone and dark."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from stages.common.registry.registry import Registry
from tests.common.samples import SAMPLE_ATTRIBUTES
from tests.serve.search_service import predict
from tests.serve.serving import Server, register, serving
from tests.stages.test_predict import Data, draw
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Request

pytestmark = pytest.mark.slow

ONE = SAMPLE_ATTRIBUTES[3]
HTML = "a_<b onclick=x>&amp;.png"
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Lots of 65 and 5 images, predicted by v1, which is the champion, and by v2."""
    data = Data(tmp_path_factory.mktemp("data"))
    data.add("a", 64, (1, 0, 1, 3, 2))
    data.add("b", 5, (0, 1, 0, 0, 1))
    draw(data.raw / "a" / HTML, (1, 0, 1, 3, 2))
    for version, confidence in (("v1", 0.8), ("v2", 0.7)):
        predict(data, version, confidence=confidence)
    place = tmp_path_factory.mktemp("serving")
    register(Registry(data.store / "registry"), place / "v1")
    with serving(place, data.store, RAW=str(data.raw)) as server:
        server.wait_for(ready=True)
        wait_until(lambda: server.get("/search").status == 200, "the index")
        yield server


@pytest.fixture
def visit(browser: "Browser", server: Server) -> Iterator[Open]:
    """Opens the gallery, and sees that it asks nobody else for anything and complains of nothing."""
    opened: list[BrowserContext] = []
    complaints: list[str] = []

    def watch(asked: "Request") -> None:
        if not asked.url.startswith((server.url, "data:")):
            complaints.append(asked.url)

    def call(words: str = "", width: int = 1200, *, dark: bool = False) -> "Page":
        size = {"width": width, "height": 800}
        context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light")  # type: ignore[arg-type]
        opened.append(context)
        page = context.new_page()
        page.on("request", watch)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{server.url}/gallery{words}")
        page.wait_for_selector("#found:not([aria-busy]) > li")
        return page

    yield call
    for context in opened:
        context.close()
    assert complaints == []


def total(page: "Page", text: str) -> None:
    """Wait until so many images are told."""
    page.get_by_role("heading", name=text, exact=True).wait_for()


def cards(page: "Page", count: int) -> None:
    """Wait until so many images are shown."""
    wait_until(lambda: page.locator("#found li").count() == count, f"{count} images")


def shown(page: "Page", selector: str) -> None:
    """Wait until a picture is there."""
    wait_until(lambda: page.locator(selector).first.evaluate("image => image.naturalWidth > 0"), selector)


def test_filters_find_images_and_their_counts_follow(visit: Open) -> None:
    page = visit()
    total(page, "70 of 70 images")
    group = page.get_by_role("group", name=ONE.title)
    box = group.get_by_role("checkbox", name=ONE.classes[0])
    assert [text.strip() for text in group.locator(".count").all_text_contents()] == ["5", "0", "0", "65", "0", "0"]
    box.check()
    total(page, "5 of 70 images")
    assert page.locator("#found li").count() == 5
    assert page.url.endswith(f"/gallery?{ONE.name}={ONE.classes[0]}")
    assert ONE.classes[0] in (page.locator("#found li").first.text_content() or "")
    assert re.sub(r"\s", "", page.locator("#lot").text_content() or "") == "alla(0)b(5)"
    group.get_by_role("checkbox", name=ONE.classes[3]).check()
    total(page, "70 of 70 images")
    page.go_back()
    total(page, "5 of 70 images")
    assert not group.get_by_role("checkbox", name=ONE.classes[3]).is_checked()
    page.get_by_label("Lot").select_option("a")
    total(page, "0 of 70 images")
    page.get_by_text("No image matches").wait_for()
    page.get_by_role("button", name="Clear all").click()
    total(page, "70 of 70 images")


def test_every_picture_is_shown_and_pages_are_turned(visit: Open) -> None:
    page = visit()
    assert page.locator("#found li").count() == 60
    shown(page, "#found img")
    page.get_by_role("button", name="Next").click()
    cards(page, 10)
    assert page.get_by_role("button", name="Next").is_disabled()
    assert page.url.endswith("/gallery?page=2")
    page.get_by_role("spinbutton", name="Page").fill("1")
    page.get_by_role("spinbutton", name="Page").press("Enter")
    cards(page, 60)


def test_an_image_has_its_own_dialog_that_the_keyboard_opens_turns_and_closes(visit: Open) -> None:
    page = visit("?sort=-file&lot=b")
    card = page.locator("#found a").first
    card.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("heading", name="b_4.png, lot b").wait_for()
    table = dialog.get_by_role("table")
    assert [text.split()[0] for text in table.get_by_role("rowheader").all_text_contents()] == ["v1", "v2"]
    assert f"{ONE.classes[0]} 80 %" in (table.text_content() or "")
    assert "abstained: below the threshold" in (dialog.locator("#about").text_content() or "")
    shown(page, "#picture")
    page.keyboard.press("ArrowRight")
    dialog.get_by_role("heading", name="b_3.png, lot b").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.wait_for_function("!location.hash")
    assert page.evaluate("document.activeElement.textContent").startswith("b_3.png")


def test_images_that_look_like_one_are_shown(visit: Open) -> None:
    page = visit("?lot=b")
    page.locator("#found a").first.click()
    page.get_by_role("link", name="Looks like this one").click()
    page.get_by_text("Images that look like b_0.png to the model").wait_for()
    cards(page, 4)
    assert "likeness 1.000" in (page.locator("#found li").first.text_content() or "")
    page.locator("#found a").first.click()
    page.get_by_role("dialog").get_by_role("heading", name="b_1.png, lot b").wait_for()
    page.keyboard.press("ArrowRight")
    page.get_by_role("dialog").get_by_role("heading", name="b_2.png, lot b").wait_for()
    page.keyboard.press("Escape")
    cards(page, 4)
    page.get_by_role("button", name="Back to all").click()
    total(page, "5 of 70 images")


def test_the_name_of_a_file_is_text(visit: Open) -> None:
    page = visit("?lot=a&page=2")
    card = page.get_by_role("link", name=HTML)
    card.click()
    page.get_by_role("dialog").get_by_role("heading", name=f"{HTML}, lot a").wait_for()
    assert page.locator("b[onclick]").count() == 0


def test_a_wrong_address_is_told_with_what_there_is(visit: Open, browser: "Browser", server: Server) -> None:
    page = browser.new_page()
    page.goto(f"{server.url}/gallery?lot=c")
    page.get_by_text("lot: there is no 'c', only a, b").wait_for()
    page.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_on_a_phone(visit: Open, *, dark: bool) -> None:
    page = visit("", 320, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert not page.get_by_role("button", name="Clear all").is_visible()
    page.get_by_text("Filters").click()
    page.get_by_role("checkbox", name=ONE.classes[0]).check()
    total(page, "5 of 70 images")
    page.locator("#found a").first.click()
    page.get_by_role("dialog").get_by_role("heading", name="b_0.png, lot b").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth")
    brightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0]")
    assert (int(brightness) < 80) == dark
