"""The result of every reader: the annotations of one file, in the columns of the flat CSV."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import pandas as pd

from stages.common.schema.annotations import GIVEN
from stages.common.schema.attributes import Attributes
from stages.validate.attributes_file import AttributesFile
from stages.validate.forms.header import Header
from stages.validate.forms.text import brief

SHORT = "short"
"""A further column of rows without fields at their end, as spreadsheets save them: names of the missing columns."""


COLUMNS_SHOWN = 12
"""Greatest number of columns in a message."""


def flat_columns(attributes: Attributes) -> tuple[str, ...]:
    """The columns of a flat CSV; their order is free and further columns are ignored."""
    return ("filename", *(attribute.column for attribute in attributes))


def columns_shown(names: Sequence[str]) -> str:
    """Names of columns, for messages: the first of them."""
    more = len(names) - COLUMNS_SHOWN
    return ", ".join(names) if more < 2 else f"{', '.join(names[:COLUMNS_SHOWN])} and {more} more"


def example_row(attributes: Attributes) -> str:
    """A row of a flat CSV, for messages."""
    return f"s1_00000.png{',1' * len(attributes)}"


def example(attributes: Attributes) -> str:
    """An example of a flat CSV, for messages."""
    return f"{','.join(flat_columns(attributes))} and below it, for instance, {example_row(attributes)}"


class Form(ABC):
    """One form of annotations.

    Attributes:
        name: its name for people.
        published: it belongs to whole data sets: with a part of the images, nobody needs to shorten it.
        together: all files of a folder are read at once, and count as one file with one date.
        called: part of its files' names, in lower case, if the content does not determine the form.
        has_labels: if not, it only gives groups or splits of images that other files annotate.
        newest: its files are newer than those of all other forms, whatever their dates are.
        answers: people who saw the pictures gave its labels; `CANNOT_TELL` is one of their answers.
        asked: the wanted attributes, and their mapping from data sets.
        columns: columns of the flat CSV, in which every form returns annotations.
    """

    name: ClassVar[str]
    published: ClassVar[bool] = False
    together: ClassVar[bool] = False
    called: ClassVar[str] = ""
    has_labels: ClassVar[bool] = True
    newest: ClassVar[bool] = False
    answers: ClassVar[bool] = False

    def __init__(self, asked: AttributesFile) -> None:
        """Read by what attributes.yaml asks for."""
        self.asked = asked
        self.columns = flat_columns(asked.attributes)

    def is_column(self, _name: str) -> bool:
        """Whether a column of this name is read."""
        return False

    @property
    def expected(self) -> str:
        """Its name in a message that lists all forms; "" if it is not to be listed."""
        return ""

    @abstractmethod
    def recognises(self, header: Header, start: str) -> bool:
        """Whether a file is of this form, by its header and its first 64 KiB."""

    @abstractmethod
    def read(self, folder: Path, files: Sequence[Path], header: Header) -> "Part":
        """Read annotations.

        Args:
            folder: their folder.
            files: relative to it; one file, unless the form is read `together`.
            header: of the file.

        Raises:
            DataError: the file cannot be read as a whole.
        """


class Broken(NamedTuple):
    """An annotation that could not be read, with the reason."""

    source: str
    row: int
    filename: str
    reason: str


@dataclass(frozen=True)
class Part:
    """Annotations of one file, or of all Cartoon Set pairs of a folder.

    Attributes:
        form: name of the form.
        header: the columns found.
        rows: as `RawAnnotations.rows`.
        broken: annotations that could not be read.
        notices: remarks on the reading of the file, a line each.
    """

    form: str
    header: tuple[str, ...]
    rows: pd.DataFrame
    broken: list[Broken]
    notices: list[str] = field(default_factory=list)


def whole_records(
    records: Iterable[tuple[int, list[str]]], header: tuple[str, ...], name_at: int, source: str, broken: list[Broken]
) -> Iterator[tuple[int, list[str]]]:
    """Yield records with a field per column; others go to `broken`.

    Args:
        records: line number and fields.
        header: the columns.
        name_at: position of the column with the image's name.
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
    """Notice about cells that were read as unknown labels; `words`: word -> number of cells."""
    told = ", ".join(f"{count:,} {brief(word, 20)}" for word, count in sorted(words.items()))
    return [f"{source}: cells taken as unknown: {told}"] if words else []


_BACKSLASHES = (r"\\", "/")
_DOTS = (r"(^|(?<=/))(?:\./)+", "")


def without_untellable(attributes: Attributes, labels: pd.DataFrame) -> pd.DataFrame:
    """Labels (text, a column per known attribute) without those that are unknown by `unknown_when`."""
    known = {attribute.name: attribute for attribute in attributes if attribute.column in labels}
    told = labels.copy()
    for attribute in known.values():
        for other in (known[name] for name in attribute.unknown_when if name in known):
            index = str(other.classes.index(attribute.unknown_when[other.name]))
            told[attribute.column] = told[attribute.column].mask(labels[other.column] == index)
    return told


def with_places(columns: Sequence[str], cells: pd.DataFrame, source: str | list[str], lines: list[int]) -> pd.DataFrame:
    """Put `source` and `row` in front, order the columns, and use the place of each row as its index.

    Args:
        columns: `flat_columns`.
        cells: a row per annotation.
        source: the file of all rows, or of each: then a file holds one annotation, and its name is the place.
        lines: line number of each row.
    """
    rows = cells[[name for name in (*columns, *GIVEN, SHORT) if name in cells]].astype("str")
    if "filename" in rows and isinstance(source, str):  # typed by people, on Windows, or with the raw folder as `.`
        for pattern, text in (_BACKSLASHES, _DOTS):
            rows["filename"] = rows["filename"].str.replace(pattern, text, regex=True)
    rows.insert(0, "source", pd.Series(source, rows.index, dtype="str"))
    rows.insert(1, "row", pd.Series(lines, rows.index, dtype="int64"))
    rows.index = pd.Index([f"{source}:{line}" for line in lines] if isinstance(source, str) else source, dtype="str")
    return rows
