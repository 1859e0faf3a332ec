"""Every raw form reads back the labels that were written in it; several files add up, the newest wins."""

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages.common.contract.command_line import main
from stages.common.contract.errors import DataError
from stages.validate import raw_annotations
from stages.validate.attributes_file import CELEBA, DEFAULT, read_attributes_file
from stages.validate.forms.part import flat_columns
from stages.validate.raw_annotations import RawAnnotations
from stages.validate.stage import STAGE

ASKED = read_attributes_file(DEFAULT)
COLUMNS = flat_columns(ASKED.attributes)
HEADER = ",".join(COLUMNS)
DRAWN = [
    "s1_0.png,0,0,1,0,2", "s1_1.png,0,1,0,1,1", "s1_2.png,1,0,1,2,", "s1_3.png,1,1,,3,2", "s1_4.png,,,0,4,1",
    "s1_5.png,1,1,0,,0",
]  # fmt: skip
"""Labels that Cartoon Set can express, all classes and unknown ones among them."""
PHOTOS = [
    "000001.jpg,0,0,1,0,", "000002.jpg,1,1,0,1,", "000003.jpg,0,1,0,3,", "000004.jpg,1,0,1,4,", "000005.jpg,,0,0,,",
    "000006.jpg,1,0,0,,0",
]  # fmt: skip
"""Labels that CelebA can express."""
FACIAL_HAIR = {("0", "0"): 14, ("0", "1"): 5, ("1", "0"): 4, ("1", "1"): 0}
NAMES = sorted(CELEBA)

read_annotations = partial(raw_annotations.read_annotations, ASKED)
count_annotations = partial(raw_annotations.count_annotations, ASKED)
annotation_files = partial(raw_annotations.annotation_files, ASKED)


def cells(rows: Sequence[str]) -> list[list[str]]:
    return [row.split(",") for row in rows]


def labels(annotations: RawAnnotations) -> list[str]:
    return [",".join(row) for row in annotations.rows[list(COLUMNS)].fillna("").itertuples(index=False)]


def variants(beard: str, mustache: str, glasses: str, color: str, length: str) -> dict[str, int]:
    """Cartoon Set variants that show these labels; attributes of unknown ones are left out."""
    found = {"facial_hair": FACIAL_HAIR.get((beard, mustache)), "glasses": {"0": 11, "1": 3}.get(glasses)}
    found["hair_color"] = {"0": 4, "1": 5, "2": 2, "3": 7, "4": 9}.get(color, 8)
    found["hair"] = {"0": 109, "1": 44, "2": 30}.get(length)
    return {name: variant for name, variant in found.items() if variant is not None}


def answers(beard: str, mustache: str, glasses: str, color: str, length: str) -> list[str]:
    """CelebA's 40 answers for these labels: `1` or `-1` in the order of `NAMES`."""
    yes = {"Goatee"} if beard == "" else set()
    yes |= {"No_Beard"} if beard in ("", "0") else set()
    yes |= {"Mustache"} if mustache == "1" else set()
    yes |= {"Eyeglasses"} if glasses == "1" else set()
    yes |= {"0": {"Blond_Hair"}, "1": {"Brown_Hair"}, "3": {"Black_Hair"}, "4": {"Gray_Hair"}}.get(color, set())
    yes |= {"Bald", "Black_Hair"} if length == "0" else set()
    return ["1" if name in yes else "-1" for name in NAMES]


def flat(folder: Path, rows: Sequence[str]) -> Path:
    (folder / "labels.txt").write_text("\n".join([HEADER, *rows]))
    return folder / "labels.txt"


def semicolons(folder: Path, rows: Sequence[str]) -> Path:
    text = "\r\n".join([HEADER, *rows]).replace(",", ";")
    (folder / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return folder / "labels.csv"


def pairs(folder: Path, rows: Sequence[str]) -> Path:
    for name, *known in cells(rows):
        counts = {"facial_hair": 15, "glasses": 12, "hair_color": 10, "hair": 111, "face_shape": 7}
        shown = variants(*known) | {"face_shape": 4}
        text = "\n".join(f'"{attribute}", {variant}, {counts[attribute]}' for attribute, variant in shown.items())
        (folder / name).with_suffix(".csv").write_text(text)
    return folder


def wide(folder: Path, rows: Sequence[str]) -> Path:
    faces = [{"filename": name.replace(".png", ".csv.png"), **variants(*known)} for name, *known in cells(rows)]
    pd.DataFrame(faces).assign(face_shape=4).to_csv(folder / "all.csv", index=True)  # gaps make the columns floats
    return folder / "all.csv"


def celeba_list(folder: Path, rows: Sequence[str]) -> Path:
    lines = [f"{name}  {'  '.join(answers(*known)).replace('  -', ' -')} " for name, *known in cells(rows)]
    path = folder / "celeba.csv"
    path.write_text("\r\n".join([str(len(rows)), " ".join(NAMES) + " ", *lines, ""]))
    return path


def celeba_table(folder: Path, rows: Sequence[str]) -> Path:
    lines = [",".join([name, *answers(*known)]) for name, *known in cells(rows)]
    path = folder / "list.csv"
    path.write_text("\n".join([",".join(["image_id", *NAMES]), *lines]))
    return path


@pytest.mark.parametrize(
    ("write", "rows", "form"),
    [
        (flat, DRAWN + PHOTOS, "flat CSV"),
        (semicolons, DRAWN + PHOTOS, "flat CSV"),
        (pairs, DRAWN, "Cartoon Set pairs"),
        (wide, DRAWN, "wide Cartoon Set CSV"),
        (celeba_list, PHOTOS, "CelebA's list_attr_celeba.txt"),
        (celeba_table, PHOTOS, "CelebA's attributes as CSV"),
    ],
)
def test_each_form_reads_back_the_labels_written_in_it(
    tmp_path: Path, write: Callable[[Path, Sequence[str]], Path], rows: list[str], form: str
) -> None:
    path = write(tmp_path, rows)
    for given in (path, tmp_path):  # alone, and as the only one of a folder
        annotations = read_annotations(given)
        assert labels(annotations) == rows
        assert annotations.broken.empty
        assert [(file.form, file.rows) for file in annotations.files] == [(form, len(rows))]
        assert count_annotations(given) == len(rows)


def test_all_forms_in_one_folder_add_up(tmp_path: Path) -> None:
    for number, write in enumerate((flat, pairs, wide, celeba_list, celeba_table)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        write(folder, DRAWN[number : number + 1] if write in (flat, pairs, wide) else PHOTOS[number : number + 1])
    annotations = read_annotations(tmp_path)
    assert sorted(row.rpartition("/")[2] for row in labels(annotations)) == sorted(DRAWN[:3] + PHOTOS[3:5])
    assert annotations.rows.index.is_unique
    assert annotations.rows.index.str.contains(r"^0/labels.txt:2$|^1/s1_1.csv$").sum() == 2
    assert annotations.replaced.empty
    assert annotations.ignored.empty


def test_columns_of_the_flat_csv_win_over_cartoon_set_ones_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    path.write_text("filename,facial_hair,glasses,hair_color,hair,glasses_binary\na.csv.PNG,14,3,15,x,0\n")
    assert labels(read_annotations(path)) == ["a.PNG,0,0,0,hair_color=15,hair=x"]  # what is not a variant is no class
    # The stage's own output has columns named glasses and hair_color, which are not Cartoon Set's.
    path.write_text("filename,lot,path,beard,mustache,glasses,hair_color,hair_length\na.png,s1,a.png,1,0,0,3,2\n")
    assert list(read_annotations(path).rows)[2:] == ["filename", "beard", "mustache", "hair_length"]


def test_celeba_answers_that_contradict_each_other_are_unknown(tmp_path: Path) -> None:
    def read(*yes: str) -> str:
        line = " ".join("1" if name in yes else "-1" for name in NAMES)
        (tmp_path / "list.txt").write_text(f"1\n{' '.join(NAMES)}\n1.jpg {line}\n")
        return labels(read_annotations(tmp_path / "list.txt"))[0]

    assert read() == "1.jpg,1,0,0,,"
    assert read("No_Beard", "Sideburns", "5_o_Clock_Shadow") == "1.jpg,0,0,0,,"
    assert read("No_Beard", "Goatee", "Mustache") == "1.jpg,,1,0,,"
    assert read("Black_Hair", "Brown_Hair") == "1.jpg,1,0,0,,"
    assert read("Bald", "Gray_Hair", "Receding_Hairline") == "1.jpg,1,0,0,,0"


def test_celeba_lines_that_are_damaged_are_left_out_with_the_reason(tmp_path: Path) -> None:
    path = celeba_list(tmp_path, PHOTOS)
    lines = path.read_text().splitlines()
    at = NAMES.index("Young")
    lines[3] = " ".join(["000002.jpg", *(["-1"] * at), "0", *(["-1"] * (39 - at))])
    lines[4] = "000003.jpg -1 1"
    path.write_text("\n".join(lines))
    annotations = read_annotations(path)
    assert labels(annotations) == [PHOTOS[0], *PHOTOS[3:]]
    assert annotations.broken.to_numpy().tolist() == [
        ["celeba.csv", 4, "000002.jpg", "Young is neither 1 nor -1 (found '0')"],
        ["celeba.csv", 5, "000003.jpg", "3 fields in place of 41"],
    ]


LIST = "\n".join(["1", " ".join(NAMES), "1.jpg" + 40 * " -1", ""])
TABLE = "\n".join([",".join(["image_id", *NAMES]), "1.jpg" + 40 * ",-1", ""])
WIDE = "filename,facial_hair,glasses,hair_color,hair\na.png,1,2,3,4\n"
DAMAGED: dict[str, tuple[str | bytes, str]] = {
    "list cut short": (LIST.replace("1\n", "3\n", 1), "the first line says '3' images, 1 lines follow"),
    "list without a count": (LIST.removeprefix("1\n"), "the first line should be the number of images, found '5_o_"),
    "list with a word for a count": ("many" + LIST[1:], "the first line says 'many' images, 1 lines follow"),
    "list with an attribute renamed": (LIST.replace("Bald", "bald"), "the line of attribute names lacks Bald"),
    "list with an attribute twice": (LIST.replace("Young", "Bald"), "the line of attribute names has Bald more than"),
    "list as UTF-16": (LIST.encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "list with a NUL byte": (LIST.replace("1.jpg", "1\0.jpg"), "line 3: a NUL byte"),
    "list in Latin-1": (LIST.replace("1.jpg", "\u00e4.jpg").encode("latin-1"), "line 3: not UTF-8 text"),
    "table without image_id": (TABLE.replace("image_id", "image"), "the line of attribute names lacks image_id"),
    "table with an unclosed quote": (TABLE + '"2.jpg,1', "line 3: broken CSV, perhaps an unclosed quote"),
    "table as UTF-16": (TABLE.encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "wide as UTF-16": (WIDE.encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "wide with a NUL byte": (WIDE + "b\0.png,1,2,3,4\n", "line 3: a NUL byte"),
    "wide with an unclosed quote": (WIDE + '"b.png,1,2,3,4\n', "line 3: broken CSV, perhaps an unclosed quote"),
    "wide with a column twice": (WIDE.replace("glasses", "hair"), "column hair appears in the header more than once"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_error_that_names_it(case: str, tmp_path: Path) -> None:
    content, cause = DAMAGED[case]
    path = tmp_path / "file.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for given in (path, tmp_path):
        with pytest.raises(DataError) as error:
            read_annotations(given)
        assert str(error.value).startswith(str(path))
        assert cause in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [f"0\n{' '.join(NAMES)}\n", TABLE.partition("1.jpg")[0], WIDE.partition("a.png")[0]])
def test_a_header_alone_holds_no_annotations(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_text(text)
    assert read_annotations(tmp_path).rows.empty
    with pytest.raises(DataError, match="holds no annotations: give a flat CSV"):
        count_annotations(tmp_path)


def write(path: Path, *rows: str, day: int = 1, header: str = HEADER) -> None:
    """A flat CSV, last modified on a day of May 2026."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *rows]))
    os.utime(path, (1_777_593_600 + 86_400 * day, 1_777_593_600 + 86_400 * day))


def test_the_newest_file_wins_label_by_label_and_conflicts_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "c.csv", "a.png,0,0,0,0,1", "b.png,0,0,0,0,1", day=1)
    write(tmp_path / "a.csv", "c.png,1", "a.png,1", day=3, header="filename,beard")
    write(tmp_path / "b.csv", "a.png,,,1,,", "b.png,0,,,4,", day=2)
    annotations = read_annotations(tmp_path)
    assert sorted(labels(annotations)) == ["a.png,1,0,1,0,1", "b.png,0,0,0,4,1", "c.png,1,,,,"]
    assert set(annotations.rows.index) == {"a.csv:2", "a.csv:3", "b.csv:3"}
    assert annotations.replaced.to_numpy().tolist() == [
        ["c.csv", 2, "a.png", "beard 0 replaced by 1 of a.csv row 3; glasses_binary 0 replaced by 1 of b.csv row 2"],
        ["c.csv", 3, "b.png", "hair_color_label 0 replaced by 4 of b.csv row 3"],
    ]
    assert [(file.source, file.rows, file.dated[:10]) for file in annotations.files] == [
        ("c.csv", 2, "2026-05-02"), ("b.csv", 2, "2026-05-03"), ("a.csv", 2, "2026-05-04"),
    ]  # fmt: skip
    assert annotations.header == COLUMNS


def test_a_date_in_the_name_says_how_new_a_file_is(tmp_path: Path) -> None:
    names = ["z_2025-12-31.csv", "20260101_y.csv", "b.csv", "c.csv", "x-20260503.csv", "labels-2026-05-04-v2.csv"]
    for name in names:
        write(tmp_path / name, "a.png,0,0,0,0,1", day=1 if name in ("b.csv", "c.csv") else 20)
    write(tmp_path / "20269999.csv", "a.png,0,0,0,0,1", day=30)  # no date
    assert [str(path) for path in annotation_files(tmp_path).read] == [*names, "20269999.csv"]


def test_rows_of_one_file_are_never_merged_and_a_newer_file_settles_them(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "a.png,0,0,0,0,1", "b.png,0,0,0,0,1", "a.png,1,0,0,0,1", day=1)
    assert sorted(labels(read_annotations(tmp_path))) == ["a.png,0,0,0,0,1", "a.png,1,0,0,0,1", "b.png,0,0,0,0,1"]
    write(tmp_path / "b.csv", "a.png,,,,,2", day=2)
    annotations = read_annotations(tmp_path)
    assert sorted(labels(annotations)) == ["a.png,0,0,0,0,2", "a.png,1,0,0,0,2", "b.png,0,0,0,0,1"]
    assert annotations.rows.index.is_unique
    write(tmp_path / "c.csv", "a.png,1,,,,", day=3)
    assert sorted(labels(read_annotations(tmp_path))) == ["a.png,1,0,0,0,2", "a.png,1,0,0,0,2", "b.png,0,0,0,0,1"]


def test_names_mean_one_image_when_their_folders_agree_as_far_as_both_give_them(tmp_path: Path) -> None:
    old = ["s1/a.png,0,0,0,0,1", "s1/b.png,0,0,0,0,1", "../c.png,0,0,0,0,1", "d.png,0,0,0,0,1"]
    write(tmp_path / "a.csv", *old, day=1)
    write(tmp_path / "b.csv", "a.png,1,,,,", "s2/b.png,1,,,,", "c.png,1,,,,", "raw/s1/d.png,1,,,,", day=2)
    assert sorted(labels(read_annotations(tmp_path))) == [
        "../c.png,0,0,0,0,1", "c.png,1,,,,", "raw/s1/d.png,1,0,0,0,1", "s1/a.png,1,0,0,0,1", "s1/b.png,0,0,0,0,1",
        "s2/b.png,1,,,,",
    ]  # fmt: skip


def test_other_files_of_the_folder_are_listed_or_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", *DRAWN)
    for name in ("notes.md", "todo.txt", "empty.txt", ".hidden.csv", "s1_0.png"):
        (tmp_path / name).write_text("" if name.startswith("empty") else "filename, and beard\n")
    (tmp_path / "link.csv").symlink_to("a.csv")
    annotations = read_annotations(tmp_path)
    assert labels(annotations) == DRAWN
    assert dict(annotations.ignored.to_numpy().tolist()) == {
        "notes.md": "no form of annotations", "todo.txt": "no form of annotations",
        "empty.txt": "no form of annotations", ".hidden.csv": "hidden", "link.csv": "link",
    }  # fmt: skip
    stray = tmp_path / "boxes.csv"
    for content, cause in (
        (
            b"filename,x,y\na.png,1,2\n",
            "no column is a label: found 'filename, x, y'; attributes.yaml asks for 'beard",
        ),
        (b"", "is empty: expected a flat CSV"),
        (b"\0", "line 1: a NUL byte"),
    ):
        stray.write_bytes(content)
        with pytest.raises(DataError, match="^" + re.escape(f"{stray}")) as error:
            read_annotations(tmp_path)
        assert cause in str(error.value)


def test_a_broken_pair_is_one_annotation_and_pairs_count_by_lot(tmp_path: Path) -> None:
    pairs(tmp_path, DRAWN[:2])
    (tmp_path / "s2_9.csv").write_text("what")
    (tmp_path / "s2_9.png").touch()
    write(tmp_path / "more.csv", *DRAWN[2:])
    annotations = read_annotations(tmp_path)
    assert sorted(labels(annotations)) == DRAWN
    assert annotations.broken.to_numpy().tolist() == [
        ["s2_9.csv", 1, "s2_9.png", 'not a Cartoon Set annotation: line 1 is not "attribute", variant, number of '
         "variants"],
    ]  # fmt: skip
    assert [str(path) for path in annotation_files(tmp_path, ["s1"]).read] == ["more.csv", "s1_0.csv", "s1_1.csv"]
    assert count_annotations(tmp_path) == 7


def test_a_folder_without_annotations_says_what_was_expected(tmp_path: Path) -> None:
    for function in (read_annotations, count_annotations):
        with pytest.raises(DataError, match=r"holds no annotations: give a flat CSV .*, or a folder of such files"):
            function(tmp_path)


def test_the_stage_takes_a_folder_of_several_forms(tmp_path: Path) -> None:
    raw, files = tmp_path / "raw", tmp_path / "annotations"
    files.mkdir()
    (raw / "s1").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name, *_ in cells(DRAWN + PHOTOS):
        Image.fromarray(noise.integers(0, 256, (128, 128, 3), np.uint8)).save(raw / "s1" / name)
    celeba_list(files, PHOTOS)
    wide(files, DRAWN)
    write(files / "mended_2099-01-01.csv", "000005.jpg,1", header="filename,beard")
    out = tmp_path / "out"
    assert main(STAGE, ["--raw", str(raw), "--annotations", str(files), "--out", str(out)]) == 0
    table = pd.read_csv(out / "annotations.csv", dtype="str").fillna("")
    found = table[["filename", *(attribute.name for attribute in ASKED.attributes)]].agg(",".join, axis=1).tolist()
    assert found == sorted([*DRAWN, *PHOTOS[:4], "000005.jpg,1,0,0,,", PHOTOS[5]])


def test_other_attributes_of_the_known_data_sets_are_read_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "attributes.yaml"
    path.write_text(
        """
        - {name: smile, classes: ["no", "yes"], celeba: Smiling}
        - {name: age, classes: [young, old], celeba: {young: [Young, -Gray_Hair], old: [-Young]}}
        - {name: face, classes: [a, b, c, d, e, f, g], cartoon_set: {attribute: face_shape, variants: 7}}
        - {name: hat, classes: ["no", "yes"]}
        """
    )
    asked = read_attributes_file(path)

    def read(write: Callable[[Path, Sequence[str]], Path], rows: Sequence[str]) -> list[str]:
        folder = tmp_path / write.__name__
        folder.mkdir()
        found = raw_annotations.read_annotations(asked, write(folder, rows))
        return [",".join(row) for row in found.rows[list(found.header)].fillna("").itertuples(index=False)]

    def celeba(folder: Path, _rows: Sequence[str]) -> Path:
        said = ({"Smiling", "Young"}, {"Young", "Gray_Hair"}, {"Bald"})
        lines = [f"{number}.jpg " + " ".join("1" if name in yes else "-1" for name in NAMES)
                 for number, yes in enumerate(said)]  # fmt: skip
        (folder / "list.txt").write_text("\n".join(["3", " ".join(NAMES), *lines]))
        return folder / "list.txt"

    assert read(celeba, []) == ["0.jpg,1,0,,", "1.jpg,0,,,", "2.jpg,0,1,,"]
    assert read(pairs, DRAWN[:1]) == ["s1_0.png,,,4,"]
    path = tmp_path / "wide.csv"
    path.write_text("filename,face_shape,hat\na.csv.png,6,yes\nb.png,7,\n")
    wide_one = raw_annotations.read_annotations(asked, path)
    assert [file.form for file in wide_one.files] == ["wide Cartoon Set CSV"]
    assert wide_one.rows[["filename", "face", "hat"]].fillna("").to_numpy().tolist() == [
        ["a.png", "6", "1"], ["b.png", "face_shape=7", ""],
    ]  # fmt: skip


def test_a_list_that_tells_nothing_of_what_is_asked_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "attributes.yaml").write_text('- {name: hat, classes: ["no", "yes"]}')
    (tmp_path / "list.txt").write_text(LIST)
    with pytest.raises(DataError, match=r"attributes\.yaml maps it to no attribute: add, for instance"):
        raw_annotations.read_annotations(read_attributes_file(tmp_path / "attributes.yaml"), tmp_path / "list.txt")
