"""The suite of predictions: every expectation of it is failed by one corrupted row or table, and by that alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from stages.common.checks.suite import findings, load_suite, run_suite
from stages.common.checks.validation import check
from stages.common.contract.data_folder import OURS
from stages.common.contract.errors import DataError
from stages.common.inference.predictions import columns, read_predictions
from stages.common.schema.attributes import Attribute
from tests.common.samples import SAMPLE_ATTRIBUTES

pytestmark = pytest.mark.slow

SUITE: Any = load_suite(OURS / "predictions.json", SAMPLE_ATTRIBUTES)
THRESHOLDS = {"low_confidence": 0.6, "min_confident_fraction": 0.75, "min_answered_fraction": 0.7, "versions": ["v3"]}
THRESHOLDS |= {
    f"{attribute.name}_lowest_confidence": int(1e4 / len(attribute.classes)) / 1e4 for attribute in SAMPLE_ATTRIBUTES
}


def corrupted_rows(attribute: Attribute) -> dict[str, dict[str, object]]:
    """Reason -> the cells that are wrong, of one attribute."""
    name, classes = attribute.name, len(attribute.classes)
    return {
        f"{name} not a class": {name: "maybe"},
        f"{name}_predicted not a class": {f"{name}_predicted": "1"},
        f"{name}_predicted missing: no answer": {f"{name}_predicted": None, f"{name}_confidence": None},
        f"{name}_confidence missing beside an answer": {f"{name}_confidence": None},
        f"{name}_answered missing": {f"{name}_answered": None},
        f"{name}_answered neither no nor yes": {f"{name}_answered": "True"},
        f"{name}_confidence above 1": {f"{name}_confidence": 1.0001},
        f"{name}_confidence too low for an answer": {f"{name}_confidence": 1 / classes - 0.001},
    }


CORRUPTED_ROW: dict[str, dict[str, object]] = {
    "filename empty": {"filename": None},
    "an image is answered twice": {"filename": "s1_49.png"},
    "model_version missing": {"model_version": None},
    "model_version differs": {"model_version": "v2"},
}
for attribute in SAMPLE_ATTRIBUTES:
    CORRUPTED_ROW |= corrupted_rows(attribute)


def good_table(rows: int = 10) -> pd.DataFrame:
    columns: dict[str, object] = {"filename": [f"s1_{number}.png" for number in range(rows)]}
    for attribute in SAMPLE_ATTRIBUTES:
        classes, name = attribute.classes, attribute.name
        columns[name] = [classes[number % len(classes)] for number in range(rows)]
        columns[f"{name}_predicted"] = columns[name]
        columns[f"{name}_confidence"] = [1.0, 0.6, *[0.9] * (rows - 2)]
        columns[f"{name}_answered"] = ["yes", "no", *["yes"] * (rows - 2)]
    columns["lot"] = ["s1"] * rows
    columns["model_version"] = ["v3"] * rows
    return pd.DataFrame(columns)


def corrupted(table: pd.DataFrame, *rows: Mapping[str, object]) -> pd.DataFrame:
    """The table with other cells in its first rows."""
    changes = [*map(dict, rows), *[dict[str, object]()] * (len(table) - len(rows))]
    return pd.DataFrame([good | change for good, change in zip(table.to_dict("records"), changes, strict=True)])


def found(table: pd.DataFrame, versions: Sequence[str] = ("v3",)) -> dict[str, list[Any] | None]:
    result = run_suite(SUITE, "predictions", table, THRESHOLDS | {"versions": list(versions)})
    return {finding.reason: finding.rows for finding in findings(result)}


def test_good_predictions_meet_every_expectation(tmp_path: Path) -> None:
    equal = {
        f"{attribute.name}_confidence": int(1e4 / len(attribute.classes)) / 1e4 for attribute in SAMPLE_ATTRIBUTES
    }  # as the file has it
    table = corrupted(good_table(), {"bag": None}, equal, {"lot": "s2", "filename": "s1_3.png"})
    assert not found(table)
    table = corrupted(good_table(), {"bag": None}, equal).drop(columns="lot")
    table.drop(columns=[attribute.name for attribute in SAMPLE_ATTRIBUTES]).to_csv(tmp_path / "p.csv", index=False)
    assert not found(read_predictions(SAMPLE_ATTRIBUTES, tmp_path / "p.csv"))  # those of a model in use
    table.drop(columns="model_version").to_csv(tmp_path / "p.csv", index=False)
    assert not found(
        read_predictions(SAMPLE_ATTRIBUTES, tmp_path / "p.csv"), [""]
    )  # those of a model that is no version yet


def test_each_corrupted_row_fails_its_expectation_alone() -> None:
    table = corrupted(good_table(50), *CORRUPTED_ROW.values())
    expected: dict[str, list[Any] | None] = {reason: [row] for row, reason in enumerate(CORRUPTED_ROW)}
    expected["an image is answered twice"] = [1, 49]  # the row and the one that it repeats
    assert found(table) == expected


def test_each_corrupted_table_fails_its_expectation_alone() -> None:
    assert found(good_table().assign(extra=1)) == {"columns are not as expected": None}
    assert found(good_table()[:0]) == {"there are no predictions": None}
    for attribute in SAMPLE_ATTRIBUTES:
        table = good_table()
        table.loc[[2, 3, 4], f"{attribute.name}_confidence"] = 0.59  # three of ten
        assert found(table) == {f"{attribute.name}_confidence low for many images": [2, 3, 4]}
        table = good_table()
        table.loc[[2, 3, 4], f"{attribute.name}_answered"] = "no"  # and row 1 in any case
        assert found(table) == {f"{attribute.name}_answered no for many images": [1, 2, 3, 4]}


def test_no_expectation_is_untested() -> None:
    tables = {"columns are not as expected", "there are no predictions"}
    tables |= {
        f"{attribute.name}_{what} for many images"
        for attribute in SAMPLE_ATTRIBUTES
        for what in ("confidence low", "answered no")
    }
    reasons = [expectation.meta["reason"] for expectation in SUITE.expectations]
    assert sorted(reasons) == sorted({*CORRUPTED_ROW, *tables})


def test_columns_and_classes_agree_with_the_attributes() -> None:
    assert set(SUITE.expectations[0].column_set) == set(columns(SAMPLE_ATTRIBUTES))
    for attribute in SAMPLE_ATTRIBUTES:
        for column in (attribute.name, f"{attribute.name}_predicted"):
            asked = [expectation for expectation in SUITE.expectations if getattr(expectation, "column", "") == column]
            sets = [expectation.value_set for expectation in asked if hasattr(expectation, "value_set")]
            assert sets == [list(attribute.classes)]


def test_a_critical_finding_is_one_line_and_keeps_its_report(tmp_path: Path) -> None:
    wrong = {"bag_predicted": "=cmd()<script>"}
    unanswered = {"scarf_predicted": None, "scarf_confidence": None}
    table = corrupted(good_table(), unanswered, {"filename": "<b>.png", **wrong}, wrong, wrong, wrong)
    context: Any = SimpleNamespace(out=tmp_path / "out", failed=tmp_path / "failed", suites={})
    with pytest.raises(DataError) as caught:
        check(SAMPLE_ATTRIBUTES, "predictions", table, THRESHOLDS, context)
    line = str(caught.value)
    assert "bag_predicted not a class (4 of 10 images, the first <b>.png, s1_2.png, s1_3.png)" in line
    assert "scarf" not in line
    assert "\n" not in line
    assert not (tmp_path / "out").exists()
    rows = (tmp_path / "failed" / "findings.csv").read_text().splitlines()
    assert rows[1] == "critical,bag_predicted not a class,<b>.png,bag_predicted,'=cmd()<script>"
    assert rows[5].startswith("warning,scarf_predicted missing: no answer,s1_0.png")
    for page in ("report.html", "data_docs/predictions/index.html", "data_docs/predictions/suite.html"):
        assert "<script" not in (tmp_path / "failed" / page).read_text()
