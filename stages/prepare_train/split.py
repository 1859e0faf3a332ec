"""The split of each image, and images that are left out."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from stages.common.contract.errors import DataError
from stages.prepare_train.annotations import Annotation
from stages.prepare_train.params import DataSection
from stages.prepare_train.statistics import Row

KEEPS = ("train", "test", "val")
"""Order of the splits: the first one with images of a group keeps them; the others leave theirs out."""


def units_of(annotations: Sequence[Annotation], pixels: Mapping[str, str]) -> dict[str, str]:
    """File name -> the unit that falls into a split as a whole: the given group of an image, or else its picture.

    Not the group of near duplicates, because it may change with every new image, which would move old images.

    Args:
        annotations: all annotations.
        pixels: file name -> digest of the picture, `stages.common.images.decode.Decoded.pixels`, of prepared images.
    """
    given = {annotation.group for annotation in annotations if annotation.given_group}
    return {
        annotation.filename: annotation.group if annotation.group in given else pixels[annotation.filename]
        for annotation in annotations
        if annotation.filename in pixels
    }


def assign_split(unit: str, data: DataSection) -> str:
    """The split ("train", "val" or "test") of a group or a picture, from a hash of its name or digest.

    It depends on the picture and not on the file name, so the same picture under two names cannot be in train and test
    at once. It depends only on the unit, the fractions and the seed, so neither new data nor other settings of the
    preprocessing move an old image.

    Args:
        unit: a unit of `units_of`.
        data: fractions and seed.
    """
    position = int(hashlib.sha256(f"{data.seed}:{unit}".encode()).hexdigest()[:16], 16) / 2**64
    if position < data.train_split:
        return "train"
    # the last split takes the rest, so that rounding of the fractions loses no image
    return "val" if position < data.train_split + data.val_split else "test"


def require_given(annotations: Sequence[Annotation]) -> None:
    """Refuse given splits that are incomplete, or that divide a given group.

    Raises:
        DataError: a line that names the first image or group, and the remedy.
    """
    told = "or set data.split to digest"
    if absent := [annotation.filename for annotation in annotations if not annotation.given_split]:
        raise DataError(
            f"data.split is given, and {len(absent):,} of {len(annotations):,} images are in no given split, the first "
            f"{absent[0]}: name them in list_eval_partition.txt beside the annotations, {told}"
        )
    first: dict[str, Annotation] = {}
    for annotation in annotations:
        other = first.setdefault(annotation.given_group, annotation) if annotation.given_group else annotation
        if other.given_split != annotation.given_split:
            raise DataError(
                f"data.split is given, and group {annotation.given_group!r} stands in two splits, {other.filename} in "
                f"{other.given_split} and {annotation.filename} in {annotation.given_split}: give them one split, "
                f"{told}"
            )


def leave_out(rows: Iterable[Row]) -> dict[str, str]:
    """Images of val and test that are near duplicates of images in another split.

    The training images of a group stay. If it has none, its test images stay and its val images are left out, so that
    versions are still compared on the same test images. A given group is in one split, unless the splits are given,
    too, and it shares a picture with a group of another split.

    Returns:
        File name -> reason, in the order of the rows.
    """
    rows = list(rows)
    stays: dict[str, Row] = {}  # group -> its first image in the split that keeps it
    for row in rows:
        if row.group not in stays or KEEPS.index(row.split) < KEEPS.index(stays[row.group].split):
            stays[row.group] = row
    return {
        row.filename: f"{row.split} image, {_relation(row)} {kept.filename} of {kept.split}"
        for row in rows
        if (kept := stays[row.group]).split != row.split
    }


def _relation(row: Row) -> str:
    return "nearly the same picture as" if row.unit == row.pixels else "of the same group as"
