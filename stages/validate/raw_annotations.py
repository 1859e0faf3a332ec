"""Read raw annotations, one file or a folder of them in any mix of forms, into one table of text.

Forms are recognised by content, never by file name: flat CSV, wide Cartoon Set CSV, Cartoon Set pairs, CelebA's
attribute list as text or CSV. Whether the annotations are right the suite decides. Only what no table can express is
refused here: bytes that are not UTF-8 text, an unclosed quote, a file of no form, a list that was cut short. A line
with too many or too few fields and a pair file that is not in the form are left out and listed.
"""

import datetime
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.common.artifacts import walk_files
from stages.common.errors import DataError
from stages.common.raw_images import SUFFIXES, as_text, list_ignored, lot_of
from stages.validate.forms import cartoon_set, celeba, flat_csv
from stages.validate.forms.part import COLUMNS, Part
from stages.validate.forms.text import brief, csv_records, delimiter_of, read_head, read_text
from stages.validate.merge import merge

__all__ = [
    "COLUMNS", "AnnotationFile", "RawAnnotations", "annotation_files", "brief", "count_annotations", "read_annotations",
]  # fmt: skip

FORMS = (
    f"a flat CSV (columns {', '.join(COLUMNS)}), a wide Cartoon Set CSV (filename, {', '.join(cartoon_set.VARIANTS)}), "
    "csX.csv beside csX.png, or CelebA's list_attr_celeba.txt"
)

_DATE = re.compile(r"(?<!\d)(20\d\d)(-?)(\d\d)\2(\d\d)(?!\d)")
_LISTED = ["source", "row", "filename", "reason"]


@dataclass(frozen=True)
class AnnotationFile:
    """One annotation file that was read, or all Cartoon Set pairs of a folder together.

    Attributes:
        source: the file, relative to the folder given.
        form: what people call its form.
        rows: annotations in it, readable or not.
        dated: ISO date of its name, else its modification time (UTC).
    """

    source: str
    form: str
    rows: int
    dated: str


@dataclass(frozen=True)
class RawAnnotations:
    """Annotations as read.

    Attributes:
        name: what messages call them.
        header: the columns found, of all files.
        rows: one row an image, or more if a file names it more than once; its index is unique and what reports call the
            row: `<file>:<line>`, or the pair file. Columns: `source` (file), `row` (line number, from 1), then those of
            `COLUMNS` that were found, as stripped text. An empty cell is missing. A whole number written as a float
            (`1.0`, as pandas writes integer columns with gaps) is read as the integer.
        broken: `source`, `row`, `filename`, `reason` of annotations that could not be read.
        replaced: the same of rows with labels that a newer file replaced by others; the reason says by which.
        taken: of merged rows, by the index of `rows`, a column per label with the place that it was taken from, if that
            is not the row's own.
        files: what was read, the oldest first.
        ignored: `source` (relative to the folder), `reason` of files that are no annotations.
    """

    name: str
    header: tuple[str, ...]
    rows: pd.DataFrame
    broken: pd.DataFrame
    replaced: pd.DataFrame
    taken: pd.DataFrame
    files: list[AnnotationFile]
    ignored: pd.DataFrame


@dataclass(frozen=True)
class _Unit:
    """One file of a form, or all pairs of a folder: what is read at once, and is as new as one."""

    form: str
    files: list[Path]
    dated: str


def read_annotations(path: Path) -> RawAnnotations:
    """Read an annotation file, or all annotation files of a folder, and merge them (see `stages.validate.merge`).

    Raises:
        DataError: a file cannot be read as a whole or is of no form, or there is none.
    """
    folder, units, ignored = _find(path)
    if not units:
        raise _nothing(path)
    if path.is_dir():
        ignored |= _unseen(path)
    parts = [_read(folder, unit) for unit in units]
    rows, replaced, taken = merge([part.rows for part in parts])
    return RawAnnotations(
        name=as_text(path.absolute()).name,
        header=tuple(dict.fromkeys(name for part in parts for name in part.header)),
        rows=rows,
        broken=pd.DataFrame([one for part in parts for one in part.broken], columns=_LISTED),
        replaced=pd.DataFrame(replaced, columns=_LISTED),
        taken=taken,
        files=[
            AnnotationFile(_called(unit), part.form, len(part.rows) + len(part.broken), unit.dated)
            for unit, part in zip(units, parts, strict=True)
        ],
        ignored=pd.DataFrame(sorted(ignored.items()), columns=["source", "reason"]),
    )


def count_annotations(path: Path) -> int:
    """How many annotations there are in all files together, without reading pairs.

    Raises:
        DataError: there is none, or a file cannot be read.
    """
    folder, units, _ = _find(path)
    count = 0
    for unit in units:
        if unit.form == cartoon_set.PAIRS:
            count += len(unit.files)
        else:
            part = _read(folder, unit)
            count += len(part.rows) + len(part.broken)
    if not count:
        raise _nothing(path)
    return count


def annotation_files(path: Path, lots: Collection[str] = ()) -> list[Path]:
    """The files that are read, relative to the folder, the oldest first; of pairs those of `lots` only, if any.

    A file is as new as the date in its name (`2026-11-20` or `20261120`), else as its modification time; of two the
    same age the one with the later name is newer. Pairs count as one file, as new as the newest of them.
    """
    return [
        file
        for unit in _find(path)[1]
        for file in unit.files
        if unit.form != cartoon_set.PAIRS or not lots or lot_of(file) in lots
    ]


def _nothing(path: Path) -> DataError:
    return DataError(f"{path} holds no annotations: give {FORMS}, or a folder of such files")


def _called(unit: _Unit) -> str:
    if unit.form == cartoon_set.PAIRS:
        return f"{len(unit.files)} csX.csv" if len(unit.files) > 1 else as_text(unit.files[0]).as_posix()
    return as_text(unit.files[0]).as_posix()


def _find(path: Path) -> tuple[Path, list[_Unit], dict[str, str]]:
    """The folder, what is read of it, the oldest first, and the reason for each file that is not."""
    if not path.is_dir():
        unit = _Unit(_recognise(read_head(path)) or flat_csv.FLAT, [Path(path.name)], _dated(path))
        return path.parent, [unit], {}
    files = walk_files(path)
    images = {file.with_suffix("") for file in files if file.suffix.lower() in SUFFIXES}
    ignored: dict[str, str] = {}
    tables, pairs = [], []
    for file in files:
        if file.suffix.lower() in SUFFIXES:
            continue
        form = _recognise(read_head(path / file))
        is_csv = file.suffix.lower() == ".csv"
        if form == cartoon_set.PAIRS or (not form and is_csv and file.with_suffix("") in images):
            pairs.append(file)
        elif form:
            tables.append(_Unit(form, [file], _dated(path / file)))
        elif is_csv:
            read_text(path / file, FORMS)  # a damaged file has a better cause than this
            raise DataError(f"{path / file} is no annotation file: expected {FORMS}; mend it or move it elsewhere")
        else:
            ignored[as_text(file).as_posix()] = "no form of annotations"
    if pairs:
        newest = max(pairs, key=lambda file: (path / file).stat().st_mtime_ns)
        tables.append(_Unit(cartoon_set.PAIRS, pairs, _modified(path / newest)))
    return path, sorted(tables, key=lambda unit: (unit.dated, unit.files[0].as_posix())), ignored


def _unseen(folder: Path) -> dict[str, str]:
    """Files that `walk_files` leaves out, but for images: links, hidden files, FIFOs."""
    listed = list_ignored(folder, folder)
    listed = listed[listed["reason"].isin(["link", "hidden", "not a regular file"])]
    return {
        path: reason
        for path, reason in zip(listed["path"], listed["reason"], strict=True)
        if Path(path).suffix.lower() not in SUFFIXES
    }


def _modified(path: Path) -> str:
    when = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # sorts as text, and after the date alone: during that day


def _dated(path: Path) -> str:
    for year, _, month, day in reversed(_DATE.findall(path.name)):
        try:
            return datetime.date(int(year), int(month), int(day)).isoformat()
        except ValueError:
            continue  # 20261399 is a number
    return _modified(path)


def _recognise(head: str) -> str | None:
    """The form of a file, from how it starts."""
    lines = [line for line in re.split(r"[\r\n]+", head) if line.strip(",; \t")]
    if any(len(celeba.ATTRIBUTES.intersection(line.split())) > 2 for line in lines[:2]):
        return celeba.LIST
    try:
        _, fields = next(csv_records("".join(lines[:1]), delimiter_of(head), ""), (0, []))
    except DataError:
        return None
    header = tuple(field.strip() for field in fields)
    if len(header) == 3 and header[1].isdecimal() and header[2].isdecimal():
        return cartoon_set.PAIRS
    if set(COLUMNS) <= set(header):
        return flat_csv.FLAT
    if len(celeba.ATTRIBUTES.intersection(header)) > 2:
        return celeba.TABLE
    if flat_csv.is_wide(header):
        return flat_csv.WIDE
    return flat_csv.FLAT if set(COLUMNS[1:]) & set(header) else None


def _read(folder: Path, unit: _Unit) -> Part:
    if unit.form == cartoon_set.PAIRS:
        return cartoon_set.read_pairs(folder, unit.files)
    path, source = folder / unit.files[0], as_text(unit.files[0]).as_posix()
    if unit.form == celeba.LIST:
        return celeba.read_list(path, source)
    text = read_text(path, f"a CSV with the columns {', '.join(COLUMNS)}")
    reader = celeba.read_table if unit.form == celeba.TABLE else flat_csv.read_table
    return reader(path, source, text, delimiter_of(text))
