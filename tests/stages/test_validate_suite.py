"""The suite as data: every expectation of it is failed by one corrupted row, and by that row alone."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stages.common.attributes import ATTRIBUTES
from stages.validate.stage import SUITE
from stages.common.suite import findings, load_suite, run_suite

GOOD = {
    "filename": "s1/s1_0.png", "beard": "1", "mustache": "0", "glasses_binary": None, "hair_color_label": "4",
    "hair_length": "2", "image": "s1_0.png", "images": 1, "known_labels": 4, "path": "s1/s1_0.png",
}  # fmt: skip

CORRUPTED: dict[str, dict[str, object]] = {
    "filename empty": {"filename": None, "image": None, "images": None},
    "filename not a plain .png or .jpg name": {"filename": "../s1_0.png"},
    "image named more than once with different labels or folders": {"image": "twice.png"},
    "image missing": {"images": 0},
    "image name in several folders": {"images": 2},
    "image in a folder whose name starts with = + - @ . or holds control characters": {"path": "=cmd()/s1_0.png"},
    "beard not in 0,1": {"beard": "2"},
    "mustache not in 0,1": {"mustache": "0.5"},
    "glasses_binary not in 0,1": {"glasses_binary": "nan"},
    "hair_color_label not in 0,1,2,3,4": {"hair_color_label": "-1"},
    "hair_length not in 0,1,2": {"hair_length": "long"},
    "hair colour of a bald face": {"hair_length": "0"},
    "no label known": {"known_labels": 0},
}


def table(*rows: dict[str, object]) -> pd.DataFrame:
    frame = pd.DataFrame([{**GOOD, "image": f"s1_{number}.png", **row} for number, row in enumerate(rows)])
    text = [column for column in frame if column not in {"images", "known_labels"}]
    return frame.astype({"images": "Int64", **dict.fromkeys(text, "str")})


def found(frame: pd.DataFrame) -> dict[str, list[int] | None]:
    return {finding.reason: finding.rows for finding in findings(run_suite(load_suite(SUITE), "raw", frame))}


def test_good_rows_meet_every_expectation() -> None:
    names = ["a.PNG", "s1/sub folder/b.jpeg", "gesicht_\u00e4\u00f6.jpg", "x" * 251 + ".png"]
    rows: list[dict[str, object]] = [{"filename": name} for name in names]
    assert not found(table(*rows, {"hair_length": "0", "hair_color_label": None}))


def test_each_corrupted_row_fails_its_expectation_alone() -> None:
    result = found(table(*CORRUPTED.values(), {"image": "twice.png"}))
    expected: dict[str, list[int] | None] = {reason: [number] for number, reason in enumerate(CORRUPTED)}
    expected["image named more than once with different labels or folders"] = [2, len(CORRUPTED)]
    assert result == expected


def test_each_corrupted_table_fails_its_expectation_alone() -> None:
    assert found(table({})[:0]) == {"there are no annotation rows": None}
    # The row expectations that need the column cannot be evaluated then, and are not reported.
    assert found(table({}).drop(columns="mustache")) == {"a column is missing or renamed": None}


def test_no_expectation_is_untested() -> None:
    reasons = {expectation["meta"]["reason"] for expectation in json.loads(SUITE.read_text())["expectations"]}
    assert reasons == {*CORRUPTED, "there are no annotation rows", "a column is missing or renamed"}


@pytest.mark.parametrize(
    "name",
    ["/etc/shadow.png", "../a.png", "a/../b.png", "a/./b.png", "a\\b.png", ".hidden.png", "a/.b/c.png", "=cmd().png",
     "+a.png", "-a.png", "@a.png", "a\nb.png", "a.gif", "a.png.csv", "png", "a//b.png", "a/"],
)  # fmt: skip
def test_names_that_are_never_followed(name: str) -> None:
    assert found(table({"filename": name})) == {"filename not a plain .png or .jpg name": [0]}


@pytest.mark.parametrize("folder", ["=cmd()", "a/=b", "+a", "-a", "@a", ".", "a/..", "\ta", "a\nb"])
def test_folders_that_would_be_formulas(folder: str) -> None:
    assert list(found(table({"path": f"{folder}/x.png"}, {"path": "a=1/b - c/@x.png"}, {"path": None})).values()) == [
        [0]
    ]


def test_classes_agree_with_the_attributes() -> None:
    sets = {
        expectation["kwargs"]["column"]: expectation["kwargs"]["value_set"]
        for expectation in json.loads(SUITE.read_text())["expectations"]
        if expectation["type"] == "expect_column_values_to_be_in_set"
    }
    assert sets == {a.column: [str(number) for number in range(len(a.classes))] for a in ATTRIBUTES}


def test_an_expectation_that_is_not_valid_is_refused_not_dropped(tmp_path: Path) -> None:
    data = json.loads(SUITE.read_text())
    data["expectations"][0]["severity"] = "critcal"
    (tmp_path / "suite.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="1 expectations are not valid"):
        load_suite(tmp_path / "suite.json")
