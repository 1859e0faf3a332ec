"""What the reader of any form hands over: the annotations of one file, in the columns of the flat CSV."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from stages.common.schema.attributes import ATTRIBUTES
from stages.validate.forms.header import Header
from stages.validate.forms.text import brief

COLUMNS = ("filename", *(attribute.column for attribute in ATTRIBUTES))
"""The columns of a flat CSV; their order is free and further columns are ignored."""

SHORT = "short"
"""A further column of rows that lack fields at their end, as spreadsheets save them: the columns that are missing."""

ROW = f"s1_00000.png{',1' * len(ATTRIBUTES)}"
"""A row of a flat CSV, for messages."""

EXAMPLE = f"{','.join(COLUMNS)} and below it, for instance, {ROW}"
"""What a flat CSV looks like, likewise."""


@dataclass(frozen=True)
class Form:
    """One form of annotations.

    Attributes:
        name: what people call it.
        recognises: (the header, the first 64 KiB) -> whether a file is of this form.
        read: (folder, files relative to it, the header) -> their annotations. Raises DataError for a file that cannot
            be read as a whole.
        published: a list that whole data sets come with: who has a part of the images need not cut it.
    """

    name: str
    recognises: Callable[[Header, str], bool]
    read: Callable[[Path, Sequence[Path], Header], "Part"]
    published: bool = False


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
        notices: what a person should know about how the file was read, a line each.
    """

    form: str
    header: tuple[str, ...]
    rows: pd.DataFrame
    broken: list[Broken]
    notices: list[str] = field(default_factory=list)


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
    for line, found in records:
        fields = found
        while len(fields) > len(header) and not fields[-1].strip():
            fields = fields[:-1]  # a spreadsheet's empty columns
        if len(fields) == len(header):
            yield line, fields
        else:
            filename = fields[name_at] if name_at < len(fields) else ""
            broken.append(Broken(source, line, filename.strip(), f"{len(fields)} fields in place of {len(header)}"))


def taken_as_unknown(source: str, words: Mapping[str, int]) -> list[str]:
    """The notice that cells were taken for unknown labels; `words` says which, and how many."""
    told = ", ".join(f"{count:,} {brief(word, 20)}" for word, count in sorted(words.items()))
    return [f"{source}: cells taken as unknown: {told}"] if words else []


_BACKSLASHES = (r"\\", "/")
_DOTS = (r"(^|(?<=/))(?:\./)+", "")


def with_places(cells: pd.DataFrame, source: str | list[str], lines: list[int]) -> pd.DataFrame:
    """Put `source` and `row` in front, order the columns as `COLUMNS`, and call each row by its place.

    Args:
        cells: one row an annotation.
        source: the file of all rows, or of each: then a file holds one annotation and its name alone is the place.
        lines: line number of each row.
    """
    rows = cells[[name for name in (*COLUMNS, SHORT) if name in cells]].astype("str")
    if "filename" in rows and isinstance(source, str):  # typed by people, on Windows, or with the raw folder as `.`
        for pattern, text in (_BACKSLASHES, _DOTS):
            rows["filename"] = rows["filename"].str.replace(pattern, text, regex=True)
    rows.insert(0, "source", pd.Series(source, rows.index, dtype="str"))
    rows.insert(1, "row", pd.Series(lines, rows.index, dtype="int64"))
    rows.index = pd.Index([f"{source}:{line}" for line in lines] if isinstance(source, str) else source, dtype="str")
    return rows
