"""Values for the suite expectations/drift.json: partitions and bounds from the champion's reference.

Great Expectations' tests repeat those of `stages.monitor.drift` for the Data Docs, where people find all errors of
data. They have thresholds and no p, so the thresholds leave room for chance.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from stages.common.inference.partitions import expected_weights
from stages.monitor.drift import chance

SUITE = "drift"
DEVIATIONS = 3
"""Tolerance of a mean, in standard errors: .3 % of the means of clean images exceed it."""


def thresholds(kept: Mapping[str, Any], table: pd.DataFrame, min_psi: float) -> dict[str, Any]:
    """Values of the suite's parameters for every column that can be tested.

    Args:
        kept: `stages.common.inference.partitions.partitions` of the reference.
        table: `stages.common.inference.partitions.signals` of new images; its column has one number or class at least.
        min_psi: least PSI of a drift; the Kullback-Leibler divergence is one of its two halves.
    """
    values: dict[str, Any] = {}
    for name, column in kept["columns"].items():
        count = int(table[name].count()) if name in table else 0
        if not count:
            continue
        cells = len(expected_weights(column["partition"]))
        values[f"{name}_partition"] = column["partition"]
        # twice its mean by chance: a chi-squared value of 9 degrees of freedom is below 18 in 96 % of the cases
        values[f"{name}_max_kl"] = round((min_psi + 2 * chance(cells, column["count"], count)) / 2, 4)
        if "mean" in column:
            allowed = float(np.sqrt(min_psi) + DEVIATIONS * np.sqrt(1 / column["count"] + 1 / count)) * column["std"]
            values[f"{name}_mean_min"] = round(column["mean"] - allowed, 4)
            values[f"{name}_mean_max"] = round(column["mean"] + allowed, 4)
    return values
