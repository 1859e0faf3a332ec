"""Which pictures a model knows: those that it has learned from or was measured on. So new ones are told from them.

`reference/seen.npy` of a version and of the champion: uint64 (P,), sorted, each once. A picture is known by the first 8
bytes of its digest; that any two of a million pictures share them has a probability of 3 in 100 million.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common.contract.artifacts import reading

SEEN = "seen.npy"

Pictures = npt.NDArray[np.uint64]


def picture_of(digest: str) -> int:
    """The part of a picture's digest that is kept; the digest has 16 hex digits or more."""
    return int(digest[:16], 16)


def pictures(digests: Iterable[str]) -> Pictures:
    """The kept parts of the digests of pictures: uint64 (P,), sorted, each once."""
    return np.unique(np.fromiter(map(picture_of, digests), np.uint64))


def read_seen(reference: Path) -> Pictures | None:
    """The pictures that a version knows; None if earlier code has registered it, which did not keep them.

    Args:
        reference: the folder `reference` of the version, or of the champion.

    Raises:
        DataError: the file is damaged.
    """
    path = reference / SEEN
    if not path.exists():
        return None
    with reading(path), path.open("rb") as file:
        return np.asarray(np.load(file, allow_pickle=False), np.uint64)


def unseen(lot: str, of_lot: Pictures, known: Pictures | None, lots: Collection[str]) -> npt.NDArray[np.bool_]:
    """Which pictures of a lot are new to a version.

    Args:
        lot: its name.
        of_lot: uint64 (N,).
        known: what `read_seen` gives; without it, whole lots are new or not.
        lots: those that the version has learned from or was measured on.

    Returns:
        (N,).
    """
    return np.full(len(of_lot), lot not in lots) if known is None else ~np.isin(of_lot, known)
