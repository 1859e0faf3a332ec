"""The canonical annotations, as stage `validate` writes them and later stages read them.

annotations.csv has a row an accepted image: filename, lot, path (relative to the raw folder), digest (SHA-256 of the
file), pixels (digest of its picture), group (the same for images that are nearly the same picture; otherwise a digest
of its own), then a column per attribute: class index, empty if unknown.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from stages.common.contract.artifacts import reading
from stages.common.contract.errors import DataError
from stages.common.schema.attributes import Attributes, names

ANNOTATIONS = "annotations.csv"


def annotation_columns(attributes: Attributes) -> tuple[str, ...]:
    """The header of annotations.csv."""
    return ("filename", "lot", "path", "digest", "pixels", "group", *names(attributes))


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
