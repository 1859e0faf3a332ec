"""CSV files for people: no spreadsheet runs a cell of them, and our own reader gets back what was written."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest

from stages.common.contract.tables import write_csv
from stages.common.inference.answers import answers_of
from stages.common.inference.predictions import read_predictions, write_predictions
from tests.common.samples import SAMPLE_ATTRIBUTES

SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"
CELLS = [
    "=1+1", "\uff1d1+1", "\uff0b1", "\uff0d1", "\uff201", "\n=1+1", "\r=1", "\t=1", " =1", '"=1', "x;=1+1",
    "x; \uff1d1", "x\t=1", "x|@a", "a\n-b", "x;\t=1", ";=1", "'=1", "\tx", "a;'+1",
]  # fmt: skip


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_no_spreadsheet_finds_a_formula_whatever_it_separates_fields_by(separator: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", ["cell"], [[cell, "end"] for cell in CELLS], for_people=True)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        fields = [field for row in csv.reader(file, delimiter=separator) for field in row]
    assert [field for field in fields if field.strip().strip('"').strip().startswith(tuple(SIGNS))] == []


def test_what_is_no_formula_stays_as_it_is(tmp_path: Path) -> None:
    cells = ["s1_00000.png", "a-b", "x = 1", "0.9987", "found 'a', -1", "M\u00fcller.jpg", "", "a; b"]
    write_csv(tmp_path / "table.csv", cells, [[7, None, -1.5, *cells[3:]]], for_people=True)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [cells, ["7", "", "-1.5", *cells[3:]]]


def test_names_are_read_back_from_predictions_as_they_were_written(tmp_path: Path) -> None:
    draw = random.Random(0)  # noqa: S311 (not for cryptography)
    drawn = ["".join(draw.choices("a'=;\t\r\n \"|-\uff1d", k=6)) + ".png" for _ in range(500)]
    names = [f"{cell}.png" for cell in CELLS] + drawn
    probabilities = {
        attribute.name: np.full((len(names), len(attribute.classes)), 0.5) for attribute in SAMPLE_ATTRIBUTES
    }
    answers = answers_of(SAMPLE_ATTRIBUTES, probabilities)
    write_predictions(tmp_path / "predictions.csv", names, answers)
    assert read_predictions(SAMPLE_ATTRIBUTES, tmp_path / "predictions.csv")["filename"].tolist() == names
