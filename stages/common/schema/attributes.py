"""The five attributes: their names, classes and raw columns. They are written down here and nowhere else."""

from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")

UNKNOWN = -1
"""Class index of a label that is not known; losses and metrics leave it out."""


@dataclass(frozen=True)
class Attribute:
    """One classified property of a face.

    Attributes:
        name: the canonical name, also the column of canonical annotations and the model's output.
        classes: class names; a label is an index into them.
        column: the column of the flat annotation CSV.
        title: what reports print.
    """

    name: str
    classes: tuple[str, ...]
    column: str
    title: str


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("beard", ("no", "yes"), "beard", "Beard"),
    Attribute("mustache", ("no", "yes"), "mustache", "Mustache"),
    Attribute("glasses", ("no", "yes"), "glasses_binary", "Glasses"),
    Attribute("hair_color", ("blond", "brown", "red", "dark", "gray"), "hair_color_label", "Hair colour"),
    Attribute("hair_length", ("bald", "short", "long"), "hair_length", "Hair length"),
)

NAMES: tuple[str, ...] = tuple(attribute.name for attribute in ATTRIBUTES)


def name_every_attribute(values: dict[str, Value]) -> dict[str, Value]:
    """The same mapping of attribute names; a parameter's validator.

    Raises:
        ValueError: a name is missing, or it is no attribute's.
    """
    if sorted(values) != sorted(NAMES):
        raise ValueError(f"expected exactly the keys {', '.join(NAMES)}")
    return values
