"""What the prepared data look like: counts, duplicates and pixel statistics."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.attributes import ATTRIBUTES, NAMES, UNKNOWN
from stages.common.dataset import SPLITS

LISTED = 20
"""Groups of duplicates that are listed by name; all are counted."""


@dataclass(frozen=True)
class Row:
    """One row of index.csv: where an image lies, its split, the digest of its picture, and its labels (-1: unknown)."""

    filename: str
    lot: str
    row: int
    split: str
    pixels: str
    labels: tuple[int, ...]


def count_splits(rows: Iterable[Row]) -> dict[str, int]:
    """Images per split, every split named."""
    counts = Counter(row.split for row in rows)
    return {split: counts[split] for split in SPLITS}


def count_classes(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, int]]]:
    """Attribute -> split -> class name (and "unknown") -> images."""
    counts = Counter((name, row.split, label) for row in rows for name, label in zip(NAMES, row.labels, strict=True))
    classes = {attribute.name: [*enumerate(attribute.classes), (UNKNOWN, "unknown")] for attribute in ATTRIBUTES}
    return {
        name: {split: {title: counts[name, split, label] for label, title in titles} for split in SPLITS}
        for name, titles in classes.items()
    }


def find_duplicates(rows: Iterable[Row]) -> dict[str, Any]:
    """Pictures that stand under several names: how many, in how many images, with how many contradicting labels."""
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.pixels].append(row)
    several = [group for group in groups.values() if len(group) > 1]
    several.sort(key=_contradicts, reverse=True)  # those to mend first
    return {
        "pictures": len(several),
        "images": sum(len(group) for group in several),
        "contradicting_labels": sum(map(_contradicts, several)),
        "listed": [[row.filename for row in group] for group in several[:LISTED]],
    }


def _contradicts(group: Iterable[Row]) -> bool:
    """Whether known labels of the same picture differ."""
    return any(len(set(labels) - {UNKNOWN}) > 1 for labels in zip(*(row.labels for row in group), strict=True))


class PixelStatistics:
    """Mean and standard deviation per channel of images seen block by block."""

    def __init__(self) -> None:
        """Start with no images."""
        self._count = 0
        self._sum = np.zeros(3, np.int64)  # exact: 255^2 * 64^2 pixels * 3e10 images fit
        self._squares = np.zeros(3, np.int64)

    def add(self, images: npt.NDArray[np.uint8]) -> None:
        """Take in images: uint8 (n, S, S, 3)."""
        pixels = images.reshape(-1, 3)
        self._count += len(pixels)
        self._sum += pixels.sum(axis=0, dtype=np.int64)
        self._squares += np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.int64)

    def summary(self) -> dict[str, list[float]]:
        """`mean` and `std` of red, green and blue, 0-255; zeros if no image was seen."""
        mean = self._sum / max(1, self._count)
        variance = self._squares / max(1, self._count) - np.square(mean)
        return {"mean": mean.round(4).tolist(), "std": np.sqrt(np.maximum(variance, 0)).round(4).tolist()}
