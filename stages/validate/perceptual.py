"""Perceptual hashes: 256 bits that hardly change with another encoding, another size or slightly different light.

This is dHash (N. Krawetz, "Kind of Like That", 2013): the picture becomes 16 rows of 17 grey cells, and a bit says
whether a cell is darker than its right neighbour. The whole picture is used, because a crop to the content would follow
every speck at its edge. Copies that differ only in their white margin have the same pixels once cropped, so
`stages.validate.duplicates` finds them without a hash.

Measured with `near_duplicate_bits` 4, 6 and 8 on the 1,000 Cartoon Set faces (128x128) and the 2,000 sample avatars:

    share of copies found                 faces              samples
    JPEG of quality 85               .99  1.00  1.00    1.00  1.00  1.00
    JPEG of quality 60               .95   .99  1.00     .98  1.00  1.00
    brightness +5 % or -5 %          .98  1.00  1.00     .98  1.00  1.00
    1.5 times the size               .95   .99  1.00     .88   .98  1.00
    half the size                    .87   .97  1.00     .79   .96   .99
    cut by 1 pixel                   .05   .16   .36     .41   .72   .89
    shifted by 1 pixel, on white     .00   .01   .03     .09   .29   .53   (57 % and 5 % have the same pixels cropped)
    pairs of different drawings        0     0     1      33   110   332   (of 499,500 and 1,999,000)
    of these with different labels     0     0     1      12    44   165

imagehash's pHash of 256 bits finds fewer copies in the same number of bits, and brings scipy and PyWavelets into the
image.
"""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from stages.common.images.resizer import Picture

ROWS, COLUMNS = 16, 17
"""Grey cells of a picture; 16 x 16 neighbours make 256 bits."""

SAMPLES = 8, 16
"""Sampled pixels down and across a cell: twice as many across, where cells are compared, find more resized copies."""

DEAD_ZONE = 6
"""Grey levels by which a cell must be darker: JPEG changes a flat area by less."""

LUMA = np.array([299, 587, 114, 0], np.int32)
"""Thousandths of red, green and blue in grey (ITU-R BT.601), as in JPEG, which reduces colour more than grey."""


def cells_of(picture: Picture) -> bytes:
    """Add up the samples of each cell by channel: uint16 (`ROWS`, `COLUMNS`, 4).

    Down before across, so that nearly all sums are over long runs: 17 us for 128x128 pixels, 37 for 500x500, where
    Pillow's resizing takes 34.
    """
    height, width, _ = picture.shape
    strips = picture.take(_sampled(height, ROWS, SAMPLES[0]), axis=0).sum(axis=0, dtype=np.uint16)
    cells = strips.take(_sampled(width, COLUMNS, SAMPLES[1]), axis=1).sum(axis=1, dtype=np.uint16)
    return bytes(cells)


@lru_cache(1024)
def _sampled(length: int, cells: int, samples: int) -> npt.NDArray[np.int64]:
    """Positions of sampled pixels among `length`, evenly spread: (samples, cells)."""
    middles = np.arange(1, 2 * cells * samples, 2).reshape(cells, samples).T
    return np.ascontiguousarray(middles * length // (2 * cells * samples))


def hashes_of(cells: bytes) -> npt.NDArray[np.uint8]:
    """The hashes of pictures, uint8 (pictures, 32), from the joined `cells_of` of all of them."""
    grey = np.frombuffer(cells, np.uint16).reshape(-1, ROWS, COLUMNS, 4) @ LUMA
    level = math.prod(SAMPLES) * LUMA.sum()
    darker = grey[:, :, :-1] + DEAD_ZONE * level < grey[:, :, 1:]
    return np.packbits(darker.reshape(-1, ROWS * (COLUMNS - 1)), axis=1)


def find_near(hashes: npt.NDArray[np.uint8], bits: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the hashes that differ in at most `bits` bits.

    Exact, without comparing all pairs: two hashes that differ in at most d bits agree in at least one of d + 1 bands of
    bits (the pigeonhole principle), so only hashes that agree in a band are compared. Bits are assigned to the bands by
    their variance; otherwise the bands of the white margin would be equal in all pictures. Memory grows only with the
    number of hashes.

    Args:
        hashes: uint8 (N, 32), of `hashes_of`.
        bits: number of bits that may differ, of 256.

    Returns:
        Two arrays int64 (N,): for every hash the index of the first earlier near hash, -1 if there is none; and its
        group, the index of the first hash that is near directly or through others, itself included.
    """
    # Equal hashes first: 20,000 flat pictures all have the hash 0, and comparing each with each would take 80 s.
    _, first, same = np.unique(hashes.view("V32").ravel(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    first = first[order]
    found, together = _find_near_of_different(hashes[first], bits)
    of_hash, group_of_hash = np.empty_like(first), np.empty_like(first)
    of_hash[order] = np.where(found >= 0, first[found], first)
    group_of_hash[order] = first[together]
    near = of_hash[same]
    return np.where(near < np.arange(len(hashes)), near, -1), group_of_hash[same]


def unite(group: npt.NDArray[np.int64], one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> None:
    """Unite the groups of each pair.

    Args:
        group: (N,), the first member of each element's group; changed in place.
        one: (pairs,), indices.
        other: (pairs,), indices.
    """
    while True:
        low, high = np.minimum(group[one], group[other]), np.maximum(group[one], group[other])
        if not (low < high).any():
            return
        np.minimum.at(group, high, low)
        while (group[group] != group).any():
            group[:] = group[group]


def _find_near_of_different(
    hashes: npt.NDArray[np.uint8], bits: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`find_near` of hashes without repeats."""
    count = len(hashes)
    first, group = np.full(count, count), np.arange(count)
    words = np.ascontiguousarray(hashes).view(np.uint64)
    single = np.unpackbits(hashes, axis=1)
    share = single.mean(axis=0) if count else np.arange(0)  # numpy's variance would take 2 kB a hash
    by_variation = np.argsort(share * (1 - share), kind="stable")[::-1]
    for band in range(bits + 1):
        _, key = np.unique(np.packbits(single[:, by_variation[band :: bits + 1]], axis=1), axis=0, return_inverse=True)
        order = np.argsort(key, kind="stable")
        key, sorted_words = key[order], words[order]
        at, step = np.arange(count), 0
        while len(at):
            step += 1
            at = at[at + step < count]
            at = at[key[at] == key[at + step]]
            near = at[np.bitwise_count(sorted_words[at] ^ sorted_words[at + step]).sum(axis=1) <= bits]
            if len(near):
                earlier, later = order[near], order[near + step]  # the order is stable: the first comes first
                np.minimum.at(first, later, earlier)
                unite(group, earlier, later)
    return np.where(first < count, first, -1), group
