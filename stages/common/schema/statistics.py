"""Statistics of uncertainty: correction for many tests, and the interval of a share."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

Z = 1.96  # standard deviations that hold 95 % of a normal distribution


def holm(p: Sequence[float]) -> npt.NDArray[np.float64]:
    """Adjusted p of a family of tests, in their order (Holm 1979).

    The chance of any false finding among many tests is the same as for a single test.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values)))))
    return adjusted


def tarone(p: npt.NDArray[np.float64], least: npt.NDArray[np.float64], level: float) -> npt.NDArray[np.float64]:
    """Adjusted p of a family of tests of counts, in their order (Tarone 1990, https://doi.org/10.2307/2531456).

    Bonferroni's correction over the tests that could be significant: with three labels, no result is significant among
    a hundred tests, so such a test needs no part of the level. The chance of any false finding is at most `level`.

    Args:
        p: (T,).
        least: (T,), `p` at the most extreme counts.
        level: below which an adjusted p counts.

    Returns:
        (T,); 1 for a test that could not be significant.
    """
    counts = np.arange(1, len(p) + 1)
    able = np.searchsorted(np.sort(least), level / counts, side="right")
    among = int(counts[able <= counts][0]) if len(p) else 1
    adjusted: npt.NDArray[np.float64] = np.where(least <= level / among, np.minimum(1, p * among), 1.0)
    return adjusted


def independent(right: npt.NDArray[np.bool_], groups: npt.NDArray[np.integer[Any]]) -> float:
    """Number of independent answers that are as informative about the share of right answers as these.

    Answers to images that belong together, such as those of one person, are wrong together. So their number is divided
    by the design effect: the variance of their share, by groups, over that of as many independent answers (Kish 1965,
    "Survey Sampling"; Korn and Graubard 1998 use it for intervals). The result is at most the number of answers. If all
    or none are right, there is no variance, and the result is the number of groups.

    Args:
        right: (N,), one at least.
        groups: (N,), the same number for images that belong together.
    """
    share, number = float(right.mean()), len(right)
    _, at = np.unique(groups, return_inverse=True)
    count = int(at.max()) + 1
    if count in {1, number} or share in {0.0, 1.0}:
        return count
    variance = float((np.bincount(at, right - share) ** 2).sum()) * count / (count - 1) / number**2
    return min(number, share * (1 - share) / variance) if variance else number


def wilson(share: float, number: float) -> tuple[float, float]:
    """Interval of a share of `number` labels that holds the true share with 95 % (Wilson 1927)."""
    middle = (share + Z**2 / (2 * number)) / (1 + Z**2 / number)
    width = Z / (1 + Z**2 / number) * sqrt(share * (1 - share) / number + Z**2 / (4 * number**2))
    return max(0.0, middle - width), min(1.0, middle + width)
