"""Find the header of a table and the separator of its fields: spreadsheets may have other text above it."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from stages.common.contract.errors import DataError
from stages.validate.forms.text import brief, csv_records, lines_of
from stages.validate.forms.words import tidy

DELIMITERS = ",;\t|"
_LOOKED_AT = 20
"""Number of lines from the top in which the header is searched."""
_SEPARATOR = re.compile(r'"?sep=(.?)"?', re.IGNORECASE)
"""First line by which Excel marks the delimiter."""


@dataclass(frozen=True)
class Header:
    """The header of a table.

    Attributes:
        names: of the columns, tidied; empty if the text is blank.
        delimiter: between fields.
        line: its line number, from 1.
        above: text of the lines above it, without Excel's `sep=;`.
    """

    names: tuple[str, ...]
    delimiter: str
    line: int
    above: tuple[str, ...] = ()

    def records(self, text: str, name: object) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of the records below it; see `csv_records`."""
        lines = list(lines_of(text))[self.line - 1 :]
        records = csv_records("".join(lines), self.delimiter, name, self.line)
        next(records, None)
        return records

    def notices(self, source: str) -> list[str]:
        """Notices about how the table was read."""
        if not self.above:
            return []
        return [f"{source}: the header is line {self.line}; the text above it is not read: {brief(self.above[0])}"]


@lru_cache(1024)  # the same few names stand in each of 100,000 pairs
def spelling(name: str) -> str:
    """A column's name in lower case with `_` for blanks and hyphens: `Image-Id` is `image_id`."""
    return re.sub(r"[\s-]+", "_", name.casefold())


def find_header(text: str, is_column: Callable[[str], bool]) -> Header:
    """The first line in which two fields or more are columns of a form; if there is none, the first line with text.

    Args:
        text: the file, or its beginning.
        is_column: whether a form knows a column of this name.
    """
    above: list[str] = []
    first = None
    for number, line in enumerate(lines_of(text), start=1):
        if number > _LOOKED_AT:
            break
        if not line.strip(f'{DELIMITERS}" \r\n\f\v'):
            continue
        if match := _SEPARATOR.fullmatch(line.strip()):
            first = first or Header((), match[1] or ",", number + 1)
            continue
        candidates = [_split(line, delimiter, number) for delimiter in DELIMITERS if delimiter in line] or [
            _split(line, ",", number)
        ]
        best = max(candidates, key=lambda header: sum(map(is_column, header.names)))  # of equal ones the first
        if sum(map(is_column, best.names)) > 1:
            return Header(best.names, best.delimiter, number, tuple(above))
        if first is None or not first.names:
            separated = first.delimiter if first else max(DELIMITERS, key=line.count)
            first = next((candidate for candidate in candidates if candidate.delimiter == separated), candidates[0])
            if len(first.names) > 2 and all(name.isdecimal() for name in first.names[1:]):
                return first  # numbers: no header follows, as in each of the 100,000 files of Cartoon Set
        above.append(line.strip())
    return first or Header((), ",", 1)


def _split(line: str, delimiter: str, number: int) -> Header:
    try:
        _, fields = next(csv_records(line, delimiter, ""), (0, []))
    except DataError:
        fields = []
    return Header(tuple(map(tidy, fields)), delimiter, number)


def name_images(
    names: tuple[str, ...], records: Iterator[tuple[int, list[str]]], called: Sequence[str]
) -> tuple[tuple[str, ...], Iterator[tuple[int, list[str]]]]:
    """Name the first column if it has no name, holds images, and is the only such column.

    pandas writes an index without a name, and spreadsheets turn that into `Unnamed: 0`.

    Args:
        names: of the columns.
        records: below them.
        called: names that a column of images may have; the first is our spelling.

    Returns:
        The names and the records.
    """
    first = next(records, None)
    cell = tidy(first[1][0]) if first else ""
    nameless = names[0] == "" or re.fullmatch(r"index|unnamed:.?0", names[0], re.IGNORECASE)
    if nameless and not set(called) & set(names) and re.search(r"\.(png|jpe?g)$", cell, re.IGNORECASE):
        names = (called[0], *names[1:])
    return names, chain([first] if first else [], records)
