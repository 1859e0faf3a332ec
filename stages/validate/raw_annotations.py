"""Read raw annotations, a flat CSV or Cartoon Set pairs, into one table of text. Whether it is right the suite decides.

Only what no table can express is refused here: bytes that are not UTF-8 text, an unclosed quote, a line with too many
or too few fields, a pair file that is not in the form.
"""

import csv
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.common.artifacts import walk_files
from stages.common.attributes import ATTRIBUTES
from stages.common.errors import DataError
from stages.common.logs import Progress, log
from stages.validate.cartoon_set import VARIANTS, labels_of
from stages.validate.images import as_text, lot_of

COLUMNS = ("filename", *(attribute.column for attribute in ATTRIBUTES))
"""The columns of a flat CSV; their order is free and further columns are ignored."""

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_WHOLE_FLOAT = re.compile(r"([0-9]+)\.0+")


@dataclass(frozen=True)
class RawAnnotations:
    """Annotations as read.

    Attributes:
        name: what messages call them.
        header: the columns found.
        rows: one row an annotation; its index is what reports call the row: line number, or pair file. Columns:
            `source` (file), `row` (line number, from 1), then those of `COLUMNS` that were found, as stripped text. An
            empty cell is missing. A whole number written as a float (`1.0`, as pandas writes integer columns with
            gaps) is read as the integer.
        broken: `source`, `row`, `filename`, `reason` of annotations that could not be read.
    """

    name: str
    header: tuple[str, ...]
    rows: pd.DataFrame
    broken: pd.DataFrame


def pair_files(folder: Path, lots: Collection[str] = ()) -> list[Path]:
    """The annotation files of Cartoon Set pairs below `folder`, relative to it; those of `lots` only, if any."""
    csvs = [path for path in walk_files(folder) if path.suffix.lower() == ".csv"]
    return [path for path in csvs if not lots or lot_of(path) in lots]


def read_annotations(path: Path) -> RawAnnotations:
    """Read a flat CSV, or the Cartoon Set pairs of a folder.

    Raises:
        DataError: the whole of it cannot be read.
    """
    return _read_pairs(path) if path.is_dir() else _read_flat(path)


def count_annotations(path: Path) -> int:
    """How many annotations there are, without reading pairs.

    Raises:
        DataError: there is none, or a flat CSV cannot be read.
    """
    if path.is_dir():
        count = len(pair_files(path))
    else:
        annotations = _read_flat(path)
        count = len(annotations.rows) + len(annotations.broken)
    if not count:
        raise DataError(f"{path} holds no annotations: give a CSV with rows, or a folder with csX.csv beside csX.png")
    return count


def brief(text: object, limit: int = 60) -> str:
    """Quote a value that came from outside: one line, control characters escaped, cut to `limit` characters."""
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"


def _empty(path: Path) -> DataError:
    return DataError(f"{path} is empty: expected a CSV with the columns {', '.join(COLUMNS)}")


def _decode(path: Path) -> str:
    data = path.read_bytes()
    if not data.removeprefix(_UTF8_BOM).strip(b",; \t\r\n"):
        raise _empty(path)
    if data.startswith(_UTF16_BOMS):
        raise DataError(f"{path} is UTF-16: save it as UTF-8")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: a NUL byte; the file is damaged or not text: save it as UTF-8 CSV")
    try:
        return data.removeprefix(_UTF8_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text: save it as UTF-8") from error


def _records(text: str, delimiter: str, name: object) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of every record that is not blank."""
    # Our own line split, not str.splitlines: that also splits at form feeds and other characters inside a field.
    reader = csv.reader(re.split(r"(?<=\n)|(?<=\r)(?!\n)", text), delimiter=delimiter, strict=True)
    start = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}, line {start}: broken CSV, perhaps an unclosed quote ({error}): mend the line or quote it properly"
        ) from error


def _read_flat(path: Path) -> RawAnnotations:
    text = _decode(path)
    first_line = text.lstrip().partition("\n")[0]
    delimiter = ";" if first_line.count(";") > first_line.count(",") else ","
    records = _records(text, delimiter, path)
    _, names = next(records, (0, []))
    if not names:
        raise _empty(path)
    header = tuple(name.strip() for name in names)
    twice = sorted({name for name in header if name in COLUMNS and header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {', '.join(twice)} stands in the header more than once: keep one")
    ignored = [name for name in header if name not in COLUMNS]
    if ignored:
        log.info("columns that are not read: %s", brief(", ".join(ignored), 200))

    rows, lines, broken = [], [], []
    name_at = header.index("filename") if "filename" in header else 0
    for line, fields in records:
        if len(fields) == len(header):
            rows.append(fields)
            lines.append(line)
        else:
            filename = fields[name_at] if name_at < len(fields) else ""
            broken.append((path.name, line, filename, f"{len(fields)} fields in place of {len(header)}"))
    frame = pd.DataFrame(rows, columns=pd.Index(header), dtype="str")
    return _annotations(
        path.name, header, frame[[name for name in COLUMNS if name in header]], path.name, lines, broken
    )


def _read_pairs(folder: Path) -> RawAnnotations:
    files = pair_files(folder)
    if not files:
        raise DataError(f"{folder} holds no csX.csv beside csX.png: a flat annotation CSV is given as a file")
    names, labels, broken = [], [], []
    progress = Progress(len(files), "annotation files")
    for path in files:
        source = as_text(path)
        image = source.with_suffix(".png").as_posix()
        try:
            labels.append(labels_of(_read_variants(folder / path)))
            names.append(image)
        except (DataError, ValueError) as error:
            reason = str(error).removeprefix(f"{folder / path}")
            broken.append((source.as_posix(), 1, image, f"not a Cartoon Set annotation: {reason.lstrip(', ')}"))
        progress.advance()
    if not names:
        raise DataError(
            f"{folder}: none of {len(files)} CSV files is a Cartoon Set annotation ({broken[0][0]}: {broken[0][3]}); "
            "a flat annotation CSV is given as a file"
        )
    frame = pd.DataFrame({attribute.column: [row[attribute.name] for row in labels] for attribute in ATTRIBUTES})
    frame.insert(0, "filename", names)
    sources = [Path(name).with_suffix(".csv").as_posix() for name in names]
    return _annotations(folder.name, COLUMNS, frame.astype("str"), sources, [1] * len(names), broken)


def _read_variants(path: Path) -> dict[str, int]:
    variants: dict[str, int] = {}
    for line, fields in _records(_decode(path), ",", path):
        if len(fields) != 3:
            raise ValueError(f'line {line} is not "attribute", variant, number of variants')
        name = fields[0].strip().strip('"')
        if name not in VARIANTS:
            continue
        try:
            variant, count = int(fields[1]), int(fields[2])
        except ValueError as error:
            raise ValueError(f"line {line}: {brief(fields[1])} of {brief(fields[2])} is no variant") from error
        if count != VARIANTS[name]:
            raise ValueError(f"{name} has {count} variants in place of {VARIANTS[name]}: another version of the set")
        if name in variants:
            raise ValueError(f"{name} stands there twice")
        variants[name] = variant
    if not variants:
        raise ValueError(f"none of {', '.join(VARIANTS)} in it")
    return variants


def _annotations(
    name: str,
    header: tuple[str, ...],
    frame: pd.DataFrame,
    source: str | list[str],
    lines: list[int],
    broken: Iterable[tuple[str, int, str, str]],
) -> RawAnnotations:
    cells = frame.apply(lambda column: column.str.strip())
    labels = [column for column in cells.columns if column != "filename"]
    cells[labels] = cells[labels].replace(_WHOLE_FLOAT, r"\1", regex=True) if labels else cells[labels]
    cells = cells.mask(cells == "")
    cells.insert(0, "source", source)
    cells.insert(1, "row", lines)
    cells.index = pd.Index(lines if isinstance(source, str) else source)
    return RawAnnotations(
        name, header, cells, pd.DataFrame(list(broken), columns=["source", "row", "filename", "reason"])
    )
