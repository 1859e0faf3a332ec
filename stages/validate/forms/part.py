"""What the reader of any form hands over: the annotations of one file, in the columns of the flat CSV."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from stages.common.attributes import ATTRIBUTES

COLUMNS = ("filename", *(attribute.column for attribute in ATTRIBUTES))
"""The columns of a flat CSV; their order is free and further columns are ignored."""

_WHOLE_FLOAT = re.compile(r"([0-9]+)\.0+")


class Broken(NamedTuple):
    """An annotation that could not be read, and why."""

    source: str
    row: int
    filename: str
    reason: str


@dataclass(frozen=True)
class Part:
    """Annotations of one file, or of all Cartoon Set pairs of a folder.

    Attributes:
        form: what people call the form.
        header: the columns found.
        rows: as `RawAnnotations.rows`.
        broken: annotations that could not be read.
    """

    form: str
    header: tuple[str, ...]
    rows: pd.DataFrame
    broken: list[Broken]


def whole_records(
    records: Iterable[tuple[int, list[str]]], header: tuple[str, ...], name_at: int, source: str, broken: list[Broken]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the records that have a field per column; the others go to `broken`.

    Args:
        records: line number and fields.
        header: the columns.
        name_at: which of them names the image.
        source: the file.
        broken: gets the others.
    """
    for line, fields in records:
        if len(fields) == len(header):
            yield line, fields
        else:
            filename = fields[name_at] if name_at < len(fields) else ""
            broken.append(Broken(source, line, filename.strip(), f"{len(fields)} fields in place of {len(header)}"))


def clean(frame: pd.DataFrame) -> pd.DataFrame:
    """Strip cells, make empty ones missing, and read a whole number written as a float as the integer.

    pandas writes integer columns with gaps as `1.0`.
    """
    cells: pd.DataFrame = frame.apply(lambda column: column.str.strip())
    for label in (name for name in cells if name != "filename"):
        floats = {cell: match[1] for cell in cells[label].unique() if (match := _WHOLE_FLOAT.fullmatch(cell))}
        cells[label] = cells[label].replace(floats) if floats else cells[label]
    return cells.mask(cells == "")


def with_places(cells: pd.DataFrame, source: str | list[str], lines: list[int]) -> pd.DataFrame:
    """Put `source` and `row` in front, order the columns as `COLUMNS`, and call each row by its place.

    Args:
        cells: one row an annotation.
        source: the file of all rows, or of each: then a file holds one annotation and its name alone is the place.
        lines: line number of each row.
    """
    rows = cells[[name for name in COLUMNS if name in cells]].astype("str")
    rows.insert(0, "source", pd.Series(source, rows.index, dtype="str"))
    rows.insert(1, "row", pd.Series(lines, rows.index, dtype="int64"))
    rows.index = pd.Index([f"{source}:{line}" for line in lines] if isinstance(source, str) else source, dtype="str")
    return rows
