"""The report of `validate` on changes since the validation before it."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from stages.common.contract.command_line import main
from stages.validate.stage import STAGE
from tests.stages.test_validate import GOOD, HEADER, Data

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def validate(data: Data, rows: list[str], store: str = "store", *more: str) -> Path:
    """The artifact that these rows make."""
    data.csv.write_text("\n".join([HEADER, *rows]))
    told = data.out.parent / "result.json"
    told.parent.mkdir(exist_ok=True)
    paths = ["--raw", str(data.raw), "--annotations", str(data.csv), "--store", str(data.out.parent / store)]
    assert main(STAGE, [*paths, "--result", str(told), *more]) == 0
    return Path(json.loads(told.read_text())["path"])


def changes(artifact: Path) -> list[tuple[str, ...]]:
    with (artifact / "changes.csv").open(newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def said(artifact: Path) -> str:
    """The part of the report about the last validation, as text."""
    page = (artifact / "report.html").read_text().partition("Since the validation of")[2][:4000]
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page))


def manifest(artifact: Path) -> dict[str, Any]:
    return dict(json.loads((artifact / "manifest.json").read_text()))


def test_rows_and_labels_added_changed_and_gone_are_told_and_change_no_key(data: Data) -> None:
    first = validate(data, GOOD[:9])
    assert not (first / "changes.csv").exists()
    assert "Since the validation" not in (first / "report.html").read_text()
    kept = [row for row in GOOD if not row.startswith("s1_00000")]
    kept[0] = "s1_00001.png,0,,1,1,2"  # beard changed, mustache gone
    second = validate(data, kept)
    assert changes(second) == [
        ("s2_00004.png", "s2", "row added", "", ""),
        ("s1_00000.png", "s1", "row gone", "", ""),
        ("s1_00001.png", "s1", "beard", "yes", "no"),
        ("s1_00001.png", "s1", "mustache", "no", ""),
    ]
    assert "Images 1 1 Labels: Beard 0 1 0 Labels: Mustache 0 0 1" in said(second)
    third = validate(data, [*GOOD[:1], *kept])
    assert changes(third) == [("s1_00000.png", "s1", "row added", "", "")]

    alone = validate(data, kept, "another store")
    assert not (alone / "changes.csv").exists()
    assert [manifest(alone)[name] for name in ("key", "content")] == [
        manifest(second)[name] for name in ("key", "content")
    ]


def test_other_lots_are_no_change_and_the_same_again_is_told_as_such(data: Data) -> None:
    validate(data, GOOD)
    assert not (validate(data, GOOD, "store", "--set", 'validate.lots=["s1"]') / "changes.csv").exists()
    again = validate(data, [*GOOD, GOOD[0]])  # a repeat
    assert changes(again) == []
    assert "No accepted image or label has changed" in said(again)
