"""CSV files with a row an image: the flat CSV, and the wide one with a column per Cartoon Set attribute."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

import pandas as pd

from stages.common.contract.errors import DataError
from stages.common.contract.logs import log
from stages.common.images.listing import as_text
from stages.validate.forms.cartoon_set import VARIANTS, labels_of
from stages.validate.forms.header import Header, name_images, spelling
from stages.validate.forms.part import COLUMNS, SHORT, Broken, Form, Part, taken_as_unknown, whole_records, with_places
from stages.validate.forms.text import brief, read_text
from stages.validate.forms.words import read_words, tidy

FLAT = "flat CSV"
WIDE = "wide Cartoon Set CSV"

_KNOWN = frozenset({*COLUMNS, *VARIANTS})
_CSV_INFIX = r"(?i)\.csv(?=\.(?:png|jpe?g)$)"  # of `s5_00000.csv.png`: left over from naming csX.csv's image


def columns_of(names: Sequence[str]) -> tuple[str, ...]:
    """The names of a header, those that are read in our spelling: `Hair Length` is `hair_length`."""
    return tuple(spelling(name) if is_column(name) else name for name in names)


@lru_cache(1024)  # the same few names stand in each of 100,000 pairs
def is_column(name: str) -> bool:
    """Whether a column of this name is read."""
    return spelling(name) in _KNOWN


def is_wide(names: Sequence[str]) -> bool:
    """Whether a header lacks labels of the flat CSV and has Cartoon Set attributes to take them from.

    `glasses` and `hair_color` alone do not tell: the canonical annotations.csv has columns of these names too.
    """
    return not set(COLUMNS) <= set(names) and bool({"facial_hair", "hair"} & set(names))


def read(folder: Path, files: Sequence[Path], found: Header) -> Part:
    """Read a flat or wide CSV. Of a wide one that also has columns of the flat CSV, these are taken as they are.

    Args:
        folder: where it lies.
        files: the one file, relative to it.
        found: its header.

    Raises:
        DataError: it is no CSV, or a column stands in the header twice.
    """
    path, source = folder / files[0], as_text(files[0]).as_posix()
    text = read_text(path, f"a CSV with the columns {', '.join(COLUMNS)}")
    if not any(found.names):
        raise DataError(f"{path} is empty: expected a CSV with the columns {', '.join(COLUMNS)}")
    header, records = name_images(columns_of(found.names), found.records(text, path), ("filename",))
    wide = is_wide(header)
    columns = [*COLUMNS, *(VARIANTS if wide else ())]
    twice = sorted({name for name in header if name in columns and header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {', '.join(twice)} stands in the header more than once: keep one")
    ignored = [name for name in header if name not in columns]
    if ignored:
        log.info("%s: columns that are not read: %s", source, brief(", ".join(ignored), 200))

    broken: list[Broken] = []
    notices = found.notices(source)
    name_at = header.index("filename") if "filename" in header else 0
    present = [name for name in columns if name in header]
    cells_of = itemgetter(*(header.index(name) for name in present), name_at)  # one more: always a tuple
    lines, rows = [], []
    short: dict[int, str] = {}
    whole = whole_records(_filled(records, header, name_at, columns, short), header, name_at, source, broken)
    for line, fields in whole:
        if header[name_at] in fields[name_at].casefold() and columns_of(list(map(tidy, fields))) == header:
            notices.append(f"{source}: line {line} is the header once more and is not read")
            continue
        lines.append(line)
        rows.append(cells_of(fields))
    cells, unknown = read_words(pd.DataFrame(rows, columns=pd.Index([*present, ""]), dtype="str")[present])
    if wide:
        labels = labels_of(cells[[name for name in VARIANTS if name in cells]])
        cells = cells.join(labels[[name for name in labels if name not in cells]])
        if "filename" in cells:
            cells["filename"] = cells["filename"].str.replace(_CSV_INFIX, "", regex=True)
    if short:
        cells[SHORT] = pd.Series([short.get(line) for line in lines], cells.index, dtype="str")
    notices += taken_as_unknown(source, unknown)
    return Part(WIDE if wide else FLAT, header, with_places(cells, source, lines), broken, notices)


def _filled(
    records: Iterator[tuple[int, list[str]]],
    header: Sequence[str],
    name_at: int,
    columns: Sequence[str],
    short: dict[int, str],
) -> Iterator[tuple[int, list[str]]]:
    """Yield the records, with empty cells at the end of those that a spreadsheet saved without them.

    A name alone is none of these: it says nothing, and is more likely a line with other separators.

    Args:
        records: line number and fields.
        header: the columns.
        name_at: which of them names the image.
        columns: those that are read.
        short: gets line number -> the columns that are read and were filled.
    """
    for line, fields in records:
        lacking = header[len(fields) :]
        if not lacking or len(fields) < 2 or name_at >= len(fields):
            yield line, fields
            continue
        if names := [name for name in lacking if name in columns]:
            short[line] = ", ".join(names)
        yield line, [*fields, *([""] * len(lacking))]


def _recognises_flat(header: Header, _start: str) -> bool:
    return bool(set(COLUMNS[1:]) & set(columns_of(header.names)))


def _recognises_wide(header: Header, _start: str) -> bool:
    return is_wide(columns_of(header.names))


FLAT_FORM = Form(FLAT, _recognises_flat, read)
WIDE_FORM = Form(WIDE, _recognises_wide, read)
