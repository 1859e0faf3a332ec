"""The page in a browser: from the token to bars, by mouse, by keyboard and on a phone; and the API's description."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.common.photograph import photograph
from tests.common.samples import SAMPLE_ATTRIBUTES
from tests.serve.pictures import encoded
from tests.serve.serving import TOKEN, Server, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NARROW = 320
ABROAD = "faces.test"


@pytest.fixture
def complaints() -> list[str]:
    """Errors of the browser, and its requests to others than the service."""
    return []


@pytest.fixture
def page(browser: "Browser", server: Server, complaints: list[str]) -> "Iterator[Page]":
    """The page before anybody has shown the token, on a phone in the dark."""
    yield from opened(browser, server, complaints)


@pytest.fixture(scope="module")
def camera(chromium: "Callable[..., Browser]") -> "Browser":
    """A browser with a camera, which shows a moving pattern; ABROAD is an address of this machine there."""
    return chromium("--use-fake-device-for-media-stream", f"--host-resolver-rules=MAP {ABROAD} 127.0.0.1")


@pytest.fixture
def page_with_camera(camera: "Browser", server: Server, complaints: list[str]) -> "Iterator[Page]":
    """The same where there is a camera."""
    yield from opened(camera, server, complaints)


def opened(browser: "Browser", server: Server, complaints: list[str]) -> "Iterator[Page]":
    context = browser.new_context(
        base_url=server.url, viewport={"width": NARROW, "height": 640}, color_scheme="dark", reduced_motion="reduce"
    )
    page = context.new_page()
    page.on("console", lambda message: None if "401" in message.text else complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    own = (server.url, f"http://{ABROAD}:{server.port}/", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else complaints.append(request.url))
    yield page
    assert complaints == []
    context.close()


def fits(page: "Page") -> bool:
    """Whether nobody has to scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def sign_in(page: "Page", path: str = "/") -> None:
    page.goto(path)
    page.get_by_label("Token").fill(TOKEN)
    with page.expect_event("load"):
        page.get_by_role("button", name="Show it").click()
    page.get_by_label("Token").wait_for(state="hidden")


def test_a_picture_is_answered_with_bars_thresholds_and_abstentions(page: "Page", server: Server) -> None:
    picture = encoded(photograph(), "JPEG")
    said = server.predict(picture).json["images"][0]["attributes"]
    sign_in(page)
    page.get_by_text("Version v1 answers").wait_for()
    files = [{"name": name, "mimeType": "image/jpeg", "buffer": content} for name, content in
             {"me.jpg": picture, "<b>broken</b>.png": b"junk"}.items()]  # fmt: skip
    page.locator("#files").set_input_files(files)  # type: ignore[arg-type]
    page.get_by_text("Version v1 answered in").wait_for()
    me, broken = page.locator("article").all()
    assert [line for line in broken.inner_text().split("\n") if line] == [
        "<b>broken</b>.png",
        "This picture cannot be used: not a PNG or JPEG image",
    ]
    for attribute in SAMPLE_ATTRIBUTES:
        answer = me.locator("section").filter(has=page.get_by_role("heading", name=attribute.title))
        shown = answer.inner_text()
        assert (said[attribute.name]["class"] if said[attribute.name]["answered"] else "abstained") in shown
        assert answer.get_by_role("listitem").count() == len(attribute.classes)
        for row, name in zip(answer.get_by_role("listitem").all(), attribute.classes, strict=True):
            value = said[attribute.name]["probabilities"][name]
            track, fill = (row.locator(f".{part}").bounding_box() for part in ("track", "fill"))
            assert track
            assert fill
            assert fill["width"] / track["width"] == pytest.approx(value, abs=0.1)
    assert me.locator("section").first.locator(".threshold").count() == 1
    assert not said[SAMPLE_ATTRIBUTES[-1].name]["answered"]
    last = me.locator("section").last.inner_text()
    assert all(words in last for words in ("abstained", "Not sure enough to answer", "but 99.5 % is needed"))
    assert fits(page)


def test_it_works_by_keyboard_alone(page: "Page") -> None:
    page.goto("/")
    page.get_by_label("Token").wait_for()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("wrong token").wait_for()
    page.get_by_label("Token").fill("")
    page.keyboard.type(TOKEN)
    with page.expect_event("load"):
        page.keyboard.press("Enter")
    page.get_by_label("Token").wait_for(state="hidden")
    for _ in range(9):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "choose":
            break
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": encoded(photograph())})
    page.get_by_text("Version v1 answered in").wait_for()


def test_pictures_can_be_dropped(page: "Page", tmp_path: Path) -> None:
    sign_in(page)
    content = list(encoded(photograph().resize((40, 50))))
    page.evaluate(
        """content => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(content)], "dropped.png", {type: "image/png"}));
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }""",
        content,
    )
    page.get_by_text("dropped.png").wait_for()


def test_a_picture_is_taken_with_the_camera(page_with_camera: "Page") -> None:
    page = page_with_camera
    page.context.grant_permissions(["camera"])
    sign_in(page)
    page.get_by_role("button", name="Take a picture").click()
    page.get_by_role("button", name="Take it").click()
    page.get_by_text("Version v1 answered in").wait_for()
    shown = page.locator("article")
    assert "camera.jpg" in shown.inner_text()
    assert shown.get_by_role("heading").count() == len(SAMPLE_ATTRIBUTES)
    assert shown.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > NARROW
    assert not page.get_by_role("dialog").is_visible()
    assert page.evaluate("document.getElementById('video').srcObject.active") is False  # its light goes out
    assert fits(page)


def test_a_camera_that_is_refused_is_told(page_with_camera: "Page") -> None:
    sign_in(page_with_camera)
    assert no_camera(page_with_camera).startswith("The browser does not let this page use the camera: allow it")


def test_a_camera_that_is_not_there_is_told(page: "Page") -> None:
    page.context.grant_permissions(["camera"])
    sign_in(page)
    assert no_camera(page) == "No camera was found. Choose a picture instead."


def test_by_plain_http_from_another_machine_there_is_no_camera_and_the_page_says_so(
    page_with_camera: "Page", server: Server
) -> None:
    sign_in(page_with_camera, f"http://{ABROAD}:{server.port}/")
    assert no_camera(page_with_camera).startswith(
        "Browsers allow the camera only on https pages and on http://localhost"
    )


def no_camera(page: "Page") -> str:
    """The line that is said when somebody wants to take a picture."""
    page.get_by_role("button", name="Take a picture").click()
    page.get_by_text("camera").and_(page.get_by_role("status")).wait_for()
    assert not page.get_by_role("dialog").is_visible()
    assert fits(page)
    return page.get_by_role("status").inner_text()


def test_the_description_of_the_api_needs_no_network(page: "Page") -> None:
    sign_in(page)
    page.get_by_role("link", name="API").click()
    page.get_by_role("heading", name="POST /predict").wait_for()
    page.get_by_role("heading", name="POST /v2/models/{model}/infer").wait_for()
    assert fits(page)


def test_a_version_that_is_none_is_said(browser: "Browser", tmp_path: Path) -> None:
    with serving(tmp_path, tmp_path / "artifacts") as server:
        context = browser.new_context(base_url=server.url)
        page = context.new_page()
        page.goto("/")
        page.get_by_text("no version is released").wait_for()
        page.get_by_text("No version answers").wait_for()
        context.close()
