"""Values for the suite expectations/drift.json: partitions and bounds from the champion's reference.

Great Expectations' tests are a second look at what `stages.monitor.drift` decides, in the Data Docs where people find
whatever else is wrong with data. They have thresholds and no p, so these leave room for what chance does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from stages.common.inference.partitions import expected_weights
from stages.monitor.drift import chance

SUITE = "drift"
DEVIATIONS = 3
"""Standard errors that a mean may be off besides: beyond it are .3 % of the means of clean images."""


def thresholds(kept: Mapping[str, Any], table: pd.DataFrame, min_psi: float) -> dict[str, Any]:
    """Values of the suite's parameters for every column that can be judged.

    Args:
        kept: `stages.common.inference.partitions.partitions` of the reference.
        table: `stages.common.inference.partitions.signals` of new images; its column has one number or class at least.
        min_psi: what PSI must reach to be drift; the Kullback-Leibler divergence is one of the two halves of it.
    """
    values: dict[str, Any] = {}
    for name, column in kept["columns"].items():
        count = int(table[name].count()) if name in table else 0
        if not count:
            continue
        cells = len(expected_weights(column["partition"]))
        values[f"{name}_partition"] = column["partition"]
        # twice the mean of chance: a chi-squared value of 9 degrees of freedom stays below 18 in 96 %
        values[f"{name}_max_kl"] = round((min_psi + 2 * chance(cells, column["count"], count)) / 2, 4)
        if "mean" in column:
            allowed = float(np.sqrt(min_psi) + DEVIATIONS * np.sqrt(1 / column["count"] + 1 / count)) * column["std"]
            values[f"{name}_mean_min"] = round(column["mean"] - allowed, 4)
            values[f"{name}_mean_max"] = round(column["mean"] + allowed, 4)
    return values
