"""Which image falls into which split, and which is left out of it."""

import hashlib
from collections.abc import Iterable

from stages.prepare_train.params import DataSection
from stages.prepare_train.statistics import Row

KEEPS = ("train", "test", "val")
"""Which split of a group of nearly the same pictures keeps its images; the others leave theirs out."""


def assign_split(pixels: str, data: DataSection) -> str:
    """The split ("train", "val" or "test") of a picture, from a hash of what it shows.

    It depends on the picture of the file and not on its name, so the same picture under two names cannot stand in train
    and test at once. And since it depends on nothing but the picture, the fractions and the seed, neither new data nor
    other settings of the preprocessing move an old image.

    Args:
        pixels: digest of the picture, `stages.common.images.decode.Decoded.pixels`.
        data: fractions and seed.
    """
    position = int(hashlib.sha256(f"{data.seed}:{pixels}".encode()).hexdigest()[:16], 16) / 2**64
    if position < data.train_split:
        return "train"
    # the last part is taken by what is left, so that rounding of the fractions loses no image
    return "val" if position < data.train_split + data.val_split else "test"


def leave_out(rows: Iterable[Row]) -> dict[str, str]:
    """Images that would be judged by a network that has learned from nearly the same picture, or chosen by one.

    Of a group, the training images stay. If it has none, those of the test split do, so that a validation image leaves
    and versions go on being compared on the same test images.

    Returns:
        File name -> reason, in the order of the rows.
    """
    rows = list(rows)
    stays: dict[str, Row] = {}  # group -> its first image in the split that keeps it
    for row in rows:
        if row.group not in stays or KEEPS.index(row.split) < KEEPS.index(stays[row.group].split):
            stays[row.group] = row
    return {
        row.filename: f"{row.split} image, nearly the same picture as {kept.filename} of {kept.split}"
        for row in rows
        if (kept := stays[row.group]).split != row.split
    }
