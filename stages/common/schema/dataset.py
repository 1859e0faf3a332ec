"""The prepared data set: uint8 shards mapped from disk, and the labels of one split.

`prepare_train` writes it:
    shards/<lot>.npy   uint8 array (images, image_size, image_size, 3), RGB
    attributes.json    the annotated attributes (`stages.common.schema.attributes`)
    index.csv          a row per image: filename, lot, row (in the lot's shard), split (train, val or test), pixels
                       (digest that identifies the image), group (the same for images that belong together, such as
                       those of one person, and for near duplicates), then a column per attribute: class index, empty
                       if unknown; and the fields of `stages.common.schema.face.Face` if faces are cut out
    preprocessing.json `stages.common.images.settings.Preprocessing`
"""

import csv
import hashlib
import mmap
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.contract.artifacts import read_json, reading
from stages.common.contract.errors import DataError
from stages.common.schema.attributes import UNKNOWN, Attributes, names, read_attributes
from stages.common.schema.face import Face

SPLITS = ("train", "val", "test")
INDEX = "index.csv"
PREPROCESSING = "preprocessing.json"


def index_columns(attributes: Attributes, faces: bool = False) -> tuple[str, ...]:
    """The header of index.csv; with the columns of `Face` where faces are cut out."""
    return (
        "filename", "lot", "row", "split", "pixels", "group", *names(attributes), *(Face._fields if faces else ())
    )  # fmt: skip


@dataclass(frozen=True)
class Split:
    """One part of the data set; images stay on disk until `take` reads them.

    Attributes:
        attributes: A attributes.
        filenames: N names.
        labels: int16 (N, A) class indices in the order of `attributes`, -1 where unknown.
        shards: the mapped lots, each uint8 (n, S, S, 3).
        shard: int32 (N,), number of the shard of each image.
        row: int32 (N,), its row there.
        group: int32 (N,), the same number for images that belong together, from 0 on.
    """

    attributes: Attributes
    filenames: list[str]
    labels: npt.NDArray[np.int16]
    shards: list[npt.NDArray[np.uint8]]
    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    group: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.filenames)

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which maps the shards itself."""
        files = [str(shard.filename) if isinstance(shard, np.memmap) else shard for shard in self.shards]
        return self.__dict__ | {"shards": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        mapped = [np.load(file, mmap_mode="r") if isinstance(file, str) else file for file in state["shards"]]
        self.__dict__.update(state | {"shards": mapped})

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
            # Mapped pages count as our memory until they are released, 1.2 GB for 100,000 images of 64x64; they stay in
            # the system's cache.
            if isinstance(mapped := self.shards[number].base, mmap.mmap):
                mapped.madvise(mmap.MADV_DONTNEED)
        return images

    def select(self, indices: npt.NDArray[np.integer]) -> "Split":
        """The images at `indices`, which stay on disk."""
        return replace(
            self,
            filenames=[self.filenames[index] for index in indices],
            labels=self.labels[indices],
            shard=self.shard[indices],
            row=self.row[indices],
            group=self.group[indices],
        )


def index_rows(prepared: Path) -> Iterator[dict[str, str]]:
    """The rows of the index of a `prepare_train` artifact, each column -> cell, one after the other."""
    with (prepared / INDEX).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def read_index(prepared: Path) -> list[dict[str, str]]:
    """All `index_rows`, of which a million take more than a gigabyte."""
    return list(index_rows(prepared))


def read_preprocessing(prepared: Path) -> dict[str, Any]:
    """The settings of prepare_train for its images; saved with the model, so that prediction does the same.

    Raises:
        DataError: the artifact does not have them.
    """
    with reading(prepared / PREPROCESSING, "prepare_train"):
        return dict(read_json(prepared / PREPROCESSING, "prepare_train"))


def _numbered(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Number the keys in order of appearance: 0 for all equal to the first, 1 for the next different key, and so on."""
    _, first, at = np.unique(keys, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[at].astype(np.int32)


def map_images(prepared: Path, rows: Iterable[Mapping[str, str]]) -> Split:
    """The images and labels of some rows of the index, in their order."""
    attributes = read_attributes(prepared)
    labelled = names(attributes)
    filenames: list[str] = []
    shard, number, group, labels = array("i"), array("i"), array("Q"), array("h")
    lots: dict[str, int] = {}  # in the order in which they come up
    for row in rows:  # rows are not kept: they would take 70 MB for 100,000 images
        filenames.append(row["filename"])
        shard.append(lots.setdefault(row["lot"], len(lots)))
        number.append(int(row["row"]))
        group.append(int.from_bytes(hashlib.blake2b(row["group"].encode(), digest_size=8).digest(), "big"))
        labels.extend(int(row[name]) if row[name] else UNKNOWN for name in labelled)
    return Split(
        attributes=attributes,
        filenames=filenames,
        labels=np.array(labels, np.int16).reshape(-1, len(attributes)),
        shards=[np.load(prepared / "shards" / f"{lot}.npy", mmap_mode="r") for lot in lots],
        shard=np.array(shard, np.int32),
        row=np.array(number, np.int32),
        group=_numbered(np.array(group, np.uint64)),
    )


def read_split(prepared: Path, split: str) -> Split:
    """Read one split of a `prepare_train` artifact.

    Raises:
        DataError: the split is empty.
    """
    images = map_images(prepared, (row for row in index_rows(prepared) if row["split"] == split))
    if not len(images):
        raise DataError(f"the {split} split of {prepared} is empty: give more images or a larger data.{split}_split")
    return images
