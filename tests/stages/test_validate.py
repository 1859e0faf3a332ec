"""Stage validate on good annotations in their several forms, and on rows that it must leave out."""

import csv
import json
import logging
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from stages.common.contract.command_line import main
from stages.validate.attributes_file import DEFAULT, read_attributes_file
from stages.validate.raw_annotations import read_annotations
from stages.validate.stage import STAGE

pytestmark = pytest.mark.slow

ASKED = read_attributes_file(DEFAULT)
HEADER = "filename,beard,mustache,glasses_binary,hair_color_label,hair_length"
GOOD = [f"s{lot}_{number:05}.png,1,0,1,{number},2" for lot in (1, 2) for number in range(5)]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Data:
    """A raw folder of ten images in two lots, and the stage run on it."""

    def __init__(self, root: Path) -> None:
        self.raw = root / "raw"
        self.out = root / "out" / "validate"
        self.failed = root / "out" / "failed-validate"
        self.csv = root / "annotations.csv"
        for row in GOOD:
            self.touch(f"{row[:2]}/{row.partition(',')[0]}")
        self.csv.write_text("\n".join([HEADER, *GOOD]))

    def touch(self, name: str) -> None:
        """Make an image of its own: noise that follows from its name."""
        (self.raw / name).parent.mkdir(parents=True, exist_ok=True)
        noise = random.Random(os.fsencode(name)).randbytes(40 * 40 * 3)  # noqa: S311 (not for cryptography)
        Image.frombytes("RGB", (40, 40), noise).save(self.raw / name, "JPEG" if name.endswith("jpg") else "PNG")

    def validate(self, *arguments: str, annotations: Path | None = None) -> int:
        paths = ["--raw", str(self.raw), "--annotations", str(annotations or self.csv), "--out", str(self.out)]
        return main(STAGE, [*paths, *arguments])

    def headline(self) -> dict[str, object]:
        return json.loads((self.out / "manifest.json").read_text())["headline"]  # type: ignore[no-any-return]

    def metrics(self) -> dict[str, object]:
        return json.loads((self.out / "metrics/validation.json").read_text())  # type: ignore[no-any-return]

    def reasons(self, folder: Path | None = None) -> dict[str, str]:
        return {row["filename"]: row["reason"] for row in read((folder or self.out) / "rejected.csv")}


def without_digests(row: dict[str, str]) -> list[str]:
    return [cell for name, cell in row.items() if name not in {"digest", "pixels", "group"}]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def test_every_accepted_image_has_one_canonical_row_and_empty_means_unknown(data: Data) -> None:
    data.csv.write_text("\n".join([HEADER, *GOOD[1:], "s1/s1_00000.png,1.0,,0,4.0,1"]))
    assert data.validate() == 0
    rows = read(data.out / "annotations.csv")
    assert without_digests(rows[0]) == ["s1_00000.png", "s1", "s1/s1_00000.png", "1", "", "0", "4", "1"]
    assert [row["filename"] for row in rows] == sorted(row.partition(",")[0] for row in GOOD)
    assert data.metrics()["labels_known"] == {
        "beard": 10, "mustache": 9, "glasses": 10, "hair_color": 10, "hair_length": 10,
    }  # fmt: skip


def test_what_no_training_can_answer_is_told_first(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row.split(",") for row in GOOD]
    for row in rows:
        row[3:6] = "0", row[4] if row[4] != "4" else "", ""
    data.csv.write_text("\n".join([HEADER, *map(",".join, rows)]))
    assert data.validate() == 0
    page = (data.out / "report.html").read_text().replace("&#39;", "'")
    verdict = page.partition("10 of 10 rows accepted")[2][:600]
    for line in (
        "glasses is never answered: training knows no class but 'no'",
        "hair_length is never answered: training has no label of it",
        "hair_color is never answered with ",
    ):
        assert line in caplog.text
        assert line in verdict
        assert line in str(data.headline()["notices"])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), id="byte order mark"),
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(lambda text: text.replace("\n", "\r").encode(), id="CR"),
        pytest.param(lambda text: text.replace(",", ";").encode(), id="semicolons"),
        pytest.param(lambda text: text.replace(",1,", ',"1", ').encode(), id="quotes and blanks"),
        pytest.param(lambda text: text.replace("\n", "\n\n").encode() + b"\n\n", id="blank lines"),
        pytest.param(lambda text: text.replace(",2\n", ",2,more\n").encode() + b",", id="further column"),
    ],
)
def test_dialects_of_csv_read_the_same(data: Data, change: Callable[[str], bytes]) -> None:
    def rows() -> pd.DataFrame:
        return read_annotations(ASKED, data.csv).rows.drop(columns="row").reset_index(drop=True)

    expected = rows()
    text = data.csv.read_text()
    changed = change(text)
    data.csv.write_bytes(changed.replace(b"hair_length\n", b"hair_length,note\n") if b"more" in changed else changed)
    assert rows().equals(expected)


def test_rows_that_cannot_be_used_are_left_out_one_by_one_with_the_reason(data: Data) -> None:
    (data.raw.parent / "outside.png").write_bytes(b"secret")
    (data.raw / "s1/s1_link.png").symlink_to(data.raw.parent / "outside.png")
    for path in ("s1/both.png", "s2/both.png", "s1/s1_<script>.png", "s2/lonely.jpg"):
        data.touch(path)
    data.touch("=cmd()/a.png")
    name = "filename not a plain .png or .jpg name"
    folder = "image in a folder whose name starts with = + - @ . or holds control characters"
    bad = {
        "s1_00001.png": ("0.5,0,1,1,2", "beard neither a number nor a class name (found '0.5')"),
        "s1_00002.png": ('"0,5",0,1,1,2', "beard neither a number nor a class name (found '0,5')"),
        "s1_00003.png": ("1,ja,1,1,2", "mustache neither a number nor a class name (found 'ja')"),
        "s1_00004.png": ("1,0,=cmd(),7,2", "glasses_binary neither a number nor a class name (found '=cmd()'); "
                         "hair_color_label not in 0,1,2,3,4 (found '7')"),
        "s1_<script>.png": ("1,0,1,1,<script>alert(1)</script>",
                            "hair_length neither a number nor a class name (found '<script>alert(1)</script>')"),
        "../outside.png": ("1,0,1,1,2", f"{name} (found '../outside.png')"),
        "/etc/shadow": ("1,0,1,1,2", f"{name} (found '/etc/shadow')"),
        "'=cmd().png": ("1,0,1,1,2", f"{name} (found '=cmd().png')"),
        "a.png": ("1,0,1,1,2", f"{folder} (found '=cmd()/a.png')"),
        "s1_link.png": ("1,0,1,1,2", "image missing"),
        "s9_00000.png": ("1,0,1,1,2", "image missing"),
        "both.png": ("1,0,1,1,2", "image name in several folders"),
        "": ("1,0,1,1,2", "filename empty"),
        "s2_00000.png": ("1,0,1,0,5,2", "7 fields in place of 6"),
    }  # fmt: skip
    lines = [cell.removeprefix("'") + "," + cells for cell, (cells, _) in bad.items()]
    contradiction = ["s2_00001.png,1,0,1,0,2", "s2_00001.png,0,0,1,0,2"]
    repeat = ["s2_00002.png,1,0,1,0,2", "s2_00002.png,1,0,1,0.0,2"]
    data.csv.write_text("\n".join([HEADER, *lines, *contradiction, *repeat]))
    assert data.validate("--set", "validate.max_rejected_fraction=0.9") == 0

    twice = "image named more than once with different labels"
    assert data.reasons() == {cell: reason for cell, (_, reason) in bad.items()} | {"s2_00001.png": twice}
    assert [row["filename"] for row in read(data.out / "annotations.csv")] == ["s2_00002.png"]
    assert [row["reason"] for row in read(data.out / "warnings.csv")] == [
        "repeats annotations.csv row 18 with the same labels"
    ]
    unannotated = [row["filename"] for row in read(data.out / "unannotated.csv")]
    assert unannotated == ["s1_00000.png", "s1_link.png", "lonely.jpg", "s2_00003.png", "s2_00004.png"]
    metrics = data.metrics()
    assert [metrics[name] for name in ("rows", "accepted", "rejected", "repeated")] == [18, 1, 16, 1]
    page = (data.out / "data_docs/raw_annotations/index.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page


def test_folders_that_a_filename_gives_must_agree(data: Data) -> None:
    for path in ("s1/x.png", "s1/both.png", "s2/both.png", "s1/two.png", "s2/two.png"):
        data.touch(path)
    lines = ["s2/x.png,1,0,1,0,2", "raw/s2/both.png,1,0,1,0,2", "s1/two.png,1,0,1,0,2", "s2/two.png,1,0,1,0,2"]
    data.csv.write_text("\n".join([HEADER, *GOOD, *lines]))
    assert data.validate("--set", "validate.max_rejected_fraction=0.9") == 0
    assert data.reasons() == {"s2/x.png": "image missing"}
    accepted = {row["filename"]: row["path"] for row in read(data.out / "annotations.csv")}
    assert accepted["both.png"] == "s2/both.png"  # the only one of that name that is annotated
    assert [accepted[name] for name in ("s1/two.png", "s2/two.png")] == ["s1/two.png", "s2/two.png"]
    assert "two.png" not in accepted
    assert [row["path"] for row in read(data.out / "unannotated.csv")] == ["s1/both.png", "s1/x.png"]


def test_data_docs_load_nothing_from_elsewhere(data: Data) -> None:
    assert data.validate() == 0
    for page in [data.out / "report.html", *data.out.glob("data_docs/*/*.html")]:
        text = page.read_text()
        assert "10 of 10 rows accepted" in text
        assert not re.search(r"""(src|url|<link)\s*[=(]?\s*["']?\s*(https?:)?//""", text)


def test_hair_colour_of_a_bald_face_becomes_unknown_and_is_listed(data: Data) -> None:
    data.csv.write_text("\n".join([HEADER, *GOOD[1:], "s1_00000.png,1,0,1,3,0"]))
    assert data.validate() == 0
    row = read(data.out / "annotations.csv")[0]
    assert (row["hair_color"], row["hair_length"]) == ("", "0")
    assert [row["reason"] for row in read(data.out / "warnings.csv")] == [
        "hair colour where hair length is bald (found '3')"
    ]
    verdict = (data.out / "report.html").read_text().partition("<b>Passed with findings</b>")[2].partition("</div>")[0]
    assert "; 1 warning: 1 hair colour where hair length is bald" in verdict
    assert data.headline()["warnings"] == "1 hair colour where hair length is bald"


def test_too_many_rejects_fail_and_leave_the_reports_but_no_artifact(
    data: Data, caplog: pytest.LogCaptureFixture
) -> None:
    data.csv.write_text("\n".join([HEADER, *GOOD[1:], "s1_00000.png,1,0,1,3,9"]))
    assert data.validate() == 65
    assert not data.out.exists()
    [error] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert error == (
        "validate: 1 of 10 rows rejected (10.0% > 5.0% allowed): 1 hair_length not in 0,1,2, "
        "first annotations.csv row 11: 's1_00000.png' (found '9'); write 0 bald, 1 short, 2 long, or nothing if it is "
        f"not known; see {data.failed / 'report.html'}"
    )
    assert data.reasons(data.failed) == {"s1_00000.png": "hair_length not in 0,1,2 (found '9')"}
    assert "1 of 10 rows rejected" in (data.failed / "report.html").read_text()
    data.csv.write_text("\n".join([HEADER, *GOOD]))
    assert data.validate() == 0
    assert not data.failed.exists()


def test_what_is_left_out_is_listed_also_if_nothing_else_changes(data: Data) -> None:
    def manifest() -> dict[str, str]:
        return json.loads((data.out / "manifest.json").read_text())  # type: ignore[no-any-return]

    assert data.validate() == 0
    before = manifest()
    (data.raw / "s1" / "s1_99998.png").symlink_to("/etc/passwd")
    os.mkfifo(data.raw / "s1" / "s1_99999.png")
    (data.raw / "s1" / "s1_00009.gif").write_bytes(b"GIF89a")
    assert data.validate() == 0
    listed = {row["path"]: row["reason"] for row in read(data.out / "unannotated.csv")}
    assert listed == {
        "s1/s1_99998.png": "link",
        "s1/s1_99999.png": "not a regular file",
        "s1/s1_00009.gif": "not a .png or .jpg name",
    }
    after = manifest()
    assert after["key"] != before["key"]
    assert after["content"] == before["content"]  # so that nothing after it runs again
    assert data.validate() == 0
    assert manifest() == after


def test_only_selected_lots_count(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.csv.write_text("\n".join([HEADER, *GOOD, "s2_99999.png,1,0,1,1,2"]))
    assert data.validate("--set", "validate.lots=[s1]") == 0
    assert {row["lot"] for row in read(data.out / "annotations.csv")} == {"s1"}
    assert [data.metrics()[name] for name in ("rows", "not_selected", "images")] == [5, 6, 5]
    key = json.loads((data.out / "manifest.json").read_text())["key"]
    data.touch("s2/s2_77777.png")
    assert data.validate("--set", "validate.lots=[s1]") == 0
    assert json.loads((data.out / "manifest.json").read_text())["key"] == key
    assert data.validate("--set", "validate.lots=[s1, s3]") == 64
    assert "no images of lot s3; lots that exist: s1, s2" in caplog.text


def test_files_of_other_lots_change_nothing(data: Data) -> None:
    data.touch("s1/x.png")
    data.touch("s2/x.png")
    data.csv.write_text("\n".join([HEADER, *GOOD, "s1/x.png,1,0,1,1,2", "s2/x.png,0,0,1,1,2"]))
    assert data.validate("--set", "validate.lots=[s1]") == 0
    assert read(data.out / "annotations.csv")[-1]["path"] == "s1/x.png"
    assert [data.metrics()[name] for name in ("accepted", "rejected", "not_selected")] == [6, 0, 6]


def test_cartoon_set_pairs_are_mapped_to_the_five_attributes(data: Data) -> None:
    variants = {"s1/cs1": (14, 11, 7, 2), "s1/cs2": (0, 3, 8, 8), "s2/cs3": (15, 11, 0, 30)}
    for name, (facial_hair, glasses, hair_color, hair) in variants.items():
        data.touch(f"{name}.png")
        (data.raw / f"{name}.csv").write_text(
            f'"face_shape", 1, 7\n"facial_hair", {facial_hair}, 15\n"glasses", {glasses}, 12\n'
            f'"hair_color", {hair_color}, 10\n"hair", {hair}, 111\n'
        )
    data.touch("s2/cs4.png")
    (data.raw / "s2/cs4.csv").write_text('"facial_hair", 3, 99\n')
    assert data.validate("--set", "validate.max_rejected_fraction=0.5", annotations=data.raw) == 0
    labels = [without_digests(row) for row in read(data.out / "annotations.csv")]
    assert labels == [
        ["cs1.png", "s1", "s1/cs1.png", "0", "0", "0", "", "0"],
        ["cs2.png", "s1", "s1/cs2.png", "1", "1", "1", "4", "1"],
    ]
    assert data.reasons() == {
        "s2/cs3.png": "beard neither a number nor a class name (found 'facial_hair=15'); "
        "mustache neither a number nor a class name (found 'facial_hair=15')",
        "s2/cs4.png": "not a Cartoon Set annotation: facial_hair has 99 variants in place of 15: another version of "
        "the set",
    }


def test_pairs_with_names_of_any_bytes_are_left_out_with_the_reason(data: Data) -> None:
    for name, content in (("cs1", '"hair", 2, 111'), ("cs\udcff", '"hair", 2, 111'), ("cs\udcfe", "what")):
        data.touch(f"s1/{name}.png")
        (data.raw / f"s1/{name}.csv").write_text(content)
    assert data.validate("--set", "validate.max_rejected_fraction=0.7", annotations=data.raw) == 0
    assert [row["filename"] for row in read(data.out / "annotations.csv")] == ["cs1.png"]
    reasons = data.reasons()
    assert reasons["s1/cs\\xff.png"].startswith("filename not a plain .png or .jpg name")
    assert reasons["s1/cs\\xfe.png"].startswith("not a Cartoon Set annotation: line 1 is not")


def test_files_that_are_not_read_are_listed_and_counted(data: Data) -> None:
    for path in ("s1/a.webp", "s2/.hidden.png", "s2/.git/a.png", "s1/s1_00009.png"):
        data.touch(path)
    os.mkfifo(data.raw / "s1/fifo.png")
    (data.raw / "s1/s1_link.png").symlink_to("nowhere.png")
    (data.raw / "s3").symlink_to(data.raw.parent, target_is_directory=True)
    data.csv = data.csv.rename(data.raw / "annotations.csv")
    assert data.validate() == 0
    assert {row["path"]: row["reason"] for row in read(data.out / "unannotated.csv")} == {
        "s1/a.webp": "not a .png or .jpg name",
        "s1/fifo.png": "not a regular file",
        "s1/s1_00009.png": "no annotation",
        "s1/s1_link.png": "link",
        "s2/.git": "hidden",
        "s2/.hidden.png": "hidden",
        "s3": "link",
    }
    ignored = {"link": 2, "hidden": 2, "not a .png or .jpg name": 1, "not a regular file": 1}
    assert [data.metrics()[name] for name in ("unannotated", "ignored")] == [1, ignored]


def test_names_of_any_bytes_are_listed(data: Data) -> None:
    data.touch("s1/s1_\udcff.png")  # the byte 0xff, which is not UTF-8
    data.touch("s1/s1_\u00e4\u00f6\u6f22.png")
    data.csv.write_text("\n".join([HEADER, *GOOD, "s1_\u00e4\u00f6\u6f22.png,1,0,1,1,2"]))
    assert data.validate() == 0
    assert read(data.out / "annotations.csv")[5]["path"] == "s1/s1_\u00e4\u00f6\u6f22.png"
    assert [row["filename"] for row in read(data.out / "unannotated.csv")] == ["s1_\\xff.png"]


def test_check_counts_without_validating(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.validate("--check") == 0
    assert json.loads(capsys.readouterr().out)["headline"] == {"images": 10, "annotation_rows": 10, "lots": 2}
    assert not data.out.exists()
