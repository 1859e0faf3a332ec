"""The annotated attributes, each with its classes. They are data, and go from artifact to artifact."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stages.common.contract.artifacts import read_json, reading, write_json

FILE = "attributes.json"
"""The file of an artifact that holds its attributes."""

UNKNOWN = -1
"""Class index of a label that is not known; losses and metrics leave it out."""


@dataclass(frozen=True)
class Attribute:
    """One classified property of a face.

    Attributes:
        name: the canonical name, also the column of canonical annotations and the model's output.
        classes: class names; a label is an index into them.
        column: the column of the flat annotation CSV.
        title: its name in reports.
        unknown_when: other attribute -> class of it that makes this attribute unknown; a label is cleared then.
    """

    name: str
    classes: tuple[str, ...]
    column: str
    title: str
    unknown_when: Mapping[str, str] = field(default_factory=dict, hash=False)


Attributes = tuple[Attribute, ...]
"""All attributes of a data set; labels and outputs stand in this order."""


def names(attributes: Attributes) -> tuple[str, ...]:
    """Their names, in their order."""
    return tuple(attribute.name for attribute in attributes)


def difference(ours: Attributes, theirs: Attributes) -> str:
    """The difference of `theirs` from `ours`, in words such as "without eyes, with hat"; order and titles do not count.

    Returns:
        "" if they do not differ.
    """
    here, there = ({attribute.name: attribute.classes for attribute in many} for many in (ours, theirs))
    lacking, more = ([name for name in one if name not in other] for one, other in ((here, there), (there, here)))
    others = [name for name in here if name in there and here[name] != there[name]]
    told = {"without": lacking, "with": more, "with other classes of": others}
    return ", ".join(f"{how} {' and '.join(which)}" for how, which in told.items() if which)


def write_attributes(folder: Path, attributes: Attributes) -> None:
    """Write the attributes into an artifact."""
    write_json(folder / FILE, [asdict(attribute) for attribute in attributes])


def read_attributes(folder: Path) -> Attributes:
    """Read the attributes of an artifact.

    Raises:
        DataError: it has none, or they are not as `write_attributes` writes them.
    """
    path = folder / FILE
    with reading(path):
        found = read_json(path)
        return tuple(Attribute(**{**attribute, "classes": tuple(attribute["classes"])}) for attribute in found)
