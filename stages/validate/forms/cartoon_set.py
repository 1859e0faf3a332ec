"""Cartoon Set: the meaning of its variants for the attributes, and its pairs of files.

The sets (https://google.github.io/cartoonset/) have `csX.png` with a `csX.csv` beside it, a line per attribute:
`"facial_hair", 14, 15` is name, variant, number of variants. attributes.yaml assigns variants to classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from stages.common.contract.errors import DataError
from stages.common.contract.logs import Progress
from stages.common.images.listing import SUFFIXES, as_text
from stages.validate.attributes_file import AttributesFile
from stages.validate.forms.header import Header
from stages.validate.forms.part import Broken, Form, Part, with_places, without_untellable
from stages.validate.forms.text import brief, csv_records, read_text


def variants_of(asked: AttributesFile) -> dict[str, int]:
    """The set's attributes that decide a label -> number of their variants."""
    return {rule.attribute: len(rule.classes) for rule in asked.cartoon_set.values()}


def labels_of(asked: AttributesFile, variants: pd.DataFrame) -> pd.DataFrame:
    """Map variants to class indices.

    Args:
        asked: classes of the variants.
        variants: a row per face, a column for each known attribute of `variants_of`; variants as text, missing if
            unknown.

    Returns:
        Columns of the flat CSV that follow from the set, class indices as text, missing where unknown. A variant that
        the set does not have becomes `name=variant`, which is not a class, so the suite rejects it.
    """
    labels = pd.DataFrame(index=variants.index)
    for attribute in asked.attributes:
        rule = asked.cartoon_set.get(attribute.name)
        if not rule:
            labels[attribute.column] = pd.Series(pd.NA, variants.index, dtype="str")
        elif rule.attribute in variants:
            cells = variants[rule.attribute]
            known = cells.map({str(variant): str(index) for variant, index in enumerate(rule.classes)})
            labels[attribute.column] = known.astype("str").fillna(f"{rule.attribute}=" + cells)
    return without_untellable(asked.attributes, labels)


class CartoonSetPairs(Form):
    """`csX.csv` beside the image `csX.png` or `csX.jpg`; a broken file is a broken annotation."""

    name = "Cartoon Set pairs"
    published = True
    together = True

    @property
    def expected(self) -> str:
        """Its files, for messages."""
        return "csX.csv beside csX.png" if self.asked.cartoon_set else ""

    def recognises(self, header: Header, _start: str) -> bool:
        """Whether it begins with name, variant and number of variants."""
        return len(header.names) == 3 and all(name.isdecimal() for name in header.names[1:])

    def read(self, folder: Path, files: Sequence[Path], _header: Header) -> Part:
        """Read all pairs of a folder."""
        names, sources, variants = [], [], []
        broken: list[Broken] = []
        progress = Progress(len(files), "annotation files")
        counts = variants_of(self.asked)
        for path in files:
            source = as_text(path)
            ends = (suffix for suffix in (".png", *sorted(SUFFIXES)) if (folder / path.with_suffix(suffix)).exists())
            image = as_text(path.with_suffix(next(ends, ".png")))
            try:
                variants.append(_read_variants(folder / path, counts))
                names.append(image)
                sources.append(source)
            except (DataError, ValueError) as error:
                reason = str(error).removeprefix(f"{folder / path}").lstrip(", ")
                broken.append(Broken(source, 1, image, f"not a Cartoon Set annotation: {reason}"))
            progress.advance()
        cells = labels_of(self.asked, pd.DataFrame(variants, columns=list(counts), dtype="str"))
        cells.insert(0, "filename", names)
        rows = with_places(self.columns, cells, sources, [1] * len(names))
        return Part(self.name, self.columns, rows, broken)


def _read_variants(path: Path, counts: Mapping[str, int]) -> dict[str, str]:
    variants: dict[str, str] = {}
    for line, fields in csv_records(read_text(path, 'lines of "attribute", variant, number of variants'), ",", path):
        if len(fields) != 3:
            raise ValueError(f'line {line} is not "attribute", variant, number of variants')
        name = fields[0].strip().strip('"')
        if name not in counts:
            continue
        try:
            variant, count = int(fields[1]), int(fields[2])
        except ValueError as error:
            raise ValueError(f"line {line}: {brief(fields[1])} of {brief(fields[2])} is not a variant") from error
        if count != counts[name]:
            raise ValueError(f"{name} has {count} variants in place of {counts[name]}: another version of the set")
        if name in variants:
            raise ValueError(f"{name} stands there twice")
        variants[name] = str(variant)
    if not variants:
        raise ValueError(f"none of {', '.join(counts)} in it" if counts else "attributes.yaml says cartoon_set nowhere")
    return variants
