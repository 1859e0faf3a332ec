"""Which image falls into which split."""

import hashlib

from stages.prepare_train.params import DataSection


def assign_split(pixels: str, data: DataSection) -> str:
    """The split ("train", "val" or "test") of a picture, from a hash of what it shows.

    It depends on the pixels of the decoded, cropped picture and not on the file name, so the same picture under two
    names, saved twice by different programs or with another white margin, cannot stand in train and test at once.
    And since it depends on nothing but the picture, the fractions and the seed, new data never move an old image.

    Args:
        pixels: `preprocess.pixels_digest` of the cropped picture.
        data: fractions and seed.
    """
    position = int(hashlib.sha256(f"{data.seed}:{pixels}".encode()).hexdigest()[:16], 16) / 2**64
    if position < data.train_split:
        return "train"
    # the last part is taken by what is left, so that rounding of the fractions loses no image
    return "val" if position < data.train_split + data.val_split or data.test_split == 0 else "test"
