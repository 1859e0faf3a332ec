"""CSV files that stages write."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

_BEFORE_FORMULA = r"""(?=[\s"']*[-=+@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n])"""
"""A text that a spreadsheet may run: it begins with such a sign, of half or full width, after any blanks or quotes."""
_FORMULA = re.compile(rf"(^|[;|\t\r\n]){_BEFORE_FORMULA}")
"""Places of such a text: a spreadsheet that separates fields by semicolons, tabs or bars begins a cell after each, and
after a line end, because a quote that opens within such a field does not count."""
_NEUTRAL = re.compile(rf"(^|[;|\t\r\n])'{_BEFORE_FORMULA}")
_PLAIN = re.compile(r"[A-Za-z0-9][\w./ -]*")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]], *, for_people: bool = False) -> None:
    """Write a CSV file: UTF-8, LF, header first.

    Args:
        path: the file.
        columns: the header.
        rows: the cells of each row, streamed.
        for_people: put `'` before text that a spreadsheet would run as a formula; `as_written` takes it away again.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(_LineFeeds(file))
        table.writerow(columns)
        table.writerows([_neutral(cell) for cell in row] if for_people else row for row in rows)


class _LineFeeds:
    """Ends the rows of a `csv.writer` with LF. By itself, a writer with LF leaves a CR in a cell unquoted."""

    def __init__(self, file: TextIO) -> None:
        self._write = file.write

    def write(self, row: str) -> int:
        return self._write(row[:-2] + "\n")


def _neutral(cell: Any) -> Any:
    if not isinstance(cell, str) or _PLAIN.fullmatch(cell):  # nearly all: a fifth of the time
        return cell
    return _FORMULA.sub(r"\1'", cell)


def as_written(cell: str) -> str:
    """The text that was given to `write_csv` for a cell that it wrote for people."""
    return _NEUTRAL.sub(r"\1", cell) if "'" in cell else cell  # nearly none has one: a fifth of the time
