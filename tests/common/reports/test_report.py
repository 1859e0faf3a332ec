"""Reports: whatever stands in the data, a page is small, runs nothing, loads nothing, and shows figures for people."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stages.common.reports.report import (
    Badge,
    Bars,
    Cards,
    Group,
    Link,
    Links,
    PageSection,
    Picture,
    Pictures,
    Plot,
    Report,
    Share,
    Table,
    Trend,
    shown,
    text_of,
    write_report,
)

HOSTILE = "<script>alert(1)</script>\"'><img src=//x onerror=alert(2)>{{7*7}}\x00"


class Attributes(HTMLParser):
    """All attributes of a page's tags."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(name, value or "") for name, value in attrs]


def page(tmp_path: Path, *sections: PageSection, title: str = "x", verdict: str = "") -> str:
    write_report(tmp_path / "report.html", Report(title, title, verdict, sections=sections))
    return (tmp_path / "report.html").read_text()


def test_text_from_data_stays_text_wherever_it_stands(tmp_path: Path) -> None:
    picture = Picture("", [HOSTILE], HOSTILE)
    sections: list[PageSection] = [
        Cards({HOSTILE: HOSTILE}),
        Table(HOSTILE, (HOSTILE,), [(HOSTILE,), (Badge(HOSTILE, "bad"),), (Link(HOSTILE, HOSTILE),)], HOSTILE),
        Table(HOSTILE, (), [], HOSTILE, (HOSTILE, HOSTILE), folded=True),
        Plot(HOSTILE, b"png"),
        Pictures(HOSTILE, [picture, Picture("data:image/png;base64,", [HOSTILE])], mark=Badge(HOSTILE, "remark")),
        Bars(HOSTILE, {HOSTILE: 1}, muted=(HOSTILE,)),
        Trend(HOSTILE, [HOSTILE, HOSTILE], {HOSTILE: [1, 2]}),
        Links(HOSTILE, {HOSTILE: HOSTILE, "run": "javascript:alert(1)"}),
    ]
    text = page(tmp_path, *sections, Group(HOSTILE, sections), title=HOSTILE, verdict=HOSTILE)
    assert "<script" not in text
    assert "{{7*7}}" in text
    attributes = Attributes()
    attributes.feed(text)
    assert not [name for name, _ in attributes.found if name.startswith("on")]
    links = {value for name, value in attributes.found if name in {"src", "href"}}
    assert {link for link in links if not link.startswith(("#part", "data:image/", "%3Cscript"))} == {
        "javascript%3Aalert%281%29"
    }


def test_a_page_may_load_nothing(tmp_path: Path) -> None:
    text = page(tmp_path, Cards({"a": 1}))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert not re.search(r"<link|<script|@import|url\(|//", text.replace("</", ""))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"), (0.123456, "0.1235"), (12345.6, "12,346"), (Share(0.5), "50%"),
        (Share(0.1234), "12.3%"),
        (Share(0.00001), "< 0.1%"), (Share(0.99999), "> 99.9%"), (None, "\u2013"), (float("nan"), "\u2013"),
        (True, "yes"), ({"a": 1000}, "a 1,000"), (["a", 2], "a, 2"), ("2020", "2020"),
    ],
)  # fmt: skip
def test_values_are_written_for_people(value: object, text: str) -> None:
    assert text_of(value) == text


def test_a_long_text_keeps_both_ends(tmp_path: Path) -> None:
    assert re.fullmatch(r"begin x+ \u2026 x+ end.png", text_of("begin " + "x" * 100_000 + " end.png"))
    assert len(page(tmp_path, Cards({"a": "x" * 1_000_000}), verdict="y" * 1_000_000)) < 30_000


def test_what_is_not_shown_is_counted() -> None:
    assert shown([1, 2, 3], 2) == ([1, 2], "2 of 3 shown")
    assert shown([1, 2], 2, of=1234) == ([1, 2], "2 of 1,234 shown")
    assert shown([1, 2], 2) == ([1, 2], "")


def test_only_columns_of_figures_are_set_right(tmp_path: Path) -> None:
    text = page(tmp_path, Table("t", ("name", "count", "mixed"), [("a", 1, 1), ("b", None, "x")]))
    assert re.findall(r"<th scope=\"col\"( class=\"n\")?>", text) == ["", ' class="n"', ""]


def test_a_trend_needs_two_runs_and_says_so(tmp_path: Path) -> None:
    text = page(tmp_path, Trend("t", ["a", "b"], {"two": [1, 3], "one": [None, 5], "none": [None, None]}))
    assert text.count("<svg") == 1
    assert 'aria-label="two over 2 runs: first 1, last 3, lowest 1, highest 3"' in text
    assert "Only one run so far" in text
    assert "No run has this figure" in text
    assert "No past runs yet" in page(tmp_path, Trend("t", [], {}))


def test_a_gap_in_a_trend_breaks_the_line(tmp_path: Path) -> None:
    text = page(tmp_path, Trend("t", list("abcd"), {"x": [0, None, 10, 5]}))
    assert 'd="M0.00 100.00 M66.67 0.00 L100.00 50.00"' in text


def test_the_verdict_is_said_in_words(tmp_path: Path) -> None:
    for report, word in (
        (Report("t", verdict="v"), "Passed"),
        (Report("t", verdict="v", remarked=True), "Passed with findings"),
        (Report("t", verdict="v", passed=False, remarked=True), "Failed"),
    ):
        write_report(tmp_path / "report.html", report)
        assert f"<b>{word}</b>v" in (tmp_path / "report.html").read_text()


def test_links_survive_odd_file_names(tmp_path: Path) -> None:
    assert 'href="a%20%23b/%3F.csv"' in page(tmp_path, Links("l", {"x": "a #b/?.csv"}))
