"""Read raw annotations, one file or a folder of them in any mix of forms, into one table of text.

Forms (`FORMS`) are recognised by content; in a folder, only names that end in .csv, .txt or .json are read. The suite
decides whether annotations are right. Only errors that a table cannot express are refused here: bytes that are not
UTF-8 text, an unclosed quote, a file of no form, a truncated list, a copy beside its original. A line with too many
fields and an invalid pair file are left out and listed.
"""

import datetime
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from stages.common.contract.errors import DataError
from stages.common.contract.stage import RawFiles
from stages.common.images.listing import HIDDEN, OTHER_NAME, SUFFIXES, as_text, list_folder, lot_of, name_of, suffix_of
from stages.common.schema.annotations import CANNOT_TELL
from stages.common.schema.attributes import Attributes
from stages.validate.attributes_file import AttributesFile
from stages.validate.forms.cartoon_set import CartoonSetPairs
from stages.validate.forms.celeba import CelebAList, CelebATable
from stages.validate.forms.celeba_lists import CelebAIdentities, CelebAPartition, is_list
from stages.validate.forms.copies import NAMED, original_of
from stages.validate.forms.corrections import BY, Corrections
from stages.validate.forms.flat_csv import FlatCsv, WideCartoonSetCsv
from stages.validate.forms.foreign import foreign_form, remedy
from stages.validate.forms.header import Header, find_header, spelling
from stages.validate.forms.label_studio import LabelStudio
from stages.validate.forms.part import Form, Part, example
from stages.validate.forms.text import brief, read_head, read_text
from stages.validate.merge import merge
from stages.validate.table import similar_names

FORMS: tuple[type[Form], ...] = (
    LabelStudio, CelebAList, CelebAIdentities, CelebAPartition, CartoonSetPairs, CelebATable, Corrections,
    WideCartoonSetCsv, FlatCsv,
)  # fmt: skip
"""All forms; the first that recognises a file reads it."""

NO_FORM = "no form of annotations"
NOT_NAMED = "annotations, but not called .csv, .txt or .json; rename it if it is not a backup"
"""Reason why a file in one of the forms is not read."""
NUMBERS = "a number an image: with identity in its name it would tell groups, with partition splits"
HOME = "annotations"
"""Name of the folder of annotations in a data folder, where CelebA's lists are found as well."""

DVC_STAGE = "DVC_STAGE"
"""Environment variable that DVC sets for its stages, whose inputs are only the folder."""

CORRECTIONS = "corrections"
"""Name of the folder beside the annotations into which reports save corrections."""
NO_CORRECTIONS = "not a .csv name"
NOT_ASKED = "corrections of columns that attributes.yaml does not ask for"
"""Reasons why a file in it is not read."""

_MOMENT = re.compile(r"(?<!\d)(20\d\d-\d\d-\d\d)T(\d\d)(\d\d)(\d\d(?:\.\d{3})?)Z")
_DATE = re.compile(r"(?<!\d)(20\d\d)(-?)(\d\d)\2(\d\d)(?!\d)")
_LISTED = ["source", "row", "filename", "reason"]


@dataclass(frozen=True)
class AnnotationFile:
    """One annotation file that was read, or all Cartoon Set pairs of a folder together.

    Attributes:
        source: the file, relative to the folder given.
        form: name of its form.
        rows: number of annotations in it, readable or not.
        dated: ISO date of its name, perhaps with the time, else its modification time (UTC).
    """

    source: str
    form: str
    rows: int
    dated: str


@dataclass(frozen=True)
class RawAnnotations:
    """Annotations as read.

    Attributes:
        attributes: the wanted attributes.
        name: their name in messages.
        header: the columns found in all files.
        rows: a row per image, or several if a file names it more than once. The index is unique, and names the row in
            reports: `<file>:<line>`, or the pair file. Columns: `source` (file), `row` (line number, from 1), then the
            columns of the flat CSV that were found, as stripped text, and those of `GIVEN`. An empty cell is missing. A
            whole number written as a float (`1.0`, as pandas writes integer columns with gaps) becomes the integer.
        broken: `source`, `row`, `filename`, `reason` of annotations that could not be read.
        replaced: the same of rows with labels that a newer file replaced; the reason has the replacements.
        taken: for merged rows, by the index of `rows`, a column per label with the place of its origin, if that is
            another row.
        files: the files, the oldest first.
        ignored: `source` (relative to the folder), `reason` of files that are not annotations.
        notices: remarks on the reading of the files, a line each.
        published: files of forms that belong to whole data sets.
    """

    attributes: Attributes
    name: str
    header: tuple[str, ...]
    rows: pd.DataFrame
    broken: pd.DataFrame
    replaced: pd.DataFrame
    taken: pd.DataFrame
    files: list[AnnotationFile]
    ignored: pd.DataFrame
    notices: list[str]
    published: frozenset[str]


@dataclass(frozen=True)
class _Unit:
    """One file of a form, or all pairs of a folder, which are read at once and count as one file."""

    form: Form
    files: list[Path]
    dated: str
    header: Header

    @property
    def age(self) -> tuple[bool, str, str]:
        """Sorting key, the oldest first."""
        return self.form.newest, self.dated, self.files[0].as_posix()


class _Forms:
    """All forms, for the attributes of attributes.yaml."""

    def __init__(self, asked: AttributesFile) -> None:
        self.all = [form(asked) for form in FORMS]
        self.together = next(form for form in self.all if form.together)
        self.corrections = next(form for form in self.all if isinstance(form, Corrections))
        self.flat = self.all[-1]
        self.example = example(asked.attributes)
        expected = [form.expected for form in reversed(self.all) if form.expected]
        self.expected = ", or ".join(filter(None, [", ".join(expected[:-1]), expected[-1]]))
        # the same few names stand in each of 100,000 pairs
        self._is_column = lru_cache(1024)(lambda name: any(form.is_column(name) for form in self.all))

    def recognise(self, file: Path, start: str) -> tuple[Form | None, Header]:
        """Form and header of a file, by its beginning and perhaps its name."""
        header = find_header(start, self._is_column)
        if foreign_form(start):
            return None, header
        called = (form for form in self.all if form.called in file.name.casefold())
        return next((form for form in called if form.recognises(header, start)), None), header


def find_corrections(inputs: Mapping[str, Path]) -> Path | None:
    """The folder `corrections` beside the annotations, if it has a file."""
    if "annotations" not in inputs:
        return None
    folder = inputs["annotations"].absolute().parent / CORRECTIONS
    return folder if folder.is_dir() and any(_list_corrections(folder)) else None


def _list_corrections(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Files of corrections in a folder, relative to it; and other files, by their name in reports, with the reason.

    Hidden files are in neither list: files that are being written are hidden.
    """
    files, ignored = [], {}
    listing = list_folder(folder)
    for file, why in (listing.ignored | dict.fromkeys(listing.images, OTHER_NAME)).items():
        if why == OTHER_NAME and suffix_of(file) == ".csv":
            files.append(Path(file))
        elif why != HIDDEN:
            ignored[f"{CORRECTIONS}/{as_text(file)}"] = NO_CORRECTIONS if why == OTHER_NAME else why
    return sorted(files), ignored


def correction_files(folder: Path) -> RawFiles:
    """Files of corrections that are read, and the other files of the folder."""
    files, ignored = _list_corrections(folder)
    return RawFiles(files, ignored.items())


def _corrections(forms: _Forms, folder: Path) -> tuple[list[_Unit], dict[str, str]]:
    """Files of a folder of corrections that are read, and the reason for each of the others.

    Raises:
        DataError: a file does not hold corrections.
    """
    files, ignored = _list_corrections(folder)
    units = []
    for file in files:
        form, header = forms.recognise(file, read_head(folder / file))
        if not form and forms.corrections.says_who(header):  # from a time with other attributes
            ignored[f"{CORRECTIONS}/{as_text(file)}"] = NOT_ASKED
            continue
        if not form or not form.newest:
            raise DataError(
                f"{folder / file} is not a file of corrections (a column {BY} is missing, or one of labels): put it "
                "beside the annotations, or remove it"
            )
        units.append(_Unit(form, [file], _dated(folder / file), header))
    return units, ignored


def read_annotations(asked: AttributesFile, path: Path, corrections: Path | None = None) -> RawAnnotations:
    """Read an annotation file, or all annotation files of a folder, and merge them (see `stages.validate.merge`).

    Args:
        asked: the wanted attributes.
        path: the file or folder.
        corrections: a folder of corrections, which are newer than everything else.

    Raises:
        DataError: a file cannot be read as a whole or is of no form, or there is none.
    """
    forms = _Forms(asked)
    folder, units, ignored, unseen = _find(forms, path)
    if not any(unit.form.has_labels for unit in units):
        raise _nothing(forms, path, ignored)
    found = [(unit, folder) for unit in units]
    if corrections:
        newest, unread = _corrections(forms, corrections)
        found += [(unit, corrections) for unit in newest]
        ignored |= unread
    found.sort(key=lambda entry: entry[0].age)
    units = [unit for unit, _ in found]
    parts = [unit.form.read(home, unit.files, unit.header) for unit, home in found]
    _call_alike(units, parts)
    rows, replaced, taken, unused = merge(forms.flat.columns, [part.rows for part in parts])
    labels = [name for name in forms.flat.columns[1:] if name in rows]
    rows[labels] = rows[labels].mask(rows[labels] == CANNOT_TELL)
    return RawAnnotations(
        attributes=asked.attributes,
        name=as_text(path.absolute().name),
        header=tuple(dict.fromkeys(name for part in parts for name in part.header)),
        rows=rows,
        broken=pd.DataFrame([row for part in parts for row in part.broken], columns=_LISTED),
        replaced=pd.DataFrame(replaced, columns=_LISTED),
        taken=taken,
        files=[
            AnnotationFile(_called(unit), part.form, len(part.rows) + len(part.broken), unit.dated)
            for unit, part in zip(units, parts, strict=True)
        ],
        ignored=pd.DataFrame(sorted((ignored | unseen).items()), columns=["source", "reason"]),
        notices=[
            *_told(ignored),
            *(line for part in parts for line in part.notices),
            *(_not_annotated(part, unused) for part in parts if unused["source"].isin(part.rows["source"]).any()),
        ],
        published=frozenset(
            source
            for unit, part in zip(units, parts, strict=True)
            if unit.form.published
            for source in {*part.rows["source"], *(row.source for row in part.broken)}
        ),
    )


def _call_alike(units: Sequence[_Unit], parts: Sequence[Part]) -> None:
    """Give images in corrections, which have the names of the files, the spelling of other annotations."""
    ours = [part.rows for unit, part in zip(units, parts, strict=True) if unit.form.newest and "filename" in part.rows]
    others = [part.rows["filename"] for unit, part in zip(units, parts, strict=True)
              if not unit.form.newest and "filename" in part.rows]  # fmt: skip
    if not ours or not others:
        return
    names = list(dict.fromkeys(pd.concat(others).dropna()))
    known = {name_of(name) for name in names}
    unknown = {name for rows in ours for name in rows["filename"].dropna() if name_of(name) not in known}
    called = {name: found[0] for name, found in similar_names(unknown, names).items() if len(found) == 1}
    for rows in ours:
        rows["filename"] = rows["filename"].replace(called)


def count_annotations(asked: AttributesFile, path: Path) -> int:
    """The number of annotations in all files, without reading pairs.

    Raises:
        DataError: there is none, or a file cannot be read.
    """
    forms = _Forms(asked)
    folder, units, ignored, _ = _find(forms, path)
    count = 0
    for unit in units:
        if unit.form.together:
            count += len(unit.files)
        elif unit.form.has_labels:
            part = unit.form.read(folder, unit.files, unit.header)
            count += len(part.rows) + len(part.broken)
    if not count:
        raise _nothing(forms, path, ignored)
    return count


def annotation_files(asked: AttributesFile, path: Path, lots: Collection[str] = ()) -> RawFiles:
    """Files that are read, the oldest first (of pairs, only those of `lots`, if given); and other files of the folder.

    The date of a file is the date in its name (`2026-11-20` or `20261120`), or else its modification time; of two files
    of the same date, the one with the later name is newer. Pairs count as one file, with the date of the newest.
    """
    _, units, ignored, unseen = _find(_Forms(asked), path)
    read = [
        file
        for unit in units
        for file in unit.files
        if not unit.form.together or not lots or lot_of(file.as_posix()) in lots
    ]
    return RawFiles(read, (ignored | unseen).items())


def _nothing(forms: _Forms, path: Path, ignored: Mapping[str, str]) -> DataError:
    line = f"{path} holds no annotations: give {forms.expected}, or a folder of such files"
    found = [(file, forms.recognise(file, read_head(file))[0]) for file in _siblings(path)]
    if beside := [file for file, form in found if form and form.has_labels]:
        line += f"; {beside[0].name} beside it is one: call it annotations.csv, or name it"
    told = _told(ignored)
    return DataError("; ".join([line, *told]))


def _siblings(path: Path) -> list[Path]:
    """Files beside a folder that have a name of annotations."""
    if not path.is_dir():
        return []
    beside = path.absolute().parent.iterdir()
    return sorted(file for file in beside if file.suffix.lower() in NAMED and file.is_file() and not file.is_symlink())


def _not_annotated(part: Part, unused: pd.DataFrame) -> str:
    """Notice about images in a list without labels that are not annotated.

    Raises:
        DataError: none of them is annotated.
    """
    lost = unused[unused["source"].isin(part.rows["source"])]
    source, first = lost[["source", "filename"]].iloc[0]
    if len(lost) == len(part.rows):
        raise DataError(
            f"{source} says where images belong, and none of its {len(lost):,} is annotated, such as {brief(first)}: "
            "use the file names of the annotations there"
        )
    return f"{source}: {len(lost):,} of its {len(part.rows):,} images are not annotated, such as {brief(first)}"


def _told(ignored: Mapping[str, str]) -> list[str]:
    """A line for each reason why files are not read that a person may expect to be: their number, and the first."""
    files: dict[str, list[str]] = {}
    for file, reason in sorted(ignored.items()):
        if reason != NO_FORM:
            files.setdefault(reason, []).append(file)
    return [
        f"{brief(names[0])}{f' and {len(names) - 1} more are' if len(names) > 1 else ' is'} not read: {reason}"
        for reason, names in files.items()
    ]


def _called(unit: _Unit) -> str:
    if unit.form.together:
        return f"{len(unit.files)} csX.csv" if len(unit.files) > 1 else as_text(unit.files[0])
    return as_text(unit.files[0])


def _find(forms: _Forms, path: Path) -> tuple[Path, list[_Unit], dict[str, str], dict[str, str]]:
    """The folder; the files to read, the oldest first; the reason for each file that was opened and is not read.

    And the reason for each file that was not opened (links, hidden files, FIFOs), without images.
    """
    if not path.is_dir():
        start = read_head(path)
        form, header = forms.recognise(path, start)
        if not form and (foreign := foreign_form(start)):
            raise DataError(f"{path} {remedy(foreign, forms.example)}")
        return path.parent, [_Unit(form or forms.flat, [Path(path.name)], _dated(path), header)], {}, {}
    listing = list_folder(path)
    files = sorted(Path(file) for file, why in listing.ignored.items() if why == OTHER_NAME)
    unseen = {
        as_text(file): why
        for file, why in listing.ignored.items()
        if why != OTHER_NAME and suffix_of(file) not in SUFFIXES
    }
    images = {file.rpartition(".")[0] for file in listing.images}
    named = {file for file in files if file.suffix.lower() in NAMED}
    ignored: dict[str, str] = {}
    tables, pairs = [], []
    for file in files:
        start = read_head(path / file)
        form, header = forms.recognise(file, start)
        foreign = "" if form else foreign_form(start)
        is_csv = file.suffix.lower() == ".csv"
        if file not in named:
            reason = NOT_NAMED if form else f"{foreign}, which is not read" if foreign else NO_FORM
            ignored[as_text(file)] = reason
        elif (form and form.together) or (not form and is_csv and str(file.with_suffix("")) in images):
            pairs.append(file)
        elif form:
            if original := original_of(file, named):
                raise DataError(
                    f"{path / file} has the name of a copy of {original.name} beside it, and only one of the two can "
                    "count: remove or rename the other"
                )
            tables.append(_Unit(form, [file], _dated(path / file), header))
        elif is_csv:
            if foreign:
                raise DataError(f"{path / file} {remedy(foreign, forms.example)}")
            read_text(path / file, forms.expected)  # a damaged file gives a better message
            found = brief(", ".join(header.names), 200)
            if set(map(spelling, header.names)) & {"filename", "image_id"}:
                raise DataError(
                    f"{path / file}: no column is a label: found {found}; attributes.yaml asks for "
                    f"{brief(', '.join(forms.flat.columns[1:]), 200)}: rename the column, or change `column` there"
                )
            raise DataError(
                f"{path / file} is not an annotation file: expected {forms.expected}; found {found}; correct it "
                "or move it elsewhere"
            )
        else:
            reason = f"{foreign}, which is not read" if foreign else NUMBERS if is_list(start) else NO_FORM
            ignored[as_text(file)] = reason
    beside = [
        _Unit(form, [Path("..", file.name)], _dated(file), header)
        for file in (_siblings(path) if path.absolute().name == HOME else [])
        for form, header in [forms.recognise(file, read_head(file))]
        if form and not form.has_labels
    ]
    if beside and DVC_STAGE in os.environ:
        name = beside[0].files[0].name
        raise DataError(f"{name} lies beside {path}, where DVC does not see that it changes: move it into that folder")
    tables += beside
    if pairs:
        newest = max(pairs, key=lambda file: (path / file).stat().st_mtime_ns)
        tables.append(_Unit(forms.together, pairs, _modified(path / newest), Header((), ",", 1)))
    return path, sorted(tables, key=lambda unit: unit.age), ignored, unseen


def _modified(path: Path) -> str:
    when = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # sorts as text, and after the date alone


def _dated(path: Path) -> str:
    if found := _MOMENT.findall(path.name):
        day, *time = found[-1]
        return f"{day}T{':'.join(time)}Z"
    for year, _, month, day in reversed(_DATE.findall(path.name)):
        try:
            return datetime.date(int(year), int(month), int(day)).isoformat()
        except ValueError:
            continue  # 20261399 is a number
    return _modified(path)
