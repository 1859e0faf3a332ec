"""Holm's correction: many tests at once, and the chance of any false finding stays what it is for one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def adjust(p: Sequence[float]) -> npt.NDArray[np.float64]:
    """Adjusted p of a family of tests, in their order (Holm 1979)."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values)))))
    return adjusted
