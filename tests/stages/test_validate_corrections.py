"""Corrections that people save on reports, and what Label Studio exports, as stage validate reads them."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from stages.common.contract.command_line import main
from stages.validate.stage import STAGE

pytestmark = pytest.mark.slow

ATTRIBUTES = """
- {name: hat, classes: [none, cap, bowler], column: hat_label, title: Hat}
- {name: smile, classes: ["no", "yes"]}
"""
ROWS = "filename,hat_label,smile\ns1_0.png,0,0\nS1_1.PNG,1,1\ns1_2.png,2,0\ns1_3.png,x,0\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def correction(folder: Path, at: str, who: str, *rows: str) -> Path:
    """A file as a page writes it; `rows` are filename, hat, smile."""
    name = f"corrections_{at.replace(':', '')}_{who}_abcdef.csv"
    lines = [f"{row},{who},{at}\n" for row in rows]
    return write(folder / name, "".join(["filename,hat_label,smile,corrected_by,corrected_at\n", *lines]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "attributes.yaml", ATTRIBUTES)
    return tmp_path


def validate(folder: Path, annotations: Path, *more: str) -> tuple[int, Path]:
    out = folder / "out"
    options = ["--set", "validate.max_rejected_fraction=0.5", *more]
    return main(STAGE, ["--annotations", str(annotations), "--out", str(out), *options]), out


def accepted(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "annotations.csv").open(newline="") as file:
        return {row["filename"]: (row["hat"], row["smile"]) for row in csv.DictReader(file)}


def test_a_correction_is_newer_than_every_other_file_and_of_two_the_later_one_counts(folder: Path) -> None:
    annotations = write(folder / "annotations" / "labels_2099-01-01.csv", ROWS).parent
    corrections = folder / "corrections"
    correction(corrections, "2026-11-20T23:00:00Z", "anna", "s1_0.png,bowler,", "s1/s1_3.png,cap,")
    correction(corrections, "2026-11-20T09:00:00Z", "zoe", "s1_0.png,cap,yes", "s1/s1_1.png,,no")
    correction(annotations, "2026-11-20T10:00:00Z", "ben", "s1_2.png,,yes")  # one that was downloaded
    write(corrections / "notes.txt", "what we did")
    write(corrections / ".corrections_hidden.csv", "half a fi")
    correction(corrections, "2026-11-20T23:00:00.500Z", "anna", "s1_2.png,none,")
    correction(corrections, "2026-11-20T23:00:00.750Z", "anna", "s1_2.png,bowler,")
    code, out = validate(folder, annotations)
    assert code == 0
    assert accepted(out) == {
        "s1_0.png": ("2", "1"),
        "S1_1.PNG": ("1", "0"),
        "s1_2.png": ("2", "1"),
        "s1_3.png": ("1", "0"),
    }
    warnings = (out / "warnings.csv").read_text()
    late, early = (
        f"corrections_2026-11-20T{hour}0000Z_{who}_abcdef.csv" for hour, who in (("23", "anna"), ("09", "zoe"))
    )
    assert f"hat_label 0 replaced by 2 of {late} row 2; smile 0 replaced by 1 of {early} row 2" in warnings
    assert f"{early},2,s1_0.png,hat_label 1 replaced by 2 of {late} row 2" in warnings
    page = (out / "report.html").read_text()
    assert "corrections by &#39;anna&#39;" in page
    assert "2026-11-20T23:00:00Z" in page


def test_a_person_may_say_that_a_label_cannot_be_told_and_the_newest_still_counts(folder: Path) -> None:
    annotations = write(folder / "annotations.csv", ROWS)
    correction(folder / "corrections", "2026-11-20T09:00:00Z", "anna", "s1_0.png,unknown,", "s1_2.png,Unknown,unknown")
    correction(folder / "corrections", "2026-11-20T10:00:00Z", "ben", "s1_2.png,cap,", "S1_1.PNG,,unknown")
    code, out = validate(folder, annotations)
    assert code == 0
    assert accepted(out) == {"s1_0.png": ("", "0"), "S1_1.PNG": ("1", ""), "s1_2.png": ("1", "")}
    early = "corrections_2026-11-20T090000Z_anna_abcdef.csv"
    assert f"hat_label 0 replaced by 'unknown' of {early} row 2" in (out / "warnings.csv").read_text()
    assert "taken as unknown" not in (out / "metrics" / "validation.json").read_text()


def test_corrections_beside_one_file_count_and_a_new_one_makes_another_key(folder: Path) -> None:
    annotations = write(folder / "annotations.csv", ROWS)
    (folder / "corrections").mkdir()  # empty, as it is made before anybody corrects
    store = ["--annotations", str(annotations), "--store", str(folder / "store"), "--set"]
    store += ["validate.max_rejected_fraction=0.5"]
    keys, found = [], []
    for hour in range(3):
        result = folder / f"{hour}.json"
        assert main(STAGE, [*store, "--result", str(result)]) == 0
        told = json.loads(result.read_text())
        keys.append(told["key"])
        found.append(accepted(Path(told["path"]))["s1_2.png"])
        correction(
            folder / "corrections", f"2026-11-20T0{hour}:00:00Z", "anna", f"s1_2.png,{['none', 'cap'][hour % 2]},"
        )
    assert len(set(keys)) == 3
    assert [hat for hat, _ in found] == ["2", "0", "1"]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("filename,hat_label\ns1_0.png,1\n", "is not a file of corrections (a column corrected_by is missing"),
        ("corrected_by,corrected_at\nanna,2026\n", "is not a file of corrections"),
    ],
)
def test_what_is_no_correction_is_refused_by_name(
    folder: Path, caplog: pytest.LogCaptureFixture, text: str, cause: str
) -> None:
    annotations = write(folder / "annotations.csv", ROWS)
    write(folder / "corrections" / "other.csv", text)
    assert validate(folder, annotations)[0] == 65
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert f"{folder / 'corrections' / 'other.csv'} {cause}" in line


def test_a_file_of_corrections_that_is_not_read_is_listed_and_stops_nothing(folder: Path) -> None:
    annotations = write(folder / "annotations.csv", ROWS)
    corrections = folder / "corrections"
    earlier = correction(corrections, "2026-11-20T09:00:00Z", "anna", "s1_0.png,cap,")
    earlier.write_text(earlier.read_text().replace("hat_label,smile", "hood,cape"))  # attributes of then
    write(corrections / "labels.csv.txt", "filename,hat_label\n")
    correction(corrections / "ben", "2026-11-20T09:00:00Z", "ben", "s1_2.png,cap,").rename(
        corrections / "ben" / "B.CSV"
    )
    code, out = validate(folder, annotations)
    assert code == 0
    assert (accepted(out)["s1_0.png"], accepted(out)["s1_2.png"]) == (("0", "0"), ("1", "0"))
    listed = (out / "unannotated.csv").read_text()
    assert f"corrections/{earlier.name},corrections of columns that attributes.yaml does not ask for\n" in listed
    assert "corrections/labels.csv.txt,not a .csv name\n" in listed
    notices = json.loads((out / "metrics" / "validation.json").read_text())["notices"]
    assert any(f"'corrections/{earlier.name}' is not read" in line for line in notices)


# ---- Label Studio ----


def task(number: int, image: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "annotations": list(annotations), "predictions": [], "data": {"image": image}}


def annotation(at: str = "2026-11-20T10:00:00.000000Z", *, cancelled: bool = False, **choices: Any) -> dict[str, Any]:
    result = [
        {"id": name, "from_name": name, "to_name": "image", "type": "choices", "value": {"choices": [chosen]}}
        for name, chosen in choices.items()
    ]
    return {"completed_by": 1, "result": result, "was_cancelled": cancelled, "updated_at": at}


def test_label_studio_s_export_is_read_like_any_other_file(folder: Path) -> None:
    box = {"from_name": "box", "type": "rectanglelabels", "value": {"rectanglelabels": ["face"]}}
    newer = annotation("2026-11-21T10:00:00.000000Z", hat_label="bowler", smile="yes")
    both = annotation(hat_label="cap")
    both["result"].append({"from_name": "smile", "type": "choices", "value": {"choices": ["no", "yes"]}})
    tasks = [
        task(7, "/data/local-files/?d=raw/s1/s1_0.png", newer, annotation(hat="cap")),
        task(
            8,
            "/data/upload/3/1a2b3c4d-s1_2.png",
            {**annotation(Hat="none"), "result": [*annotation(hat="none")["result"], box]},
        ),
        task(9, "s3://bucket/raw/s1/S1_1.PNG", annotation(cancelled=True, hat="none")),
        task(10, "data:image/png;base64,AAAA", annotation(hat="none")),
        task(11, "https://example.com/raw/s1/s1%5F3.png?x=1", both),
    ]
    write(folder / "annotations" / "labels_2026-11-01.csv", ROWS)
    export = folder / "annotations" / "project-1-at-2026-11-22-10-00-0a1b2c3d.json"
    export.write_text(json.dumps(tasks))
    code, out = validate(folder, folder / "annotations")
    assert code == 0
    assert accepted(out) == {"s1_0.png": ("2", "1"), "S1_1.PNG": ("1", "1"), "s1_2.png": ("0", "0")}
    rejected = (out / "rejected.csv").read_text()
    assert f"{export.name},4,,a task without the name of an image: give data a filename" in rejected
    assert "smile neither a number nor a class name (found 'no and yes'" in rejected
    notices = json.loads((out / "metrics" / "validation.json").read_text())["notices"]
    assert f"{export.name}: 1 of 5 tasks are not annotated, such as 'raw/s1/S1_1.PNG'" in notices
    assert f"{export.name}: 1 tasks have several annotations, of which the newest counts" in notices
    assert f"{export.name}: results that are not read: 'box (rectanglelabels)'" in notices


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('[{"annotations": [], "data": {}}', "line 1: not JSON ("),
        ('[{"annotations": [], "data": 1}]', "1 cannot be read, the first labels.json row 1: a task without"),
        (
            '[{"image": "a.png", "annotation_id": 1, "annotator": 1}]',
            "is Label Studio's JSON-MIN (it exports JSON, too)",
        ),
    ],
)
def test_what_is_no_export_is_refused_in_a_line(
    folder: Path, caplog: pytest.LogCaptureFixture, text: str, cause: str
) -> None:
    assert validate(folder, write(folder / "labels.json", text))[0] == 65
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert cause in line
    assert os.linesep not in line
