"""CSV files with a row per image: the flat CSV, and the wide CSV with a column per Cartoon Set attribute."""

from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import ClassVar

import pandas as pd

from stages.common.contract.errors import DataError
from stages.common.images.listing import as_text
from stages.common.schema.annotations import GROUP, WORTH_LABELLING
from stages.validate.attributes_file import AttributesFile
from stages.validate.forms.cartoon_set import labels_of, variants_of
from stages.validate.forms.header import Header, name_images, spelling
from stages.validate.forms.part import (
    SHORT,
    Broken,
    Form,
    Part,
    columns_shown,
    taken_as_unknown,
    whole_records,
    with_places,
)
from stages.validate.forms.text import brief, read_text
from stages.validate.forms.words import read_words, tidy

_CSV_INFIX = r"(?i)\.csv(?=\.(?:png|jpe?g)$)"  # in `s5_00000.csv.png`: left over when csX.csv's image was named


class FlatCsv(Form):
    """A column per attribute, with the name in attributes.yaml, and perhaps `group`; further columns are ignored.

    In a list of images to label (to_label.csv, recognised by `WORTH_LABELLING`), rows without a label are left out.

    A file with only `filename` and `group` gives groups of images that other files annotate.
    """

    name = "flat CSV"
    tells_more: ClassVar[bool] = False
    """Whether it belongs to a known data set, so that further columns are not reported."""

    def __init__(self, asked: AttributesFile, more: Sequence[str] = ()) -> None:
        """Read by what attributes.yaml asks for, and the columns `more`."""
        super().__init__(asked)
        self._spelt = {spelling(name): name for name in (*more, *self.columns, GROUP)}

    @property
    def expected(self) -> str:
        """Its columns."""
        return f"a {self.name} (columns {columns_shown(self.columns)})"

    def is_column(self, name: str) -> bool:
        """Whether a column of this name is read, in any spelling."""
        return spelling(name) in self._spelt

    def recognises(self, header: Header, _start: str) -> bool:
        """Whether it has the column of a label, or those of image and group."""
        names = set(self._names(header.names))
        return bool(set(self.columns[1:]) & names) or names >= {"filename", GROUP}

    def read(self, folder: Path, files: Sequence[Path], found: Header) -> Part:
        """Read the one file."""
        path, source = folder / files[0], as_text(files[0])
        text = read_text(path, f"a CSV with the columns {columns_shown(self.columns)}")
        if not any(found.names):
            raise DataError(f"{path} is empty: expected a CSV with the columns {columns_shown(self.columns)}")
        header, records = name_images(self._names(found.names), found.records(text, path), ("filename",))
        columns = list(self._spelt.values())
        twice = sorted({name for name in header if name in columns and header.count(name) > 1})
        if twice:
            raise DataError(f"{path}: column {', '.join(twice)} appears in the header more than once: keep one")

        broken: list[Broken] = []
        notices = [*found.notices(source), *self._ignored(source, header)]
        name_at = header.index("filename") if "filename" in header else 0
        present = [name for name in columns if name in header]
        cells_of = itemgetter(*(header.index(name) for name in present), name_at)  # one more: always a tuple
        lines, rows = [], []
        short: dict[int, str] = {}
        whole = whole_records(_filled(records, header, name_at, columns, short), header, name_at, source, broken)
        for line, fields in whole:
            if header[name_at] in fields[name_at].casefold() and self._names(list(map(tidy, fields))) == header:
                notices.append(f"{source}: line {line} repeats the header and is not read")
                continue
            lines.append(line)
            rows.append(cells_of(fields))
        table = pd.DataFrame(rows, columns=pd.Index([*present, ""]), dtype="str")[present]
        cells, unknown = read_words(self.asked.attributes, table, answers=self.answers)
        if WORTH_LABELLING in header:
            filled = cells[[name for name in self.columns[1:] if name in cells]].notna().any(axis=1)
            cells, lines = (
                cells[filled].reset_index(drop=True),
                [at for at, used in zip(lines, filled, strict=True) if used],
            )
            if len(filled) > len(lines):
                empty = len(filled) - len(lines)
                notices.append(f"{source}: {empty:,} of {len(filled):,} rows are not filled in and are not read")
        cells = self._labelled(cells)
        if short:
            cells[SHORT] = pd.Series([short.get(line) for line in lines], cells.index, dtype="str")
        notices += taken_as_unknown(source, unknown)
        return Part(self._called(cells), header, with_places(self.columns, cells, source, lines), broken, notices)

    def _names(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names of a header; names that are read get our spelling: `Image-Id` becomes `image_id`."""
        return tuple(self._spelt.get(spelling(name), name) for name in names)

    def _ignored(self, source: str, header: Sequence[str]) -> list[str]:
        """The notice about columns that belong to no attribute."""
        ignored = [name for name in header if name and name not in self._spelt.values()]
        if self.tells_more:
            return []
        return [f"{source}: columns that are not read: {brief(', '.join(ignored), 200)}"] if ignored else []

    def _labelled(self, cells: pd.DataFrame) -> pd.DataFrame:
        """Labels of cells."""
        return cells

    def _called(self, _cells: pd.DataFrame) -> str:
        """The name of the form of a file with these cells."""
        return self.name


class WideCartoonSetCsv(FlatCsv):
    """A column per attribute of Cartoon Set; columns of the flat CSV in it are read as they are."""

    name = "wide Cartoon Set CSV"
    tells_more = True

    def __init__(self, asked: AttributesFile) -> None:
        """Read by what attributes.yaml asks for."""
        self._variants = variants_of(asked)
        super().__init__(asked, more=list(self._variants))

    @property
    def expected(self) -> str:
        """Its columns."""
        return f"a {self.name} (filename, {columns_shown(list(self._variants))})" if self._variants else ""

    def recognises(self, header: Header, _start: str) -> bool:
        """Whether it lacks columns of the flat CSV, and has columns of Cartoon Set for them.

        Columns with the name of an attribute do not count: the canonical annotations.csv has them, too.
        """
        names = set(self._names(header.names))
        ambiguous = {*self.columns, *(attribute.name for attribute in self.asked.attributes)}
        return not set(self.columns) <= names and bool((set(self._variants) - ambiguous) & names)

    def _labelled(self, cells: pd.DataFrame) -> pd.DataFrame:
        labels = labels_of(self.asked, cells[[name for name in self._variants if name in cells]])
        cells = cells.join(labels[[name for name in labels if name not in cells]])
        if "filename" in cells:
            cells["filename"] = cells["filename"].str.replace(_CSV_INFIX, "", regex=True)
        return cells


def _filled(
    records: Iterator[tuple[int, list[str]]],
    header: Sequence[str],
    name_at: int,
    columns: Sequence[str],
    short: dict[int, str],
) -> Iterator[tuple[int, list[str]]]:
    """Yield the records; empty cells are added at the end of records that a spreadsheet saved without them.

    A record with only a name is not completed: it is more likely a line with other separators.

    Args:
        records: line number and fields.
        header: the columns.
        name_at: position of the column with the image's name.
        columns: the columns that are read.
        short: gets line number -> the read columns that were added.
    """
    for line, fields in records:
        lacking = header[len(fields) :]
        if not lacking or len(fields) < 2 or name_at >= len(fields):
            yield line, fields
            continue
        if names := [name for name in lacking if name in columns]:
            short[line] = ", ".join(names)
        yield line, [*fields, *([""] * len(lacking))]
