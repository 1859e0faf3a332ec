"""Templates of suites: what an entry stands for, whatever the attributes are, and what is said of a wrong one."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.common.checks.suite import findings, load_suite, run_suite
from stages.common.checks.template import read_suite
from stages.common.contract.data_folder import OURS
from stages.common.contract.errors import DataError
from stages.common.schema.attributes import Attribute

TOP = Attribute("top", ("none", "hat", "turban"), "top_label", "Top")
EYES = Attribute("eyes", ("open", "shut"), "eyes", "Eyes", unknown_when={"top": "turban"})
SUITES = sorted(OURS.glob("*.json"))


def read(folder: Path, *entries: object, attributes: tuple[Attribute, ...] = (TOP, EYES)) -> list[Any]:
    path = folder / "suite.json"
    path.write_text(json.dumps({"name": "toy", "expectations": entries}), encoding="utf-8")
    found: list[Any] = read_suite(path, attributes)["expectations"]
    return found


def many(attributes: int, classes: int) -> tuple[Attribute, ...]:
    names = tuple(f"class {number}" for number in range(classes))
    return tuple(Attribute(f"a{number}", names, f"column_{number}", f"A {number}") for number in range(attributes))


def test_an_entry_stands_for_one_of_each_attribute(tmp_path: Path) -> None:
    entry = {"kwargs": {"column": "{name}_class", "value_set": "{indices}"}, "meta": {"reason": "{column}: {legend}"}}
    assert read(tmp_path, {"a": 1}, {"each": "attribute", **entry}, {"b": 2}) == [
        {"a": 1},
        {"kwargs": {"column": "top_class", "value_set": ["0", "1", "2"]},
         "meta": {"reason": "top_label: 0 none, 1 hat, 2 turban"}},
        {"kwargs": {"column": "eyes_class", "value_set": ["0", "1"]}, "meta": {"reason": "eyes: 0 open, 1 shut"}},
        {"b": 2},
    ]  # fmt: skip


def test_items_stay_together_and_may_be_texts(tmp_path: Path) -> None:
    columns = ["filename", {"each": "attribute", "items": ["{name}", "{name}_confidence"]}, "lot"]
    block = {"each": "attribute", "items": [{"first": "{name}"}, {"second": "{classes}"}]}
    assert read(tmp_path, {"column_set": columns}, block) == [
        {"column_set": ["filename", "top", "top_confidence", "eyes", "eyes_confidence", "lot"]},
        {"first": "top"},
        {"second": ["none", "hat", "turban"]},
        {"first": "eyes"},
        {"second": ["open", "shut"]},
    ]


def test_a_placeholder_on_its_own_keeps_its_type_and_in_a_text_becomes_text(tmp_path: Path) -> None:
    entry = {"each": "attribute", "alone": ["{count}", "{indices}"], "text": "1/{count} of {indices}"}
    assert read(tmp_path, entry, attributes=(TOP,)) == [{"alone": [3, ["0", "1", "2"]], "text": "1/3 of 0,1,2"}]


def test_each_may_be_a_list_and_stand_within_another(tmp_path: Path) -> None:
    splits = [{"split": "train"}, {"split": "test"}]
    block = {"each": splits, "items": [{"each": "attribute", "reason": "{split} {name}"}]}
    found = [entry["reason"] for entry in read(tmp_path, block)]
    assert found == ["train top", "train eyes", "test top", "test eyes"]
    each = [{"signal": "light"}, {"each": "attribute", "signal": "{name}_sure"}]
    found = [entry["reason"] for entry in read(tmp_path, {"each": each, "reason": "{signal}"})]
    assert found == ["light", "top_sure", "eyes_sure"]


def test_a_class_that_leaves_another_attribute_unknown(tmp_path: Path) -> None:
    entry = {"each": "unknown_when", "when": "{other_column} {class_index}", "reason": "{title}, {other_title} {class}"}
    assert read(tmp_path, entry) == [{"when": "top_label 2", "reason": "eyes, top turban"}]
    assert read(tmp_path, entry, attributes=(TOP,)) == []


def test_what_a_placeholder_stands_for_is_no_template(tmp_path: Path) -> None:
    odd = Attribute("odd", ("{name}", "b"), "odd", "{column}")
    assert read(tmp_path, {"each": "attribute", "a": "{title}: {legend}", "b": "{classes}"}, attributes=(odd,)) == [
        {"a": "{column}: 0 {name}, 1 b", "b": ["{name}", "b"]}
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"each": "attribute", "kwargs": {"column": "{nmae}"}},
            "placeholder {nmae} is unknown: write one of {name}, {column}",
        ),
        ({"kwargs": {"column": "{name}"}}, 'placeholder {name} is unknown: placeholders need an "each"'),
        ({"each": "atribute", "a": 1}, '"each" is "atribute": write attribute, unknown_when or a list of objects'),
        ({"each": ["train"], "a": 1}, '"each" is ["train"]: write'),
        ({"each": None, "a": 1}, '"each" is null: write'),
        ({"each": "attribute", "items": [], "severity": "critical"}, '"items" is a list, and beside it may stand only'),
        ({"each": "attribute", "items": {"type": "a"}}, '"items" is a list, and beside it may stand only'),
    ],
)
def test_a_wrong_template_is_one_line_that_names_file_and_entry(tmp_path: Path, entry: object, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, {"a": 1}, entry)
    assert str(caught.value).startswith(f"{tmp_path / 'suite.json'}, line 1: {said}")
    assert "\n" not in str(caught.value)


def test_a_suite_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text('{"name": "toy",}')
    with pytest.raises(DataError, match=r"suite.json, line 1: not JSON"):
        read_suite(tmp_path / "suite.json", ())


@pytest.mark.parametrize(
    ("expectation", "said"),
    [
        ({"type": "expect_colum", "meta": {"reason": "a"}}, "expect_colum not found"),
        ({"type": "expect_column_values_to_be_unique", "kwargs": {"colum": "a"}}, "colum extra fields not permitted"),
        ({"type": "expect_column_values_to_be_unique", "kwargs": {"column": "a"}, "eech": 1}, "'eech'"),
        ({"type": "expect_column_values_to_be_unique", "kwargs": {"column": "a"}, "meta": {}}, "KeyError: 'reason'"),
    ],
)
def test_an_expectation_that_is_not_valid_is_one_line(tmp_path: Path, expectation: dict[str, Any], said: str) -> None:
    (tmp_path / "suite.json").write_text(json.dumps({"name": "toy", "expectations": [{"kwargs": {}} | expectation]}))
    with pytest.raises(DataError) as caught:
        load_suite(tmp_path / "suite.json", ())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
@pytest.mark.parametrize(("attributes", "classes"), [(1, 2), (1, 200), (40, 2)])
def test_every_suite_fits_any_attributes(path: Path, attributes: int, classes: int) -> None:
    expanded = read_suite(path, many(attributes, classes))["expectations"]
    text = json.dumps(expanded)
    assert not re.search(r"\{[a-z_]+\}", text)
    assert (f"a{attributes - 1}" in text) == (path.stem != "images")
    reasons = [entry["meta"]["reason"] for entry in expanded]
    assert len(set(reasons)) == len(reasons)
    assert all(
        len(told) < 200 for entry in expanded for told in (entry["meta"]["reason"], entry["meta"].get("remedy", ""))
    )


def test_forty_attributes_are_checked() -> None:
    attributes = many(40, 3)
    rows = pd.DataFrame(
        {
            "filename": [f"{number}.png" for number in range(9)],
            "lot": "s1",
            "row": [str(number) for number in range(9)],
            "split": [("train", "val", "test")[number // 3] for number in range(9)],
            "pixels": [f"{number:032x}" for number in range(9)],
            "group": [f"{number:032x}" for number in range(9)],
            **{attribute.name: [str(number % 3) for number in range(9)] for attribute in attributes},
            "splits_of_picture": 1,
            "mean": 180.0,
            "std": 70.0,
        }
    )
    rows.loc[8, "a39"] = "3"
    limits = {"min_std": 10, "mean_min": 60, "mean_max": 230, "std_min": 30, "std_max": 110}
    limits |= {f"{split}_{bound}": 3 for split in ("train", "val", "test") for bound in ("min", "max")}
    found = findings(run_suite(load_suite(OURS / "prepared.json", attributes), "prepared", rows, limits))
    assert [(finding.reason, finding.rows) for finding in found] == [("a39 not in 0,1,2", [8])]
