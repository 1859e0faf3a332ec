"""CelebA's attribute list, and what its 40 yes/no attributes tell of the five.

`list_attr_celeba.txt` (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html) holds the number of images, the names of the
attributes, then a line an image: its name and 1 or -1 per attribute, separated by blanks. The same table also goes
round as a CSV with the header `image_id,5_o_Clock_Shadow,...`. Which attributes map, and how, stands in data/README.md.
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
from stages.validate.forms.header import Header, name_images, spelling
from stages.validate.forms.part import COLUMNS, Broken, Form, Part, taken_as_unknown, whole_records, with_places
from stages.validate.forms.text import brief, lines_of, read_text
from stages.validate.forms.words import UNKNOWN

_NAMES = """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young
"""
ATTRIBUTES = frozenset(_NAMES.split())
"""The 40 attributes."""

HAIR_COLORS = {"Blond_Hair": 0, "Brown_Hair": 1, "Black_Hair": 3, "Gray_Hair": 4}
"""Attribute -> class index of the hair colour; CelebA knows no red hair."""

MAPPED = ("Eyeglasses", "Mustache", "No_Beard", "Goatee", "Bald", *HAIR_COLORS)
"""The attributes that are read."""

IMAGE_COLUMNS = ("image_id", "filename")
"""What the column of image names is called in the CSV."""

LIST = "CelebA's list_attr_celeba.txt"
TABLE = "CelebA's attributes as CSV"

_EXPECTED = "the number of images, the attribute names, then a line an image, as in list_attr_celeba.txt"
_YES_NO = frozenset({"1", "-1"})

_SOURCES = {
    "beard": ("No_Beard", "Goatee"),
    "mustache": ("Mustache",),
    "glasses_binary": ("Eyeglasses",),
    "hair_color_label": (*HAIR_COLORS, "Bald"),
    "hair_length": ("Bald",),
}
"""Label -> the attributes that it is told from; if one of them is not given, neither is the label."""


def labels_of(yes: Mapping[str, Any], given: Mapping[str, Any]) -> pd.DataFrame:
    """Map CelebA's attributes to class indices.

    Args:
        yes: attribute of `MAPPED` -> bool array of shape (images,).
        given: likewise, where the list says yes or no.

    Returns:
        The label columns of the flat CSV as text, missing where CelebA does not tell: the beard of No_Beard with a
        Goatee, hair colour unless exactly one is named and the face is not bald, hair length but bald.
    """
    colors = np.stack([yes[name] for name in HAIR_COLORS], axis=1)
    one_color = colors.sum(axis=1) == 1
    contradictory = yes["No_Beard"] & yes["Goatee"]
    labels = {
        "beard": np.where(contradictory, -1, ~yes["No_Beard"]),
        "mustache": yes["Mustache"],
        "glasses_binary": yes["Eyeglasses"],
        "hair_color_label": np.where(
            one_color & ~yes["Bald"], np.array([*HAIR_COLORS.values()])[colors.argmax(axis=1)], -1
        ),
        "hair_length": np.where(yes["Bald"], 0, -1),
    }
    for number, what in (
        (contradictory.sum(), "No_Beard and a Goatee: beard unknown"),
        ((colors.sum(axis=1) > 1).sum(), "several hair colours: hair colour unknown"),
    ):
        if number:
            log.info("%d CelebA annotations with %s", number, what)
    for column, names in _SOURCES.items():
        labels[column] = np.where(np.logical_and.reduce([given[name] for name in names]), labels[column], -1)
    text = pd.Series({-1: None, **{index: str(index) for index in range(5)}}, dtype="str")
    return pd.DataFrame({column: text.reindex(values.astype(int)).array for column, values in labels.items()})


def read_list(folder: Path, files: Sequence[Path], _header: Header) -> Part:
    """Read `list_attr_celeba.txt`.

    Args:
        folder: where it lies.
        files: the one file, relative to it.

    Raises:
        DataError: it is not in the form, or its first line gives another number of images than there are.
    """
    path, source = folder / files[0], as_text(files[0]).as_posix()
    lines = enumerate(map(str.split, lines_of(read_text(path, _EXPECTED))), start=1)
    records = ((line, fields) for line, fields in lines if fields)
    _, first = next(records, (0, []))
    _, names = next(records, (0, []))
    if ATTRIBUTES.intersection(first):
        raise DataError(f"{path}: the first line should be the number of images, found {brief(' '.join(first))}")
    part = _read(path, source, LIST, ("image_id", *names), records)
    rows = len(part.rows) + len(part.broken)
    if first != [str(rows)]:
        raise DataError(
            f"{path}: the first line says {brief(' '.join(first))} images, {rows} lines follow the attribute names: "
            "the file was cut short, or the first line was not adapted: fetch it again, or mend the first line"
        )
    return part


def read_table(folder: Path, files: Sequence[Path], header: Header) -> Part:
    """Read the CSV of the same table.

    Args:
        folder: where it lies.
        files: the one file, relative to it.
        header: its header.

    Raises:
        DataError: it is no CSV, or a column is missing.
    """
    path, source = folder / files[0], as_text(files[0]).as_posix()
    text = read_text(path, f"a CSV with the columns {IMAGE_COLUMNS[0]}, {', '.join(MAPPED)}")
    names, records = name_images(header.names, header.records(text, path), IMAGE_COLUMNS)
    part = _read(path, source, TABLE, names, records)
    part.notices[:0] = header.notices(source)
    return part


def _read(
    path: Path, source: str, form: str, header: tuple[str, ...], records: Iterable[tuple[int, list[str]]]
) -> Part:
    image = next((name for name in IMAGE_COLUMNS if name in header), IMAGE_COLUMNS[0])
    missing = [name for name in (image, *MAPPED) if name not in header]
    twice = sorted({name for name in header if name in {image, *ATTRIBUTES} and header.count(name) > 1})
    if missing or twice:
        what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(twice)} more than once"
        found = brief(", ".join(header), 200)
        raise DataError(
            f"{path}: the line of attribute names {what}: restore CelebA's own line of names; found {found}"
        )
    name_at = header.index(image)
    read = [name for name in header if name in ATTRIBUTES]
    values_of = itemgetter(*(header.index(name) for name in read))
    mapped = itemgetter(*(read.index(name) for name in MAPPED))

    filenames, lines, answers = [], [], []
    broken: list[Broken] = []
    unknown: dict[str, int] = {}
    for line, fields in whole_records(records, header, name_at, source, broken):
        values = values_of(fields)
        if not _YES_NO.issuperset(values):
            values = tuple(value.strip() for value in values)
            absent = [value for value in values if not value or value.casefold() in UNKNOWN]
            odd = next((pair for pair in zip(read, values, strict=True) if pair[1] not in {*_YES_NO, *absent}), None)
            if odd:
                reason = f"{odd[0]} is neither 1 nor -1 (found {brief(odd[1])})"
                broken.append(Broken(source, line, fields[name_at].strip(), reason))
                continue
            for value in absent:
                unknown[value] = unknown.get(value, 0) + 1
        filenames.append(fields[name_at].strip())
        lines.append(line)
        answers.append(mapped(values))
    said = np.array(answers, dtype="U2").reshape(-1, len(MAPPED))
    yes = {name: said[:, column] == "1" for column, name in enumerate(MAPPED)}
    cells = labels_of(yes, {name: yes[name] | (said[:, column] == "-1") for column, name in enumerate(MAPPED)})
    cells.insert(0, "filename", pd.Series(filenames, dtype="str").replace("", None))
    return Part(form, COLUMNS, with_places(cells, source, lines), broken, taken_as_unknown(source, unknown))


def _names_attributes(names: Iterable[str]) -> bool:
    return len(ATTRIBUTES.intersection(names)) > 2


def _recognises_list(_header: Header, start: str) -> bool:
    first = [line for line in re.split(r"[\r\n]+", start) if line.strip(",; \t")][:2]
    return any(_names_attributes(line.split()) for line in first)


def _recognises_table(header: Header, _start: str) -> bool:
    flat = set(COLUMNS) <= set(map(spelling, header.names))
    return _names_attributes(header.names) and not flat


LIST_FORM = Form(LIST, _recognises_list, read_list, published=True)
TABLE_FORM = Form(TABLE, _recognises_table, read_table, published=True)
