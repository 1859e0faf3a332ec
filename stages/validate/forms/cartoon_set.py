"""Cartoon Set: what its variants mean for the five attributes, and the pairs it is shipped in.

The sets (https://google.github.io/cartoonset/) ship `csX.png` with a `csX.csv` beside it, one line an attribute:
`"facial_hair", 14, 15` is name, variant, number of variants. Which variant shows a beard, a long haircut and so on was
settled by looking at them; the glasses and hair-colour rules agree with 5,113 rows that carry both forms.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages.common.contract.errors import DataError
from stages.common.contract.logs import Progress
from stages.common.images.listing import SUFFIXES, as_text
from stages.validate.forms.header import Header
from stages.validate.forms.part import COLUMNS, Broken, Form, Part, with_places
from stages.validate.forms.text import brief, csv_records, read_text

VARIANTS = {"facial_hair": 15, "glasses": 12, "hair_color": 10, "hair": 111}
"""Attributes that decide a label, with their number of variants."""

PAIRS = "Cartoon Set pairs"

_NO_BEARD = {1, 5, 14}
_MUSTACHE = {0, 2, 3, 5, 6, 7, 8, 9, 10, 11}
_NO_GLASSES = {11}
_HAIR_COLORS = (0, 0, 2, 1, 0, 1, 1, 3, 4, 4)  # of variants 0 to 9: blond, blond, red, brown, blond, ...
_BALD = {0, 1, 2, 108, 109, 110}
_SHORT = {
    *(8, 11, 12, 14, *range(17, 24), 31, 32, 39, *range(43, 47), *range(49, 55), 61, 62, 66, *range(72, 75), 76, 77),
    *(83, 89, 92, 99, 105, 107),
}

CLASSES: dict[str, tuple[str, list[int]]] = {
    "beard": ("facial_hair", [int(v not in _NO_BEARD) for v in range(15)]),
    "mustache": ("facial_hair", [int(v in _MUSTACHE) for v in range(15)]),
    "glasses_binary": ("glasses", [int(v not in _NO_GLASSES) for v in range(12)]),
    "hair_color_label": ("hair_color", list(_HAIR_COLORS)),
    "hair_length": ("hair", [0 if v in _BALD else 1 if v in _SHORT else 2 for v in range(111)]),
}
"""Column of the flat CSV -> the attribute that decides it, and the class index of each of its variants."""


def labels_of(variants: pd.DataFrame) -> pd.DataFrame:
    """Map variants to class indices.

    Args:
        variants: one row a face, a column for those of `VARIANTS` that are known; variants as text, missing if unknown.

    Returns:
        The columns of `CLASSES` that can be told, class indices as text, missing where unknown. A bald face has no hair
        colour, whatever the file says. A variant that the set does not have becomes `name=variant`, which is no class,
        so that the suite rejects it.
    """
    labels = pd.DataFrame(index=variants.index)
    for column, (name, classes) in CLASSES.items():
        if name in variants:
            known = variants[name].map({str(variant): str(index) for variant, index in enumerate(classes)})
            labels[column] = known.astype("str").fillna(f"{name}=" + variants[name])
    if {"hair_length", "hair_color_label"} <= set(labels):
        labels["hair_color_label"] = labels["hair_color_label"].mask(labels["hair_length"] == "0")
    return labels


def read_pairs(folder: Path, files: Sequence[Path], _header: Header) -> Part:
    """Read the `csX.csv` of pairs; the image meant is `csX.png` in the same folder, or the `csX.jpg` that lies there.

    Args:
        folder: where annotations lie.
        files: relative to it. One that is not in the form becomes one broken annotation.
    """
    names, sources, variants = [], [], []
    broken: list[Broken] = []
    progress = Progress(len(files), "annotation files")
    for path in files:
        source = as_text(path)
        suffix = next((one for one in (".png", *sorted(SUFFIXES)) if (folder / path.with_suffix(one)).exists()), ".png")
        image = source.with_suffix(suffix).as_posix()
        try:
            variants.append(_read_variants(folder / path))
            names.append(image)
            sources.append(source.as_posix())
        except (DataError, ValueError) as error:
            reason = str(error).removeprefix(f"{folder / path}").lstrip(", ")
            broken.append(Broken(source.as_posix(), 1, image, f"not a Cartoon Set annotation: {reason}"))
        progress.advance()
    cells = labels_of(pd.DataFrame(variants, columns=list(VARIANTS), dtype="str"))
    cells.insert(0, "filename", names)
    return Part(PAIRS, COLUMNS, with_places(cells, sources, [1] * len(names)), broken)


def _read_variants(path: Path) -> dict[str, str]:
    variants: dict[str, str] = {}
    for line, fields in csv_records(read_text(path, 'lines of "attribute", variant, number of variants'), ",", path):
        if len(fields) != 3:
            raise ValueError(f'line {line} is not "attribute", variant, number of variants')
        name = fields[0].strip().strip('"')
        if name not in VARIANTS:
            continue
        try:
            variant, count = int(fields[1]), int(fields[2])
        except ValueError as error:
            raise ValueError(f"line {line}: {brief(fields[1])} of {brief(fields[2])} is no variant") from error
        if count != VARIANTS[name]:
            raise ValueError(f"{name} has {count} variants in place of {VARIANTS[name]}: another version of the set")
        if name in variants:
            raise ValueError(f"{name} stands there twice")
        variants[name] = str(variant)
    if not variants:
        raise ValueError(f"none of {', '.join(VARIANTS)} in it")
    return variants


def _recognises(header: Header, _start: str) -> bool:
    return len(header.names) == 3 and all(name.isdecimal() for name in header.names[1:])


PAIRS_FORM = Form(PAIRS, _recognises, read_pairs, published=True)
