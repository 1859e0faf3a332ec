"""How sure a figure is: many tests at once, and the interval of a share."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt

Z = 1.96  # standard deviations that hold 95 % of a normal distribution


def holm(p: Sequence[float]) -> npt.NDArray[np.float64]:
    """Adjusted p of a family of tests, in their order (Holm 1979).

    The chance of any false finding among many tests stays what it is for one.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values)))))
    return adjusted


def wilson(share: float, number: float) -> tuple[float, float]:
    """Interval of a share of `number` labels that holds the true one with 95 % (Wilson 1927)."""
    middle = (share + Z**2 / (2 * number)) / (1 + Z**2 / number)
    width = Z / (1 + Z**2 / number) * sqrt(share * (1 - share) / number + Z**2 / (4 * number**2))
    return max(0.0, middle - width), min(1.0, middle + width)
