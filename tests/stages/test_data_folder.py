"""Suites and parameters that a data folder brings: what they change and leave alone, what is said of a wrong one."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common.contract.command_line import main
from stages.common.contract.data_folder import OURS, PARAMS
from stages.validate.stage import STAGE
from tests.stages.test_validate import GOOD, HEADER

pytestmark = pytest.mark.slow

REASON = "fewer rows than this team wants"


class Home:
    """A data folder, with a store beside it."""

    def __init__(self, folder: Path) -> None:
        self.data, self.store = folder / "data", folder / "store"
        self.data.mkdir()
        (self.data / "annotations.csv").write_text("\n".join([HEADER, *GOOD]))

    def bring(self, name: str, text: str) -> None:
        path = self.data / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def validate(self, *more: str) -> int:
        paths = ["--annotations", str(self.data / "annotations.csv"), "--store", str(self.store)]
        return main(STAGE, [*paths, "--data", str(self.data), "--result", str(self.store / "told.json"), *more])

    def told(self, *more: str) -> dict[str, Any]:
        self.store.mkdir(exist_ok=True)
        assert self.validate(*more) == 0
        return dict(json.loads((self.store / "told.json").read_text()))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def suite_with(name: str, **entry: Any) -> str:
    """A suite of ours with one more expectation."""
    suite = json.loads((OURS / f"{name}.json").read_text())
    suite["expectations"].append({"severity": "warning", **entry})
    return json.dumps(suite, indent=2)


ROWS = suite_with(
    "raw_annotations", type="expect_table_row_count_to_be_between", kwargs={"min_value": 1000}, meta={"reason": REASON}
)
FIRST = ROWS[: ROWS.index('"expect_table_row_count_to_be_between"')].count("\n")
"""The line in which the first entry of this type begins."""


def test_a_suite_of_the_data_replaces_ours_is_part_of_the_key_and_is_named_in_the_report(home: Home) -> None:
    ours = home.told()
    page = Path(ours["report"]).read_text()
    assert REASON not in page
    assert "expectations of expectations/raw_annotations.json met" in page

    home.bring("expectations/drift.json", (OURS / "drift.json").read_text())  # which another stage reads
    assert home.told()["cached"]

    home.bring("expectations/raw_annotations.json", ROWS)
    theirs = home.told()
    assert not theirs["cached"]
    assert theirs["content"] == ours["content"]  # so what follows is not made again
    page = Path(theirs["report"]).read_text()
    assert REASON in page
    assert f"expectations of {home.data}/expectations/raw_annotations.json met" in page
    source = json.loads((Path(theirs["path"]) / "manifest.json").read_text())["inputs"]["expectations"]
    assert (source["path"], source["files"]) == (f"{home.data}/expectations", 1)

    home.bring("expectations/raw_annotations.json", ROWS.replace("1000", "2000"))
    assert not home.told()["cached"]
    home.bring("expectations/raw_annotations.json", ROWS)
    again = home.told()
    assert (again["cached"], again["key"]) == (True, theirs["key"])


def test_parameters_of_the_data_replace_ours_and_what_a_person_sets_replaces_them(home: Home) -> None:
    ours = home.told()
    home.bring("params.yaml", "train: {epochs: 3}\n")  # which this stage does not read
    assert home.told()["cached"]
    home.bring("params.yaml", "validate: {min_rows: 1000}\n")
    assert home.validate() == 65
    assert home.told("--set", f"validate.min_rows={yaml.safe_load(PARAMS.read_text())['validate']['min_rows']}")[
        "key"
    ] == ours["key"]  # fmt: skip


WRONG = {
    "expectations/raw_annotation.json": ("{}", ": there is no such suite: call it drift.json, images.json, "),
    "expectations/images.json": ('{"name": "images",\n "expectations": [}', ", line 2: not JSON ("),
    "expectations/raw_annotations.json": (
        ROWS.replace("expect_table_row_count_to_be_between", "expect_rows"), f", line {FIRST}: ",
    ),
    "params.yaml": ("validate:\n  min_rows: 2\n  min_row: 3\n", ", line 3: validate.min_row: params.yaml has no"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_line_that_names_it(name: str, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    text, said = WRONG[name]
    home.bring(name, text)
    assert home.validate() == 65
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert f"{home.data / name}{said}" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("validate:\n  min_rows: few\n", ", line 2: validate.min_rows: expected a whole number"),
        ("airflow:\n  keep: 1d\n", ", line 1: airflow: the data cannot set this section"),
        ("validate: [\n", "cannot read parameters from "),
        ("validate: 3\n", ", line 1: validate: expected keys such as "),
    ],
)
def test_wrong_parameters_are_one_line(text: str, said: str, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    home.bring("params.yaml", text)
    assert home.validate("--check") == 65
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert said in line
    assert str(home.data / "params.yaml") in line
