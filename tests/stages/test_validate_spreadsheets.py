"""Annotations from spreadsheets, labelling tools and file systems: read, or refused in one line."""

import csv
import json
import os
import random
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from stages.common.contract.command_line import main
from stages.validate.stage import STAGE
from tests.common.samples import DEFAULT_ATTRIBUTES

pytestmark = pytest.mark.slow

COLUMNS = ["filename", *(attribute.column for attribute in DEFAULT_ATTRIBUTES)]
HEADER = ",".join(COLUMNS)
LABELS = {f"s1_{number}.png": f"{number % 2},{number % 2},1,{number % 5},{1 + number % 2}" for number in range(10)}
GOOD = "\n".join([HEADER, *(f"{name},{labels}" for name, labels in LABELS.items()), ""])


class Told:
    """The stage run on a file of these bytes, beside ten images.

    Attributes:
        code: how it ended.
        lines: what it wrote on the terminal of warnings and errors.
        accepted: image -> its labels, comma separated, empty if unknown.
    """

    def __init__(self, folder: Path, log: pytest.LogCaptureFixture) -> None:
        self.raw, self.out, self.log = folder / "raw", folder / "out", log
        self.annotations = folder / "labels.csv"
        for name in LABELS:
            self.draw(f"s1/{name}")

    def draw(self, path: str) -> Path:
        file = self.raw / path
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = random.Random(path).randbytes(40 * 40 * 3)  # noqa: S311 (not for cryptography)
        Image.frombytes("RGB", (40, 40), noise).save(file, "PNG" if path.lower().endswith("png") else "JPEG")
        return file

    def run(self, content: str | bytes | None = None, *more: str) -> int:
        self.log.clear()
        if content is not None:
            self.annotations.write_bytes(content.encode() if isinstance(content, str) else content)
        paths = ["--raw", str(self.raw), "--annotations", str(self.annotations), "--out", str(self.out)]
        return main(STAGE, [*paths, *more])

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.log.records if record.levelname in ("WARNING", "ERROR")]

    @property
    def accepted(self) -> dict[str, str]:
        table = pd.read_csv(self.out / "annotations.csv", dtype="str", keep_default_na=False)
        names = [attribute.name for attribute in DEFAULT_ATTRIBUTES]
        return dict(zip(table["filename"], table[names].agg(",".join, axis=1), strict=True))

    def listed(self, file: str = "warnings.csv") -> dict[str, str]:
        with (self.out / file).open(encoding="utf-8", newline="") as rows:
            return {row["filename"]: row["reason"] for row in csv.DictReader(rows)}

    def error(self) -> str:
        """The one line that says why the stage failed."""
        [line] = [record.getMessage() for record in self.log.records if record.levelname == "ERROR"]
        assert "\n" not in line
        return line


@pytest.fixture
def told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Told:
    return Told(tmp_path, caplog)


SPOKEN = " Filename ,Beard,Mustache,Glasses binary,Hair-color label,Hair Length"
WORDS = (
    ["no", "yes"],
    ["FALSE", "TRUE"],
    ["N", "Y"],
    ["Blond", "brown", " RED", "dark ", "Gray"],
    ["bald", "Short", "LONG"],
)


def in_words(text: str) -> str:
    """The same labels as names of classes."""
    lines = [line.split(",") for line in text.split()[1:]]
    rows = [[name, *(of[int(code)] for of, code in zip(WORDS, codes, strict=True))] for name, *codes in lines]
    return "\n".join([HEADER, *map(",".join, rows)])


def with_index(text: str) -> str:
    """The same with a column of numbers in front, as pandas writes its index."""
    return "".join(f"{'' if at == 0 else at - 1},{line}\n" for at, line in enumerate(text.split()))


READ_THE_SAME: dict[str, Callable[[str], str | bytes]] = {
    "separator named for Excel": lambda text: "sep=;\n" + text.replace(",", ";"),
    "tabs": lambda text: text.replace(",", "\t"),
    "bars": lambda text: text.replace(",", "|"),
    "title lines": lambda text: "Labels of lot s1, by Anna\n\nhair, beard and \"glasses\n" + text,
    "header in capitals": lambda text: text.replace(HEADER, HEADER.upper()),
    "header with blanks": lambda text: text.replace(HEADER, SPOKEN),
    "words": in_words,
    "decimal comma": lambda text: text.replace(",1", ",1,0").replace(",", ";").replace(";1;0", ";1,0"),
    "scientific notation": lambda text: text.replace(",1", ",1.00E+00"),
    "empty columns behind": lambda text: text.replace("\n", ",,,\n"),
    "empty rows behind": lambda text: text + ",,,,,\n" * 5,
    "typographic quotes": lambda text: text.replace("s1_0.png", "\u201cs1_0.png\u201d"),
    "backslashes": lambda text: text.replace("s1_", "raw\\s1\\s1_"),
    "from the folder": lambda text: text.replace("s1_", "./s1/s1_"),
    "index of pandas": with_index,
    "names as index of pandas": lambda text: text.replace("filename", ""),
    "one file behind another": lambda text: text + "\ufeff" + HEADER + "\n",
}  # fmt: skip


@pytest.mark.parametrize("case", READ_THE_SAME)
def test_what_spreadsheets_make_of_a_table_reads_the_same(case: str, told: Told) -> None:
    assert told.run(READ_THE_SAME[case](GOOD)) == 0
    assert told.accepted == LABELS


def test_what_stands_above_the_header_and_a_header_between_rows_are_said(told: Told) -> None:
    assert told.run("Labels of s1\n" + GOOD + GOOD) == 0
    assert "labels.csv: the header is line 2; the text above it is not read: 'Labels of s1'" in told.lines
    assert "labels.csv: line 13 repeats the header and is not read" in told.lines


def test_cells_of_many_spellings_are_unknown_and_counted(told: Told) -> None:
    words = ["NA", "n/a", "NaN", "null", "None", "-", "#N/A", "", " ", "?"]
    rows = [f"{name},1,0,1,{word},0" for name, word in zip(LABELS, words, strict=True)]  # bald, as NA is right there
    assert told.run("\n".join([HEADER, *rows])) == 0
    assert set(told.accepted.values()) == {"1,0,1,,0"}
    [line] = [line for line in told.lines if "taken as unknown" in line]
    assert line == (
        "labels.csv: cells taken as unknown: 1 '#N/A', 1 '-', 1 '?', 1 'NA', 1 'NaN', 1 'None', 1 'n/a', 1 'null'"
    )


def test_rows_that_lack_their_last_cells_are_kept_and_listed(told: Told) -> None:
    short = GOOD.replace("s1_3.png,1,1,1,3,2", "s1_3.png,1,1,1").replace("s1_4.png,0,0,1,4,1", "s1_4.png,0,0,1,4")
    assert told.run(short) == 0
    assert told.accepted == LABELS | {"s1_3.png": "1,1,1,,", "s1_4.png": "0,0,1,4,"}
    reason = "row shorter than the header: missing cells are unknown"
    found = {name: text for name, text in told.listed().items() if text.startswith(reason)}
    assert found == {
        "s1_3.png": f"{reason} (found 'hair_color_label, hair_length')",
        "s1_4.png": f"{reason} (found 'hair_length')",
    }
    assert any(f"2 {reason}" in line for line in told.lines)


def test_short_rows_and_unknown_words_count_in_several_files_too(told: Told) -> None:
    folder = told.annotations.with_name("annotations")
    folder.mkdir()
    (folder / "2026-01-01.csv").write_text(GOOD.replace("s1_3.png,1,1,1,3,2", "s1_3.png,1,1,1,3"))
    (folder / "2026-01-02.csv").write_text("filename,beard\ns1_4.png,NA\n")
    told.annotations = folder
    assert told.run() == 0
    assert told.accepted == LABELS | {"s1_3.png": "1,1,1,3,"}
    assert told.listed()["s1_3.png"].startswith("row shorter than the header")


def test_a_word_that_is_no_class_is_told_once_with_value_row_and_codes(told: Told) -> None:
    assert told.run(GOOD.replace("png,1,1", "png,ja,1").replace("png,0,0", "png,nein,0")) == 65
    assert told.error().startswith(
        "validate: 10 of 10 rows rejected (100.0% > 5.0% allowed): 10 beard neither a number nor a class name, "
        "first labels.csv row 2: 's1_0.png' (found 'nein'); write 0 no, 1 yes, nothing if it is not known, or add "
        "the class to attributes.yaml; see "
    )
    assert len(told.lines) == 1


@pytest.mark.parametrize(
    "name", ["/data/raw/s1/s1_0.png", "C:\\raw\\s1\\s1_0.png", "https://host/s1_0.png", "file:///s1/s1_0.png", "s1_0"]
)
def test_a_name_that_is_no_path_below_the_raw_folder_is_told_what_to_write(name: str, told: Told) -> None:
    assert told.run(GOOD.replace("s1_0.png", name)) == 65
    assert "filename not a plain .png or .jpg name, first labels.csv row 2" in told.error()
    assert "write the image's path below the raw folder with its extension, such as s1/s1_00000.png" in told.error()


SPELLINGS = {
    "s1_3.png": "s1_3.PNG",
    "s1_4.png": "S1_4.jpg",
    "caf\u00e9_5.png": unicodedata.normalize("NFD", "caf\u00e9_5.png"),
}


def test_images_are_found_under_other_spellings_and_listed(told: Told) -> None:
    (told.raw / "s1/s1_3.png").unlink()
    (told.raw / "s1/s1_4.png").unlink()
    for name in SPELLINGS.values():
        told.draw(f"s1/{name}")
    assert told.run(GOOD + f"s1/caf\u00e9_5.png,{LABELS['s1_5.png']}\n") == 0
    assert set(told.accepted) == set(LABELS) - set(SPELLINGS) | set(SPELLINGS.values())
    reason = "image found under another spelling of its name"
    assert sum(text.startswith(reason) for text in told.listed().values()) == 3
    assert any(f"3 {reason}" in line for line in told.lines)
    assert (told.out / "unannotated.csv").read_text().count("\n") == 1


def test_an_image_that_may_be_another_is_not_guessed(told: Told) -> None:
    (told.raw / "s1/s1_0.png").unlink()
    told.draw("s1/s1_0.jpg")
    told.draw("s1/S1_0.JPEG")
    (told.raw / "s1/s1_2.png").rename(told.raw / "s1/s1_3.jpg")  # s1_3.png is there, and the other is nobody's
    assert told.run(GOOD, "--set", "validate.max_rejected_fraction=0.5") == 0
    assert told.listed("rejected.csv") == {
        "s1_0.png": "several images have a similar name, none exactly this (found 's1/S1_0.JPEG or s1/s1_0.jpg')",
        "s1_2.png": "image missing",
    }
    assert set(told.accepted) == set(LABELS) - {"s1_0.png", "s1_2.png"}


def test_one_name_in_two_folders_is_two_images_once_the_rows_give_the_paths(told: Told) -> None:
    for folder in ("anna", "ben"):
        told.draw(f"{folder}/0000.png")
    assert told.run(GOOD + "0000.png,1,0,1,1,1\n") == 65
    assert "'0000.png'; write the image's path below the raw folder, such as anna/0000.png" in told.error()
    several = told.annotations.with_name("annotations")
    several.mkdir()
    (several / "old_2026-01-01.csv").write_text(GOOD + "anna/0000.png,1,0,1,1,1\nben/0000.png,0,0,1,1,1\n")
    (several / "new_2026-02-01.csv").write_text("filename,beard\nraw/ben/0000.png,1\n")
    told.annotations = several
    assert told.run() == 0
    assert {name: labels for name, labels in told.accepted.items() if name not in LABELS} == {
        "anna/0000.png": "1,0,1,1,1",
        "ben/0000.png": "1,0,1,1,1",
    }


@pytest.mark.parametrize(
    "name", ["labels.csv.bak", "labels.csv~", "labels.csv.orig", "labels.old", "#labels.csv#", "labels.tmp"]
)
def test_a_backup_brings_no_row_and_no_label_back(name: str, told: Told) -> None:
    folder = told.annotations.with_name("annotations")
    folder.mkdir()
    (folder / name).write_text(GOOD)
    os.utime(folder / name, (0, 0))
    kept = GOOD.replace("s1_0.png,0,0,1,0,1\n", "").replace("s1_1.png,1,", "s1_1.png,,")
    (folder / "labels.csv").write_text(kept)
    told.annotations = folder
    assert told.run() == 0
    assert told.accepted == {n: v for n, v in LABELS.items() if n != "s1_0.png"} | {"s1_1.png": ",1,1,1,2"}
    assert (
        f"'{name}' is not read: annotations, but not called .csv, .txt or .json; rename it if it is not a backup"
        in told.lines
    )
    assert told.listed("unannotated.csv")[name].startswith("annotations, but not called .csv")


@pytest.mark.parametrize(
    "name",
    ["labels - Copy.csv", "labels - Copy (2).csv", "Copy of labels.csv", "labels (1).csv", "labels copy.csv",
     "labels (copy).csv", "labels.bak.csv", "labels_old.csv", "labels - Kopie.csv"],
)  # fmt: skip
def test_a_copy_beside_its_original_is_refused(name: str, told: Told) -> None:
    folder = told.annotations.with_name("annotations")
    folder.mkdir()
    (folder / name).write_text(GOOD)
    told.annotations = folder
    assert told.run() == 0  # alone, it is a file like any other
    (folder / "labels.csv").write_text(GOOD)
    assert told.run() == 65
    assert f"{name} has the name of a copy of labels.csv beside it, and only one of the two can count" in told.error()


FOREIGN: dict[str, str | bytes] = {
    "COCO's JSON": json.dumps({"images": [{"file_name": "s1_0.png"}], "annotations": [], "categories": []}),
    "JSON lines": '{"filename": "s1_0.png", "beard": 1}\n{"filename": "s1_1.png", "beard": 0}\n',
    "JSON": '[\n  {"filename": "s1_0.png", "beard": 1}\n]\n',
    "CVAT's XML": '<?xml version="1.0"?>\n<annotations><image name="s1_0.png"/></annotations>\n',
    "LFW's attribute list": "# LFW attributes\n#\tperson\timagenum\tMale\tBald\tEyeglasses\tMustache\tSmiling\n"
    "Aaron\t1\t1.2\t-0.3\t0.1\t-2\t0.3\n",
    "a workbook of Excel or LibreOffice, or another ZIP file": b"PK\x03\x04\x14\0\x06\0",
    "a pointer of Git LFS, without the file's content": "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
}


@pytest.mark.parametrize("form", FOREIGN)
def test_a_form_that_is_not_read_is_called_by_its_name(form: str, told: Told) -> None:
    expected = f"is {form}, which is not read: write a CSV with the header {HEADER} and below it, for instance, s1_0"
    assert told.run(FOREIGN[form]) == 65
    assert expected in told.error()
    folder = told.annotations.with_name("annotations")
    folder.mkdir()
    told.annotations.rename(folder / "export.txt")
    told.annotations = folder
    assert told.run() == 65
    assert f"'export.txt' is not read: {form}, which is not read" in told.error()


CELEBA = ["Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Eyeglasses", "Goatee", "Gray_Hair", "Mustache", "No_Beard"]


def test_celeba_as_pandas_writes_it_and_with_gaps(told: Told) -> None:
    rows = [
        f"{name},-1,-1,-1,1,{'NA' if at == 3 else 1},-1,-1,-1,{'' if at == 4 else 1}" for at, name in enumerate(LABELS)
    ]
    assert told.run("\n".join([f",{','.join(CELEBA)}", *rows])) == 0
    expected = dict.fromkeys(LABELS, "0,0,1,1,")
    assert told.accepted == expected | {"s1_3.png": "0,0,,1,", "s1_4.png": ",0,1,1,"}
    assert "labels.csv: cells taken as unknown: 1 '', 1 'NA'" in told.lines
    assert told.run("\n".join([f"name,{','.join(CELEBA)}", *rows])) == 65
    assert "lacks image_id: restore CelebA's own line of names; found 'name, Bald, Black_Hair" in told.error()


def test_a_whole_published_list_serves_a_part_of_its_images_but_none_is_an_error(told: Told) -> None:
    answers = ["1" if name in ("No_Beard", "Brown_Hair") else "-1" for name in CELEBA]
    names = [*LABELS, *(f"{number:06}.jpg" for number in range(90))]
    text = "\n".join([f"image_id,{','.join(CELEBA)}", *(",".join([name, *answers]) for name in names)])
    assert told.run(text) == 0
    assert set(told.accepted) == set(LABELS)
    [line] = [line for line in told.lines if "images are here" in line]
    assert line.startswith("10 of 100 annotated images are here")
    assert told.listed()["000007.jpg"] == "image of a published list, not here"
    metrics = json.loads((told.out / "metrics/validation.json").read_text())
    assert [metrics[name] for name in ("rows", "absent", "rejected")] == [10, 90, 0]

    assert told.run(text.replace("s1_", "t1_")) == 65
    assert (
        "0 of 100 annotated images are here: --raw must name the folder of 't1_0.png'; 's1/s1_0.png' is" in told.error()
    )
    flat = GOOD + "".join(f"{name},0,0,1,1,1\n" for name in names[10:])  # people's own list: what lacks is a mistake
    assert told.run(flat) == 65
    assert "90 of 100 rows rejected (90.0% > 5.0% allowed): 90 image missing, first labels.csv row 12" in told.error()


def test_a_pair_may_be_a_jpeg(told: Told) -> None:
    told.annotations = told.raw
    for name in LABELS:
        (told.raw / f"s1/{name}").unlink()
        told.draw(f"s1/{name.replace('png', 'jpg')}")
        (told.raw / f"s1/{name.replace('png', 'csv')}").write_text('"hair", 30, 111\n"facial_hair", 14, 15\n')
    assert told.run() == 0
    assert set(told.accepted) == {name.replace("png", "jpg") for name in LABELS}
    assert told.listed() == {}


def test_links_as_dvc_makes_them_are_said_with_the_remedy(told: Told, tmp_path: Path) -> None:
    def dvc(*arguments: str) -> None:
        subprocess.run([dvc_program, "-q", *arguments], cwd=tmp_path, check=True)

    dvc_program = Path(sys.executable).with_name("dvc")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc("init")
    dvc("config", "cache.type", "symlink")
    dvc("add", "raw")
    for code, arguments in ((65, []), (65, ["--check"])):
        assert told.run(GOOD, *arguments) == code
        assert "10 links are not read, such as s1/s1_0.png to " in told.error()
        assert (
            "10 lead into DVC's cache: `dvc config cache.type hardlink,copy`, then `dvc checkout --relink`"
            in told.error()
        )
    dvc("config", "cache.type", "hardlink,copy")
    dvc("checkout", "--relink")
    assert told.run() == 0
    (told.raw / "s1/s1_10.png").symlink_to("s1_0.png")
    (told.raw / "s1/s1_0.png").with_name("notes.md").write_text("a change, so that the stage runs again")
    assert told.run("Title\n" + GOOD) == 0
    assert any(
        line.startswith("1 links are not read, such as s1/s1_10.png to s1_0.png: put the files") for line in told.lines
    )


def test_annotations_beside_the_images_with_another_name_are_pointed_out(told: Told) -> None:
    told.annotations.write_text(GOOD)
    told.annotations = told.raw
    assert told.run() == 65
    assert "holds no annotations" in told.error()
    assert "; labels.csv beside it is one: call it annotations.csv, or name it" in told.error()
