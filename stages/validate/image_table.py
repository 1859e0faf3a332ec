"""The table that the suite `images` checks: annotation rows joined with the properties of their images."""

from pathlib import PurePosixPath

import pandas as pd

from stages.common.schema.attributes import Attributes
from stages.validate.duplicates import Duplicates, find_duplicates
from stages.validate.table import labelled_columns

FORMATS = {".png": {"PNG"}, ".jpg": {"JPEG", "MPO"}, ".jpeg": {"JPEG", "MPO"}}
"""Formats that a suffix may have; a phone's MPO is a JPEG with more data behind it."""


def images_to_inspect(table: pd.DataFrame) -> dict[str, str]:
    """Path -> lot of the images that rows name unambiguously, with exactly one file.

    Args:
        table: `stages.validate.table.join_images`, or some rows of it.
    """
    named = table[table["files"] == 1]
    return dict(zip(named["path"], named["lot"], strict=True))


def image_table(
    attributes: Attributes, table: pd.DataFrame, facts: pd.DataFrame, near_duplicate_bits: int
) -> tuple[pd.DataFrame, Duplicates]:
    """Join annotation rows with the properties of their images.

    Args:
        attributes: the annotated attributes.
        table: rows of `stages.validate.table.join_images`.
        facts: `stages.validate.inspection.inspect_images` of `images_to_inspect(table)`.
        near_duplicate_bits: images whose perceptual hashes differ in at most so many of 256 bits are near duplicates.

    Returns:
        A row per annotation, with the index of `table` and the columns of the suite, missing without a picture: `path`,
        `files`, `ambiguous`, `other_name`, `problem`, `width`, `height`, `shorter_side`, `aspect_ratio` (longer by
        shorter side), `format`, `other_format` (`format` if the name promises another), `mode`, `duplicate_of` (but
        not in contradicting rows), `near_duplicate_of` and `contradicts`. And the relations between the images.
    """
    named = table[table["files"] == 1].drop_duplicates("path").set_index("path")
    labels = named[labelled_columns(attributes, table)].reindex(facts.index)
    duplicates = find_duplicates(facts, labels, near_duplicate_bits)
    found = facts.drop(columns=["digest", "pixels", "cropped", "hash"]).join(duplicates.columns)
    found["duplicate_of"] = found["duplicate_of"].mask(found["contradicts"].notna())
    sides = found[["width", "height"]]
    found["shorter_side"] = sides.min(axis=1)
    found["aspect_ratio"] = (sides.max(axis=1) / sides.min(axis=1)).astype("Float64")
    promised = [FORMATS.get(PurePosixPath(path).suffix.lower(), set()) for path in found.index]
    kept = [kind in formats for kind, formats in zip(found["format"], promised, strict=True)]
    found["other_format"] = found["format"].mask(pd.Series(kept, found.index, dtype="bool"))
    result = table[["path", "files", "ambiguous", "other_name"]].join(found, on="path")
    return result, duplicates
