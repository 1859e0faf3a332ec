"""The prepared data set: uint8 shards mapped from disk, and the labels of one split.

`prepare_train` writes it:
    shards/<lot>.npy   uint8 array (images, image_size, image_size, 3), RGB
    index.csv          one row an image: filename, lot, row (in the lot's shard), split (train, val or test), pixels
                       (digest of the cropped picture), then a column per attribute: class index, empty if unknown
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common.attributes import NAMES, UNKNOWN
from stages.common.errors import DataError

SPLITS = ("train", "val", "test")
INDEX = "index.csv"
INDEX_COLUMNS = ("filename", "lot", "row", "split", "pixels", *NAMES)


@dataclass(frozen=True)
class Split:
    """One part of the data set; images stay on disk until `take` reads them.

    Attributes:
        filenames: N names.
        labels: int8 (N, 5) class indices in the order of `NAMES`, -1 where unknown.
        shards: the mapped lots, each uint8 (n, S, S, 3).
        shard: int32 (N,), which shard an image is in.
        row: int32 (N,), its row there.
    """

    filenames: list[str]
    labels: npt.NDArray[np.int8]
    shards: list[npt.NDArray[np.uint8]]
    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.filenames)

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return int(self.shards[0].shape[1])

    def take(self, indices: npt.NDArray[np.integer] | slice = slice(None)) -> npt.NDArray[np.uint8]:
        """Copy images into memory: uint8 (len(indices), S, S, 3), RGB, in the order of `indices`."""
        shard, row = self.shard[indices], self.row[indices]
        images = np.empty((len(row), *self.shards[0].shape[1:]), np.uint8)
        for number in np.unique(shard):
            chosen = shard == number
            images[chosen] = self.shards[number][row[chosen]]
        return images


def read_split(prepared: Path, split: str) -> Split:
    """Read one split of a `prepare_train` artifact.

    Raises:
        DataError: the split is empty.
    """
    filenames, labels, lots, rows = [], [], [], []
    with (prepared / INDEX).open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            if record["split"] == split:
                filenames.append(record["filename"])
                labels.append([int(record[name]) if record[name] else UNKNOWN for name in NAMES])
                lots.append(record["lot"])
                rows.append(int(record["row"]))
    if not filenames:
        raise DataError(f"the {split} split of {prepared} is empty: give more images or a larger data.{split}_split")
    names = sorted(set(lots))
    number = {lot: position for position, lot in enumerate(names)}
    return Split(
        filenames=filenames,
        labels=np.array(labels, np.int8),
        shards=[np.load(prepared / "shards" / f"{lot}.npy", mmap_mode="r") for lot in names],
        shard=np.array([number[lot] for lot in lots], np.int32),
        row=np.array(rows, np.int32),
    )
