"""The fixture that looks at reports finds what it is there to find."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


def test_a_page_that_stands_alone_is_fine(open_offline: "Callable[..., Page]", tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text("<title>other</title>")
    (tmp_path / "report.html").write_text(f"<title>report</title><img src='{PIXEL}'><a href='other.html'>other</a>")
    page = open_offline(tmp_path / "report.html", width=400, dark=True)
    assert page.title() == "report"
    page.get_by_role("link", name="other").click()
    page.wait_for_url("**/other.html")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<img src='https://example.org/a.png'>", "https://example.org/a.png"),
        ("<link rel=stylesheet href=style.css>", "style.css"),
        ("<iframe src=frame.html></iframe>", "frame.html"),
        ("<script>absent()</script>", "absent is not defined"),
    ],
)
def test_a_page_that_does_not_is_found_out(
    open_offline: "Callable[..., Page]", tmp_path: Path, body: str, complaint: str
) -> None:
    (tmp_path / "report.html").write_text(body)
    for neighbour in ("style.css", "frame.html"):
        (tmp_path / neighbour).touch()
    with pytest.raises(AssertionError, match=complaint):
        open_offline(tmp_path / "report.html")
