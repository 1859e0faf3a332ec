"""New images: those whose picture was not used to train or measure the champion.

By picture, not by name or lot: known lots get further images, and a folder may hold several lots.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common.contract.logs import log
from stages.common.inference.features import Features, load_features
from stages.common.registry.champion import Champion
from stages.common.registry.seen import read_seen, unseen


class OnDisk(Mapping[str, Features]):
    """Some images of each lot, read on access: all at once would take 1 kB an image, and their examples."""

    def __init__(self, folder: Path, chosen: Mapping[str, npt.NDArray[np.intp]]) -> None:
        """Take lots of `folder`: lot -> positions of its images."""
        self._folder = folder
        self._chosen = chosen

    def __getitem__(self, lot: str) -> Features:
        return load_features(self._folder / f"{lot}.npz").take(self._chosen[lot])

    def __iter__(self) -> Iterator[str]:
        return iter(self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)


@dataclass(frozen=True)
class NewImages:
    """Predicted images, split into new and known ones.

    Attributes:
        lots: each lot with new images -> these images.
        seen: every lot -> number of its images that the champion knows.
    """

    lots: Mapping[str, Features]
    seen: Mapping[str, int]


def find_new_images(folder: Path, champion: Champion) -> NewImages:
    """Find the new images of all lots, one lot after the other.

    Args:
        folder: `features` of the artifact of stage predict.
        champion: the version that has predicted them.
    """
    known = read_seen(champion.reference)
    if known is None:
        log.warning("%s keeps no list of the pictures it knows, so whole lots are new or not", champion.version)
    chosen, seen = {}, {}
    for path in sorted(folder.rglob("*.npz")):
        lot = path.relative_to(folder).with_suffix("").as_posix()
        features = load_features(path)
        new = unseen(lot, features.pictures, known, champion.lots)
        seen[lot] = int((~new).sum())
        if new.any():
            chosen[lot] = np.flatnonzero(new)
    return NewImages(OnDisk(folder, chosen), seen)
