"""Annotation files that cannot be used as a whole: exit 65, one line with cause and remedy, nothing published."""

import logging
import os
from pathlib import Path

import pytest

from stages.common.contract.command_line import main
from stages.validate.stage import STAGE

HEADER = "filename,beard,mustache,glasses_binary,hair_color_label,hair_length\n"
ROW = "s1_0.png,1,0,1,0,2\n"

BAD = {
    "empty file": (b"", "is empty: expected a CSV with the columns filename, beard"),
    "nothing but separators": (b"\xef\xbb\xbf,,;\r\n\r\n", "is empty: expected a CSV with the columns filename"),
    "one blank cell": (b'""\n', "is empty: expected a CSV with the columns filename"),
    "blank cells only": (b'"",""\n" ",\n', "is empty: expected a CSV with the columns filename"),
    "header only": (HEADER.encode(), "(expect_table_row_count_to_be_between): found 0, expected at least 1"),
    "missing column": (
        b"filename,beard,mustache,glasses_binary,hair_color_label\ns1_0.png,1,0,1,0\n",
        "a column is missing or renamed (expect_table_columns_to_match_set): missing hair_length; expected filename, "
        "beard, mustache, glasses_binary, hair_color_label, hair_length; found 'filename, beard, mustache, "
        "glasses_binary, hair_color_label'; a row is, for instance, s1_00000.png,1,1,1,1,1; see ",
    ),
    "renamed column": ((HEADER.replace("filename", "file") + ROW).encode(), "missing filename; expected filename, "),
    "no header": (ROW.encode() * 2, "missing beard, filename, glasses_binary"),
    "column twice": (
        b"beard," + HEADER.encode() + b"1," + ROW.encode(),
        "column beard appears in the header more than",
    ),
    "every line ragged": ((HEADER + "s1_0.png;1;0\n").encode(), "the first annotations.csv row 2: 1 fields in place"),
    "UTF-16": ((HEADER + ROW).encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "Latin-1": ((HEADER + "s1_\u00e4.png,1,0,1,0,2\n").encode("latin-1"), "line 2: not UTF-8 text: save it as UTF-8"),
    "NUL byte": ((HEADER + ROW + "s1_1\0.png,1,0,1,0,2\n").encode(), "line 3: a NUL byte"),
    "unclosed quote": ((HEADER + ROW + '"s1_1.png,1,0\n' + ROW).encode(), "line 3: broken CSV, perhaps an unclosed"),
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "s1"
    folder.mkdir(parents=True)
    (folder / "s1_0.png").write_bytes(b"never opened")
    return folder.parent


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_file_whose_name_is_no_text_is_reported_like_any_other(tmp_path: Path) -> None:
    annotations = tmp_path / os.fsdecode(b"caf\xe9.csv")
    annotations.write_text(HEADER)
    assert main(STAGE, ["--annotations", str(annotations), "--out", str(tmp_path / "out")]) == 65
    assert "Validation of caf\\xe9.csv" in (tmp_path / "failed-out" / "report.html").read_text()


@pytest.mark.parametrize("case", BAD)
def test_fails_with_one_line_and_publishes_nothing(
    case: str, raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, cause = BAD[case]
    annotations = tmp_path / "annotations.csv"
    annotations.write_bytes(content)
    out = tmp_path / "out"
    assert main(STAGE, ["--raw", str(raw), "--annotations", str(annotations), "--out", str(out)]) == 65
    [error] = errors(caplog)
    assert cause in error.getMessage()
    assert "\n" not in error.getMessage()
    assert not error.exc_info
    assert not out.exists()
