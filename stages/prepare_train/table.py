"""The table that the suite checks: index.csv as written, with statistics of its images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.common.schema.dataset import INDEX, SPLITS
from stages.common.schema.face import Face
from stages.prepare_train.params import DataSection, PrepareTrainSection
from stages.prepare_train.statistics import Row, mean_and_std, pixel_sums

BLOCK = 256
"""Images that are read at once for statistics: 3 MB at 64x64."""


def read_sums(shards: Path, lots: Sequence[str]) -> npt.NDArray[np.int64]:
    """`pixel_sums` (N, 2, 3) of all images of some lots, one lot after the other, streamed from the shards."""
    parts = [np.empty((0, 2, 3), np.int64)]
    for lot in lots:
        images = np.load(shards / f"{lot}.npy", mmap_mode="r")
        parts += [pixel_sums(images[start : start + BLOCK]) for start in range(0, len(images), BLOCK)]
    return np.concatenate(parts)


def index_table(out: Path, sums: npt.NDArray[np.int64], pixels: int) -> pd.DataFrame:
    """Read index.csv back and add columns for the suite.

    Args:
        out: the artifact in the making.
        sums: `read_sums` of its images, in the order of the index.
        pixels: per image.

    Returns:
        Cells as text, missing if empty, without those of `Face`; and `splits_of_picture`, number of splits with the
        same picture, a near duplicate, or an image of its group; `mean` and `std` (0-255) of the image's pixels, the
        latter around the mean colour: an image of one colour has 0.
    """
    table = pd.read_csv(out / INDEX, dtype="str", keep_default_na=False, na_values=[""])
    mean, std = mean_and_std(sums, pixels)
    return table.drop(columns=[*Face._fields], errors="ignore").assign(
        splits_of_picture=table.groupby("group")["split"].transform("nunique"),
        mean=mean.mean(axis=1).round(2),
        std=np.sqrt(np.square(std).mean(axis=1)).round(2),
    )


def suite_thresholds(rows: Sequence[Row], data: DataSection, section: PrepareTrainSection) -> dict[str, float]:
    """The values of the suite's parameters.

    A picture or given group falls into a split by chance, with all its images. So the variance of the number of images
    in a split of share p is p (1 - p) times the sum of the squared numbers of images of each. Given splits have any
    size.
    """
    _, images = np.unique([row.unit for row in rows], return_counts=True)
    values = {"min_std": section.min_std}
    values |= dict(zip(("mean_min", "mean_max"), section.mean_range, strict=True))
    values |= dict(zip(("std_min", "std_max"), section.std_range, strict=True))
    for split in SPLITS:
        share = getattr(data, f"{split}_split")
        allowed = section.split_deviations * np.sqrt(share * (1 - share) * np.square(images).sum())
        allowed = len(rows) if data.split == "given" else allowed
        values[f"{split}_min"] = max(0, int(np.floor(share * len(rows) - allowed)))
        values[f"{split}_max"] = int(np.ceil(share * len(rows) + allowed))
    return values
