"""Labels corrected on a report in a browser, from a folder without a network: the file that is downloaded is read."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stages.common.contract.command_line import main
from stages.common.reports.report import Labels, Picture, Pictures, Report, Table, write_report
from stages.common.schema.attributes import Attribute
from stages.validate.stage import STAGE
from tests.widths import WIDTHS, assert_fits

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.slow

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
HAT = Attribute("hat", ("none", "cap", "bowler"), "hat_label", "Hat")
PLACE = Attribute("place", tuple(f"room {number}" for number in range(12)), "place", "Place")
ODD = "=1+1/s1_2.png"


def report(folder: Path) -> Path:
    """A page with a picture whose hat is doubted, one of both attributes, one of a name that is a formula."""
    pictures = [
        Picture(PIXEL, ["s1_0.png"], labels=Labels("s1_0.png", [0, 3], [0], {0: 2})),
        Picture(PIXEL, ["s1_1.png"], labels=Labels("s1_1.png", [1, None], [0, 1])),
        Picture(PIXEL, [ODD], labels=Labels(ODD, [2, 0], [0])),
        Picture(PIXEL, ["s1_3.png"], labels=Labels("s1_3.png", [1, 4], [0, 1])),
        Picture("", ["unreadable.png"], labels=Labels("unreadable.png", [0, 0], [0])),
    ]
    write_report(
        folder / "report.html",
        Report("Doubts", sections=[Pictures("Pictures", pictures)], attributes=(HAT, PLACE)),
    )
    return folder / "report.html"


def group(page: "Page", name: str, title: str = "Hat") -> "Locator":
    return page.get_by_role("group", name=f"{title} of {name}", exact=True)


def pressed(page: "Page", name: str) -> list[str]:
    buttons = group(page, name).get_by_role("button", pressed=True)
    return [text.partition(" ")[2] for text in buttons.all_inner_texts()]


def download(page: "Page", folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download").press("Enter")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_with_the_keyboard_alone_labels_are_corrected_and_the_file_is_read_as_the_newest(
    open_offline: "Callable[..., Page]", tmp_path: Path
) -> None:
    page = open_offline(report(tmp_path))
    assert "No corrections yet." in page.get_by_role("status").inner_text()
    assert group(page, "unreadable.png").count() == 0
    assert pressed(page, "s1_0.png") == ["none"]
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "ask":
            break
    page.keyboard.press("3")
    assert pressed(page, "s1_0.png") == ["bowler"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("9")  # no such class
    page.keyboard.press("1")
    page.keyboard.press("0")
    assert pressed(page, "s1_1.png") == ["cap"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")  # into the list of the many classes
    page.keyboard.type("room 11")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("2")
    assert "annotated bowler; now cap, not saved" in group(page, ODD).inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("u")
    assert pressed(page, "s1_3.png") == ["unknown"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("U")
    assert group(page, "s1_3.png", "Place").get_by_label("Place").input_value() == "unknown"
    assert page.get_by_role("status").inner_text() == "5 corrections, not saved yet."
    page.get_by_role("button", name="Download").press("Enter")
    assert "Enter your name first" in page.get_by_role("status").inner_text()
    page.keyboard.type("=Anna, team;=2")
    (tmp_path / "corrections").mkdir()
    path = download(page, tmp_path / "corrections")
    assert page.get_by_role("status").inner_text().startswith(f"Downloaded 5 corrections as {path.name}")
    assert "bowler by =Anna, team;=2, 20" in group(page, "s1_0.png").inner_text()

    header, *rows = csv.reader(path.read_text().splitlines())
    assert header == ["filename", "hat_label", "place", "corrected_by", "corrected_at"]
    at = rows[0][-1]
    assert rows == [
        ["s1_0.png", "bowler", "", "Anna  team  2", at],
        ["s1_1.png", "", "room 11", "Anna  team  2", at],
        [f"./{ODD}", "cap", "", "Anna  team  2", at],
        ["s1_3.png", "unknown", "unknown", "Anna  team  2", at],
    ]
    (tmp_path / "attributes.yaml").write_text(
        "- {name: hat, classes: [none, cap, bowler], column: hat_label, title: Hat}\n"
        f"- {{name: place, classes: [{', '.join(PLACE.classes)}]}}\n"
    )
    with (tmp_path / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["filename", "hat_label", "place"],
                ["s1_0.png", 0, 3],
                ["s1_1.png", 1, ""],
                [ODD, 2, 0],
                ["s1_3.png", 1, 4],
            ]
        )
    out = tmp_path / "out"
    assert main(STAGE, ["--annotations", str(tmp_path / "annotations.csv"), "--out", str(out)]) == 0
    with (out / "annotations.csv").open(newline="") as file:
        found = {row["filename"]: (row["hat"], row["place"]) for row in csv.DictReader(file)}
    assert found == {"s1_0.png": ("2", "3"), "s1_1.png": ("1", "11"), "s1_2.png": ("1", "0"), "s1_3.png": ("", "")}
    warnings = (out / "warnings.csv").read_text()
    assert f"hat_label 0 replaced by 2 of {path.name} row 2" in warnings
    assert "corrections by" in (out / "report.html").read_text()


def test_other_labels_are_asked_for_on_request_and_all_can_be_taken_back(
    open_offline: "Callable[..., Page]", tmp_path: Path
) -> None:
    page = open_offline(report(tmp_path), dark=True)
    assert group(page, "s1_0.png", "Place").count() == 0
    page.get_by_text("other labels").first.press("Enter")
    group(page, "s1_0.png", "Place").get_by_label("Place").select_option("room 7")
    group(page, "s1_0.png").get_by_role("button", name="2 cap").click()
    assert page.get_by_role("status").inner_text() == "2 corrections, not saved yet."
    page.get_by_role("button", name="Undo all").click()
    assert page.get_by_role("status").inner_text() == "No corrections yet."
    assert pressed(page, "s1_0.png") == ["none"]
    assert group(page, "s1_0.png", "Place").get_by_label("Place").input_value() == "room 3"


@pytest.mark.parametrize("width", WIDTHS)
def test_all_of_it_fits(open_offline: "Callable[..., Page]", tmp_path: Path, width: int) -> None:
    page = open_offline(report(tmp_path), width=width)
    group(page, "s1_1.png", "Place").get_by_label("Place").select_option("room 11")
    assert_fits(page)
    group(page, ODD).focus()
    page.wait_for_function(  # it scrolls smoothly; what has the focus is not behind the bar
        "() => document.activeElement.getBoundingClientRect().bottom <= "
        "document.querySelector('.corrections').getBoundingClientRect().top"
    )


def test_the_bar_covers_nothing_while_nobody_corrects(open_offline: "Callable[..., Page]", tmp_path: Path) -> None:
    from playwright.sync_api import expect

    picture = Picture(PIXEL, ["s1_0.png"], labels=Labels("s1_0.png", [0], [0]))
    others = [Table(f"Part {number}", ("Row",), [(row,) for row in range(40)]) for number in range(3)]
    report = Report("Run", sections=[others[0], Pictures("Pictures", [picture]), *others[1:]], attributes=(HAT,))
    write_report(tmp_path / "report.html", report)
    page = open_offline(tmp_path / "report.html")
    bar = page.get_by_role("region", name="Corrections")
    top = "window.scrollTo({top: 0, behavior: 'instant'})"

    expect(bar).to_be_attached()
    expect(bar).not_to_be_in_viewport()
    group(page, "s1_0.png").focus()
    expect(bar).to_be_in_viewport(ratio=1)
    page.evaluate(top)
    expect(bar).not_to_be_in_viewport()
    group(page, "s1_0.png").press("2")
    page.evaluate(top)
    page.wait_for_function("() => scrollY === 0")
    expect(bar).to_be_in_viewport(ratio=1)  # for that is not saved yet
    page.get_by_role("button", name="Undo all").press("Enter")
    expect(bar).not_to_be_in_viewport()
    page.keyboard.press("End")
    expect(bar).to_be_in_viewport(ratio=1)


def test_without_something_to_correct_a_page_runs_no_script(tmp_path: Path) -> None:
    write_report(
        tmp_path / "report.html", Report("x", sections=[Pictures("y", [Picture(PIXEL, ["z"])])], attributes=(HAT,))
    )
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert "script-src" not in text


def test_text_from_data_stays_text(open_offline: "Callable[..., Page]", tmp_path: Path) -> None:
    hostile = "</script><img src=//x onerror=alert(1)>"
    attribute = Attribute("hat", (hostile, "b"), "hat", hostile)
    picture = Picture(PIXEL, [hostile], labels=Labels(hostile, [0], [0]))
    write_report(tmp_path / "report.html", Report("x", sections=[Pictures("y", [picture])], attributes=(attribute,)))
    page = open_offline(tmp_path / "report.html")
    assert page.locator("img").count() == 1
    assert pressed(page, hostile) == [] or hostile in group(page, hostile, hostile).inner_text()
    assert group(page, hostile, hostile).get_by_role("button").count() == len(attribute.classes) + 1
