"""CSV files that stages write."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]], *, for_people: bool = False) -> None:
    """Write a CSV file: UTF-8, LF, header first.

    Args:
        path: the file.
        columns: the header.
        rows: the cells of each row, streamed.
        for_people: put `'` before text that a spreadsheet would run as a formula.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([_neutral(cell) for cell in row] if for_people else row for row in rows)


def _neutral(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell
