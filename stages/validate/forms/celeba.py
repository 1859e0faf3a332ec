"""CelebA's attribute list, and the mapping of its 40 yes/no attributes to the wanted attributes.

`list_attr_celeba.txt` (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html) has the number of images, the names of the
attributes, then a line per image: its name and 1 or -1 per attribute, separated by blanks. The same table also exists
as a CSV with the header `image_id,5_o_Clock_Shadow,...`. attributes.yaml has the mapping.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.common.contract.errors import DataError
from stages.common.contract.logs import log
from stages.common.images.listing import as_text
from stages.validate.attributes_file import CELEBA, AttributesFile
from stages.validate.forms.header import Header, name_images, spelling
from stages.validate.forms.part import (
    Broken,
    Form,
    Part,
    columns_shown,
    taken_as_unknown,
    whole_records,
    with_places,
    without_untellable,
)
from stages.validate.forms.text import brief, lines_of, read_text
from stages.validate.forms.words import UNKNOWN

IMAGE_COLUMNS = ("image_id", "filename")
"""Names that the column of image names may have in the CSV."""

_EXPECTED = "the number of images, the attribute names, then a line per image, as in list_attr_celeba.txt"
_YES_NO = frozenset({"1", "-1"})


def told_by(asked: AttributesFile) -> tuple[str, ...]:
    """CelebA's attributes that occur in the mapping."""
    conditions = (condition for rules in asked.celeba.values() for some in rules.values() for condition in some)
    return tuple(dict.fromkeys(condition.removeprefix("-") for condition in conditions))


def labels_of(asked: AttributesFile, yes: Mapping[str, Any], given: Mapping[str, Any], images: int) -> pd.DataFrame:
    """Map CelebA's attributes to class indices.

    Args:
        asked: the mapping.
        yes: attribute of `told_by` -> bool array of shape (images,).
        given: likewise, whether the list has yes or no.
        images: number of images.

    Returns:
        The label columns of the flat CSV as text. A label is missing if no class or several classes of the attribute
        hold, or if CelebA has neither yes nor no for an attribute in its conditions.
    """
    labels = {}
    for attribute in asked.attributes:
        number = np.full(images, -1)
        if rules := asked.celeba.get(attribute.name):
            holds = np.stack([_all_hold(conditions, yes) for conditions in rules.values()])
            index = np.array([attribute.classes.index(name) for name in rules])
            known = np.logical_and.reduce([given[name.removeprefix("-")] for some in rules.values() for name in some])
            number = np.where((holds.sum(axis=0) == 1) & known, index[holds.argmax(axis=0)], -1)
            if several := int((holds.sum(axis=0) > 1).sum()):
                log.info("%d CelebA annotations with several classes of %s: unknown", several, attribute.name)
        text = pd.Series({-1: None, **{index: str(index) for index in range(len(attribute.classes))}}, dtype="str")
        labels[attribute.column] = text.reindex(number).array
    return without_untellable(asked.attributes, pd.DataFrame(labels))


def _all_hold(conditions: Sequence[str], yes: Mapping[str, Any]) -> Any:
    held = [~yes[name[1:]] if name.startswith("-") else yes[name] for name in conditions]
    return np.logical_and.reduce(held)


class _CelebA(Form):
    """The table, in either form."""

    published = True

    def is_column(self, name: str) -> bool:
        """Whether it is one of CelebA's attributes."""
        return name in CELEBA

    def _read(self, path: Path, source: str, header: tuple[str, ...], records: Iterable[tuple[int, list[str]]]) -> Part:
        mapped = told_by(self.asked)
        if not mapped:
            raise DataError(
                f"{path} is {self.name}, and attributes.yaml maps it to no attribute: add, for "
                "instance, `celeba: Smiling` to one"
            )
        image = next((name for name in IMAGE_COLUMNS if name in header), IMAGE_COLUMNS[0])
        missing = [name for name in (image, *mapped) if name not in header]
        twice = sorted({name for name in header if name in {image, *CELEBA} and header.count(name) > 1})
        if missing or twice:
            what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(twice)} more than once"
            found = brief(", ".join(header), 200)
            raise DataError(
                f"{path}: the line of attribute names {what}: restore CelebA's own line of names; found {found}"
            )
        name_at = header.index(image)
        read = [name for name in header if name in CELEBA]
        values_of = itemgetter(*(header.index(name) for name in read))
        mapped_of = itemgetter(*(read.index(name) for name in mapped))

        filenames, lines, answers = [], [], []
        broken: list[Broken] = []
        unknown: dict[str, int] = {}
        for line, fields in whole_records(records, header, name_at, source, broken):
            values = values_of(fields)
            if not _YES_NO.issuperset(values):
                values = tuple(value.strip() for value in values)
                absent = [value for value in values if not value or value.casefold() in UNKNOWN]
                odd = next(
                    (pair for pair in zip(read, values, strict=True) if pair[1] not in {*_YES_NO, *absent}), None
                )
                if odd:
                    reason = f"{odd[0]} is neither 1 nor -1 (found {brief(odd[1])})"
                    broken.append(Broken(source, line, fields[name_at].strip(), reason))
                    continue
                for value in absent:
                    unknown[value] = unknown.get(value, 0) + 1
            filenames.append(fields[name_at].strip())
            lines.append(line)
            answers.append(mapped_of(values))
        said = np.array(answers, dtype="U2").reshape(-1, len(mapped))
        yes = {name: said[:, column] == "1" for column, name in enumerate(mapped)}
        given = {name: yes[name] | (said[:, column] == "-1") for column, name in enumerate(mapped)}
        cells = labels_of(self.asked, yes, given, len(lines))
        cells.insert(0, "filename", pd.Series(filenames, dtype="str").replace("", None))
        rows = with_places(self.columns, cells, source, lines)
        return Part(self.name, self.columns, rows, broken, taken_as_unknown(source, unknown))


class CelebAList(_CelebA):
    """`list_attr_celeba.txt`; refused if its first line gives another number of images than there are."""

    name = "CelebA's list_attr_celeba.txt"

    @property
    def expected(self) -> str:
        """Its file."""
        return self.name if self.asked.celeba else ""

    def recognises(self, _header: Header, start: str) -> bool:
        """Whether its first or second line names the attributes, between blanks."""
        first = [line for line in re.split(r"[\r\n]+", start) if line.strip(",; \t")][:2]
        return any(_names_attributes(line.split()) for line in first)

    def read(self, folder: Path, files: Sequence[Path], _header: Header) -> Part:
        """Read the one file."""
        path, source = folder / files[0], as_text(files[0])
        lines = enumerate(map(str.split, lines_of(read_text(path, _EXPECTED))), start=1)
        records = ((line, fields) for line, fields in lines if fields)
        _, first = next(records, (0, []))
        _, names = next(records, (0, []))
        if CELEBA.intersection(first):
            raise DataError(f"{path}: the first line should be the number of images, found {brief(' '.join(first))}")
        part = self._read(path, source, ("image_id", *names), records)
        rows = len(part.rows) + len(part.broken)
        if first != [str(rows)]:
            raise DataError(
                f"{path}: the first line says {brief(' '.join(first))} images, {rows} lines follow the attribute "
                "names: the file was cut short, or the first line was not adapted: fetch it again, or correct the "
                "first line"
            )
        return part


class CelebATable(_CelebA):
    """The CSV of the same table."""

    name = "CelebA's attributes as CSV"

    def recognises(self, header: Header, _start: str) -> bool:
        """Whether its header names the attributes, all of them, or such that a flat CSV would not have."""
        flat = set(map(spelling, self.columns)) <= set(map(spelling, header.names))
        return _names_attributes(header.names) and (set(header.names) >= CELEBA or not flat)

    def read(self, folder: Path, files: Sequence[Path], header: Header) -> Part:
        """Read the one file."""
        path, source = folder / files[0], as_text(files[0])
        text = read_text(path, f"a CSV with the columns {columns_shown((IMAGE_COLUMNS[0], *told_by(self.asked)))}")
        names, records = name_images(header.names, header.records(text, path), IMAGE_COLUMNS)
        part = self._read(path, source, names, records)
        part.notices[:0] = header.notices(source)
        return part


def _names_attributes(names: Iterable[str]) -> bool:
    return len(CELEBA.intersection(names)) > 2
