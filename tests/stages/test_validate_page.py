"""The report of a validation: what it shows of a small one, and that a large hostile one stays small."""

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from stages.common.checks.data_docs import write_data_docs
from stages.common.checks.suite import load_suite, run_suite
from stages.common.reports.report import text_of, write_report
from stages.common.schema import attributes
from stages.validate.page import build_report
from stages.validate.raw_annotations import RawAnnotations
from stages.validate.stage import SuiteResults
from stages.validate.verdict import Verdict
from tests.common.samples import DEFAULT_ATTRIBUTES

PICTURE = "data:image/jpeg;base64," + "A" * 6700  # 72 by 72 pixels of noise, the largest there is
SUITE = {
    "name": "toy",
    "expectations": [
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "beard", "value_set": ["0", "1"]},
         "meta": {"reason": "beard not in 0,1"}, "severity": "critical"},
        {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "beard", "regex": "^[01]$"},
         "meta": {"reason": "beard not a figure"}, "severity": "warning"},
        {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": {"$PARAMETER": "min_rows"}},
         "meta": {"reason": "too few rows"}, "severity": "warning"},
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "size", "max_value": 2.5},
         "meta": {"reason": "too large"}, "severity": "warning"},
    ],
}  # fmt: skip


def run_toy(folder: Path, beard: list[str]) -> tuple[Any, Any]:
    (folder / "toy.json").write_text(json.dumps(SUITE))
    suite = load_suite(folder / "toy.json", ())
    table = pd.DataFrame({"beard": pd.Series(beard, dtype="str"), "size": range(len(beard))})
    return suite, run_suite(suite, "toy", table, {"min_rows": 77})


def listed(*rows: tuple[str, int, str, str | None, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["source", "row", "filename", "path", "kind", "reason"])


def accepted(*rows: tuple[str | None, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["filename", "lot", "path", *attributes.names(DEFAULT_ATTRIBUTES)], dtype="str")


def write(folder: Path, **changes: Any) -> str:
    """Write the report and the files beside it as the stage does, and return its text."""
    suite, result = run_toy(folder, changes.pop("beard", ["0", "1", "2"]))
    none = pd.DataFrame()
    rows = {
        "rejected": listed(("a.csv", 2, "x.png", "s/x.png", "beard not in 0,1", "beard not in 0,1 (found '2')"),
                           ("a.csv", 3, "gone.png", None, "image missing", "image missing")),
        "remarks": listed(("a.csv", 4, "y.png", "s/y.png", "bald", "bald (found '1')")),
        "accepted": accepted(("y.png", "s", "s/y.png", "1", "0", None, "4", "2"),
                             ("z.png", "s", "s/z.png", "0", "0", "1", "4", "2")),
        "replaced": listed()[["source", "row", "filename", "reason"]],
    }  # fmt: skip
    metrics = {"rows": 4321, "accepted": 2, "rejected": 2, "warnings": 1, "lots": {"s": 2}, "unannotated": 6}
    settings: dict[str, Any] = {
        "verdict_line": "2 rejected", "success": True, "metrics": metrics, "history": [], "duplicates": [],
        "near_duplicates": [], "picture": lambda path: PICTURE if path != "s/z.png" else "", **rows, **changes,
    }  # fmt: skip
    verdict = Verdict(*(settings.pop(name) for name in ("accepted", "rejected", "remarks")))
    alike = {name: settings.pop(name) for name in ("duplicates", "near_duplicates")}
    checked = SuiteResults(none, {"toy": result}, **alike)
    annotations = RawAnnotations(
        DEFAULT_ATTRIBUTES, "a.csv", (), none, none, settings.pop("replaced"), none, [], none, [], frozenset()
    )
    told = {"success": settings.pop("success"), "warnings": 0, "remarks": {}, "notices": []}
    settings["metrics"] = told | settings["metrics"]
    write_data_docs(folder / "data_docs" / "toy", suite, result, "summary")
    for sheet in ("rejected.csv", "warnings.csv", "unannotated.csv"):
        (folder / sheet).touch()
    write_report(folder / "report.html", build_report(annotations, checked, verdict, **settings))
    return (folder / "report.html").read_text()


def test_it_shows_counts_reasons_pictures_classes_and_checks(tmp_path: Path) -> None:
    text = write(tmp_path)
    for figure in ("4,321", "Passed with findings", "found &#39;2&#39;", "a.csv row 2", "gone.png", "at least 77"):
        assert figure in text
    assert text.count(PICTURE) == 2  # the image that is missing has none
    assert '<span class="name">gray</span>' in text
    assert "not met</span>" in text
    assert text.index("beard not in 0,1</td><td><span") < text.index("too few rows")  # critical first


def test_of_a_rejected_row_with_a_picture_the_labels_that_are_no_class_can_be_corrected(tmp_path: Path) -> None:
    labels = pd.DataFrame(
        {name: ["7", "1"] for name in attributes.names(DEFAULT_ATTRIBUTES)}, index=["s/x.png", "s/y.png"]
    )
    labels.loc["s/x.png", attributes.names(DEFAULT_ATTRIBUTES)[1:]] = "1"
    text = write(tmp_path, labels=labels)
    rejected, remarked = (json.loads(html.unescape(labels)) for labels in re.findall('data-labels="([^"]*)"', text))
    assert rejected == {"filename": "x.png", "known": [None, 1, 1, 1, 1], "asked": [0], "suggested": {}}
    assert remarked == {"filename": "y.png", "known": [1] * 5, "asked": [], "suggested": {}}


def test_every_link_of_every_page_leads_to_a_file(tmp_path: Path) -> None:
    write(tmp_path)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) == 3
    for page in pages:
        links = re.findall(r"""\bhref=["']([^"'#]+)""", page.read_text())
        assert links
        for link in links:
            assert (page.parent / unquote(html.unescape(link))).is_file(), f"{page}: {link}"


def test_duplicates_that_contradict_each_other_come_first(tmp_path: Path) -> None:
    labels = pd.DataFrame(
        {name: ["0", "0", "0", "1", None] for name in attributes.names(DEFAULT_ATTRIBUTES)}, index=list("abcde")
    )
    labels.loc["d", ["beard", "mustache"]] = "0"
    text = write(tmp_path, duplicates=[["a", "b", "e"], ["c", "d"]], labels=labels)
    assert text.count("labels contradict") == 1
    assert "labels contradict: glasses, hair colour, hair length" in text
    assert text.index("labels contradict") < text.index("<span>a</span>")
    assert "Hair colour: brown" in text


def test_replaced_labels_are_listed_row_by_row(tmp_path: Path) -> None:
    rows = [("old.csv", row, "y.png", "beard 1 replaced by 0 of new.csv row 3") for row in range(2, 102)]
    text = write(tmp_path, replaced=pd.DataFrame(rows, columns=["source", "row", "filename", "reason"]))
    assert text.count("replaced by 0 of new.csv") == 50
    assert "50 of 100 shown" in text


@pytest.mark.parametrize("metrics", [{}, {"rows": 0}])
def test_a_table_that_cannot_be_used_at_all_has_a_report_too(tmp_path: Path, metrics: dict[str, int]) -> None:
    none = listed()
    text = write(tmp_path, metrics=metrics, rejected=none, remarks=none, accepted=accepted(), success=False)
    assert "<b>Failed</b>2 rejected" in text


def test_past_runs_are_drawn_and_listed(tmp_path: Path) -> None:
    history = [{"time": f"2026-07-{day:02}T06:00:00Z", "success": day != 3, "rows": day * 1000} for day in range(1, 5)]
    text = write(tmp_path, history=history)
    assert "rows over 4 runs: first 1,000, last 4,000" in text
    assert text.count("failed</span>") == 1


def test_100_000_hostile_rows_stay_below_2_mb_and_no_cell_is_markup(tmp_path: Path) -> None:
    count, cell = 100_000, "<script>alert('=cmd()')</script>" * 10
    names = [f"{number}{cell}" for number in range(count)]
    rejected = listed()
    rejected = pd.DataFrame(
        {"source": "a.csv", "row": range(count), "filename": names, "path": names,
         "kind": [f"kind {number % 25}" for number in range(count)], "reason": names},
    )  # fmt: skip
    good = pd.DataFrame(
        {"filename": names, "lot": "s", "path": names} | dict.fromkeys(attributes.names(DEFAULT_ATTRIBUTES), "1")
    )
    pairs = [names[number : number + 2] for number in range(0, count, 2)]
    write(
        tmp_path, beard=names, rejected=rejected, remarks=rejected, accepted=good, duplicates=pairs,
        near_duplicates=pairs, replaced=rejected, verdict_line=cell * 1000,
        metrics={"rows": count, "lots": dict.fromkeys(names, 1), "ignored": dict.fromkeys(names[:99], 1)},
    )  # fmt: skip
    pages = list(tmp_path.rglob("*.html"))
    assert sum(page.stat().st_size for page in pages) < 2_000_000
    for page in pages:
        assert page.read_text().count("<script") == (2 if page.name == "report.html" else 0)  # data, and ours
    assert f"of {text_of(count // 2)} shown" in (tmp_path / "report.html").read_text()
