"""The pictures that a model knows: those on which it was trained or measured. All others are new to it.

`reference/seen.npy` of a version and of the champion: uint64 (P,), sorted, each once. The first 8 bytes of its digest
identify a picture; the probability that two of a million pictures share them is 3 in 100 million.
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
    """The pictures that a version knows; None for versions of earlier code, which did not store them.

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
        known: result of `read_seen`; if None, a lot is new as a whole or not at all.
        lots: the lots on which the version was trained or measured.

    Returns:
        (N,).
    """
    return np.full(len(of_lot), lot not in lots) if known is None else ~np.isin(of_lot, known)
