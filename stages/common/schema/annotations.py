"""The canonical annotations, as stage `validate` writes them and later stages read them.

annotations.csv has a row per accepted image: filename, lot, path (relative to the raw folder), digest (SHA-256 of the
file), pixels (digest of its picture), group (the same for near duplicates; otherwise a digest of its own), then a
column per attribute: class index, empty if unknown. If the raw annotations have groups, a group has their name and all
their images, and a further column given_group has the group that they give for the image. Likewise, given_split has the
split that they give.
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
"""Given groups and splits: column of raw annotations -> column of annotations.csv."""
WORTH_LABELLING = "worth_labelling"
"""Column that marks a list of images to label: a row without labels in such a list is not an annotation yet."""
CANNOT_TELL = "unknown"
"""Answer of a person who inspected an image and cannot tell its label: it removes the label of older files."""


def annotation_columns(attributes: Attributes, given: Sequence[str] = ()) -> tuple[str, ...]:
    """The header of annotations.csv; `given` are the columns of `GIVEN` that the raw annotations have."""
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
