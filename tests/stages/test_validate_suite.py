"""The suite as data: every expectation of it is failed by one corrupted row, and by that row alone."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stages.common.checks.suite import findings, load_suite, run_suite
from stages.common.checks.template import read_suite
from stages.common.contract.data_folder import OURS
from stages.common.contract.errors import DataError
from stages.common.schema.attributes import Attribute
from stages.validate.table import add_classes
from tests.common.samples import DEFAULT_ATTRIBUTES

SUITE = OURS / "raw_annotations.json"
THRESHOLDS = {"min_rows": 10, "min_known_fraction": 0.5, "min_class_fraction": 0.1}


def good_rows(count: int = 30) -> list[dict[str, object]]:
    """Rows of every class, each of them at least a tenth of the known labels."""
    return [
        {
            "filename": f"s1/s1_{number}.png",
            **{attribute.column: str(number % len(attribute.classes)) for attribute in DEFAULT_ATTRIBUTES},
            "hair_length": str(1 + number % 2) if number % 3 else "0",
            "hair_color_label": str(number % 5) if number % 3 else None,
            "image": f"s1_{number}.png",
            "group": f"{number // 2} a" if number % 3 else None,
            "known_labels": 5,
            "short": None,
        }
        for number in range(count)
    ]


CORRUPTED: dict[str, dict[str, object]] = {
    "filename empty": {"filename": None, "image": None},
    "filename not a plain .png or .jpg name": {"filename": "../s1_0.png"},
    "image named more than once with different labels": {"image": "s1_1.png"},
    "group not a plain name": {"group": "=1+1"},
    **{
        f"{attribute.column} neither a number nor a class name": {attribute.column: "0.5"}
        for attribute in DEFAULT_ATTRIBUTES
    },
    **{
        f"{attribute.column} not in {','.join(map(str, range(len(attribute.classes))))}": {
            attribute.column: str(len(attribute.classes))
        }
        for attribute in DEFAULT_ATTRIBUTES
    },
    "hair colour where hair length is bald": {"hair_length": "0", "hair_color_label": "1"},
    "no label known": {"known_labels": 0},
    "row shorter than the header: missing cells are unknown": {"short": "hair_length"},
}
"""Reason -> what makes one row fail for it."""


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows as the suite sees them."""
    frame = pd.DataFrame(rows, columns=list(good_rows(1)[0]))
    text = [column for column in frame if column != "known_labels"]
    return add_classes(DEFAULT_ATTRIBUTES, frame.astype(dict.fromkeys(text, "str")))


def found(frame: pd.DataFrame) -> dict[str, list[int] | None]:
    result = run_suite(load_suite(SUITE, DEFAULT_ATTRIBUTES), "raw", frame, THRESHOLDS)
    return {finding.reason: finding.rows for finding in findings(result)}


def unknown(attribute: Attribute) -> list[dict[str, object]]:
    """Good rows, of which only a third has this label."""
    return [{**row, attribute.column: row[attribute.column] if number < 10 else None} for number, row in good()]


def rare(attribute: Attribute, left: int) -> list[dict[str, object]]:
    """Good rows with the last class taken for the one before, but in `left` of them."""
    last = str(len(attribute.classes) - 1)
    having = [number for number, row in good() if row[attribute.column] == last][left:]
    less = {attribute.column: str(len(attribute.classes) - 2)}
    return [{**row, **(less if number in having else {})} for number, row in good()]


def good() -> list[tuple[int, dict[str, object]]]:
    return list(enumerate(good_rows()))


CORRUPTED_TABLES: dict[str, list[dict[str, object]]] = {
    "too few annotation rows": good_rows(9),
    **{f"{attribute.column} unknown in too many rows": unknown(attribute) for attribute in DEFAULT_ATTRIBUTES},
    **{f"{attribute.column}: a class is missing": rare(attribute, 0) for attribute in DEFAULT_ATTRIBUTES},
    **{f"{attribute.column}: a class is rare": rare(attribute, 1) for attribute in DEFAULT_ATTRIBUTES},
}


def test_good_rows_meet_every_expectation() -> None:
    names = ["a.PNG", "s1/sub folder/b.jpeg", "gesicht_\u00e4\u00f6.jpg", "x" * 251 + ".png"]
    rows = [{**row, "filename": name} for name, row in zip(names, good_rows(), strict=False)]
    assert not found(table(rows + good_rows()[len(rows) :]))


@pytest.mark.parametrize("reason", CORRUPTED)
def test_each_corrupted_row_fails_its_expectation_alone(reason: str) -> None:
    rows = good_rows()
    rows[7] |= CORRUPTED[reason]
    assert found(table(rows)) == {reason: [1, 7] if reason.startswith("image named more than once") else [7]}


@pytest.mark.parametrize("reason", CORRUPTED_TABLES)
def test_each_corrupted_table_fails_its_expectation_alone(reason: str) -> None:
    assert found(table(CORRUPTED_TABLES[reason])) == {reason: None}


def test_without_a_column_only_that_is_reported() -> None:
    # The row expectations that need the column cannot be evaluated then, and are not reported.
    frame = table(good_rows()).drop(columns=["mustache", "mustache_class", "mustache_share"])
    assert found(frame) == {"a column is missing or renamed": None}


def test_no_expectation_is_untested() -> None:
    reasons = [expectation["meta"]["reason"] for expectation in read_suite(SUITE, DEFAULT_ATTRIBUTES)["expectations"]]
    assert sorted(reasons) == sorted([*CORRUPTED, *CORRUPTED_TABLES, "a column is missing or renamed"])


@pytest.mark.parametrize(
    "name",
    ["/etc/shadow.png", "../a.png", "a/../b.png", "a/./b.png", "a\\b.png", ".hidden.png", "a/.b/c.png", "=cmd().png",
     "+a.png", "-a.png", "@a.png", "a\nb.png", "a.gif", "a.png.csv", "png", "a//b.png", "a/",
     "C:/a.png", "https://host/a.png", "//host/a.png"],
)  # fmt: skip
def test_names_that_are_never_followed(name: str) -> None:
    rows = good_rows()
    rows[0]["filename"] = name
    assert found(table(rows)) == {"filename not a plain .png or .jpg name": [0]}


def test_classes_agree_with_the_attributes() -> None:
    sets = {
        expectation["kwargs"]["column"]: expectation["kwargs"]["value_set"]
        for expectation in read_suite(SUITE, DEFAULT_ATTRIBUTES)["expectations"]
        if expectation["type"] == "expect_column_values_to_be_in_set"
    }
    assert sets == {f"{a.name}_class": [str(number) for number in range(len(a.classes))] for a in DEFAULT_ATTRIBUTES}


def test_an_expectation_that_is_not_valid_is_refused_not_dropped(tmp_path: Path) -> None:
    data = json.loads(SUITE.read_text())
    data["expectations"][0]["severity"] = "critcal"
    (tmp_path / "suite.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"suite.json, line 1: {'type': 'expect_table_columns_to_match_set'.*'critcal'"):
        load_suite(tmp_path / "suite.json", DEFAULT_ATTRIBUTES)
