"""Words in label cells: codes, the names of classes, and words for unknown labels."""

import re
from collections.abc import Callable, Mapping

import pandas as pd

from stages.common.schema.annotations import CANNOT_TELL, GROUP
from stages.common.schema.attributes import Attribute, Attributes

UNKNOWN = frozenset({"-", "--", "\u2013", "\u2014", "?", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "unknown"})
"""Cells for an unknown label, in lower case; an empty cell is unknown, too."""

_SWITCHES = {"no": ("false", "n", "f"), "yes": ("true", "y", "t")}
_NUMBER = re.compile(r"([0-9]{1,4})(?:[.,]0*)?(?:e\+?0+)?")
_FLOAT = re.compile(r"([0-9]+)[.,]0*")
_QUOTED = re.compile(r"[\"'\u2018-\u201e\u00ab\u00bb](.*)[\"'\u2018-\u201e\u00ab\u00bb]")
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"


def tidy(cell: str) -> str:
    """A cell without blanks, byte order marks and typographic quotes around it."""
    text = cell.strip(f"{_INVISIBLE} \t\r\n\f\v\u00a0\u202f\u3000")
    quoted = _QUOTED.fullmatch(text)
    return quoted[1].strip() if quoted else text


def codes_of(attribute: Attribute) -> dict[str, str]:
    """Word in lower case -> class index as text: names of the classes, and true and false for yes and no."""
    codes = {word: str(index) for index, name in enumerate(attribute.classes) for word in _SWITCHES.get(name, ())}
    return codes | {name.casefold(): str(index) for index, name in enumerate(attribute.classes)}


def read_words(
    attributes: Attributes, cells: pd.DataFrame, *, answers: bool = False
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Tidy all cells, and read those of labels: a class by its name or its index, `1.0` as `1`, `NA` as unknown.

    pandas writes integer columns with gaps as `1.0`, and a spreadsheet may turn it into `1,0` or `1.00E+00`. Other
    cells stay as they are, and the suite rejects them.

    Args:
        attributes: attributes with their names of classes.
        cells: text; all columns but `filename` and `group` hold labels.
        answers: whether people who saw the pictures gave the labels, so that `CANNOT_TELL` is an answer, and stays.

    Returns:
        The cells, missing where unknown; and word -> number of cells that were read as unknown, without empty cells.
    """
    unknown: dict[str, int] = {}
    known = {CANNOT_TELL: CANNOT_TELL} if answers else {}
    codes = {attribute.column: known | codes_of(attribute) for attribute in attributes}

    def read(values: "pd.Series[str]", meaning: Callable[[str], str]) -> "pd.Series[str]":
        counts = values.value_counts()  # few distinct cells for any number of rows
        found = {value: meaning(value) for value in counts.index}
        for value, text in found.items():
            if not text and (word := tidy(value)):
                unknown[word] = unknown.get(word, 0) + int(counts[value])
        return values.map(found).astype("str")

    def meaning_of(column: str) -> Callable[[str], str]:
        return _group if column == GROUP else _reader(codes.get(column, {}))

    read_cells = {name: values.map(tidy) if name == "filename" else read(values, meaning_of(str(name)))
                  for name, values in cells.items()}  # fmt: skip
    table = pd.DataFrame(read_cells, cells.index, columns=cells.columns, dtype="str")
    return table.mask(table == ""), unknown


def _group(cell: str) -> str:
    """The name of a group, any text: `2880.0`, as pandas writes 2880, becomes 2880; 007 is not 7."""
    text = tidy(cell)
    number = _FLOAT.fullmatch(text)
    return "" if text.casefold() in UNKNOWN else number[1] if number else text


def _reader(codes: Mapping[str, str]) -> Callable[[str], str]:
    def meaning(cell: str) -> str:
        text = tidy(cell)
        word = text.casefold()
        if word in codes:
            return codes[word]
        if word in UNKNOWN:
            return ""
        number = _NUMBER.fullmatch(word)
        return str(int(number[1])) if number else text

    return meaning
