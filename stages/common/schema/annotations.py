"""The canonical annotations, as stage `validate` writes them and later stages read them.

annotations.csv has a row an accepted image: filename, lot, path (relative to the raw folder), digest (SHA-256 of the
file), pixels (digest of its picture), group (the same for images that are nearly the same picture; otherwise a digest
of its own), then a column per attribute: class index, empty if unknown. Where the raw annotations say which images
belong together, a group is all of these, called as they call it, and a last column given_group has what they say of the
image; likewise given_split, where they say which split an image is in.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.common.contract.artifacts import reading
from stages.common.contract.errors import DataError
from stages.common.schema.attributes import Attributes, names

ANNOTATIONS = "annotations.csv"
GROUP, SPLIT = "group", "split"
GIVEN = {GROUP: "given_group", SPLIT: "given_split"}
"""Where an image belongs, if somebody says so: column of raw annotations -> column of annotations.csv."""
WORTH_LABELLING = "worth_labelling"
"""The column by which a list of images is known that somebody is to label: in it, a row without labels is none yet."""
CANNOT_TELL = "unknown"
"""The answer of a person who has looked at an image and cannot tell its label: it takes away what older files say."""


def annotation_columns(attributes: Attributes, given: Sequence[str] = ()) -> tuple[str, ...]:
    """The header of annotations.csv; `given` are those of `GIVEN` that the raw annotations say anything of."""
    return ("filename", "lot", "path", "digest", "pixels", "group", *names(attributes), *given)


def annotation_rows(validated: Path, *needed: str) -> Iterator[dict[str, str]]:
    """The rows of the annotations of a `validate` artifact, each column -> cell.

    Raises:
        DataError: there is no such file, or it lacks one of the columns `needed`.
    """
    path = validated / ANNOTATIONS
    with reading(path, "validate"), path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        if missing := sorted(set(needed) - set(rows.fieldnames or ())):
            raise DataError(f"{path} lacks the columns {missing}: run stage validate again")
        yield from rows
