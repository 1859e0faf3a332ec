"""Signals of drift of a set of images as a table, and the distribution of the reference over the cells of each column.

Stage `evaluate` writes the `partitions` of images that were not used in training to `reference/partitions.json`, beside
their features, so they belong to the version. Stage `monitor` counts new images in the same cells. They have the form
of Great Expectations' partition objects.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.common.contract.artifacts import read_json, reading
from stages.common.inference.answers import answers_of
from stages.common.inference.features import Features
from stages.common.schema.attributes import Attributes

PARTITIONS = "partitions.json"
CELLS = 10
"""Cells of a column of numbers, with equal numbers of images of the reference: some 20 of 200 images."""
SMOOTHING = 0.5
"""Images added to every cell (Jeffreys' prior of counts), so that an empty cell gives no infinite divergence."""

Partition = Mapping[str, Any]
"""`bins` (edges), `weights` between them and `tail_weights` below and above; or `values` (classes) and `weights`."""


def signals(attributes: Attributes, features: Features) -> pd.DataFrame:
    """Signals that are compared between reference and new images, a row per image.

    Returns:
        A column per statistic (float64); `<attribute>_confidence` (float64, 0-1), and `<attribute>_predicted` (one of
        the attribute's classes, which are the categories), missing where the model gave no finite probabilities.
    """
    columns: dict[str, Any] = {name: np.asarray(values, np.float64) for name, values in features.statistics.items()}
    for answer in answers_of(attributes, features.probabilities, decision=features.decision):
        name, classes = answer.attribute.name, answer.attribute.classes
        columns[f"{name}_confidence"] = np.asarray(answer.confidence, np.float64)
        chosen = np.where(answer.finite, answer.predicted, -1)  # -1 is a missing value for pandas
        columns[f"{name}_predicted"] = pd.Categorical.from_codes(chosen, categories=pd.Index(classes))
    return pd.DataFrame(columns)


def partitions(attributes: Attributes, features: Features) -> dict[str, Any]:
    """Distribution of the images of a reference.

    Returns:
        {"images": their number, "columns": {column of `signals`: {"count": finite values, "partition": `Partition`, and
        for numbers "mean", "std"}}}. Columns whose numbers are all equal, or without any value, are left out.
    """
    columns = {}
    for name, values in signals(attributes, features).items():
        known = known_values(values)
        partition = partition_of(known)
        if partition:
            columns[str(name)] = {"count": len(known), "partition": partition}
            if known.dtype.kind == "f":
                columns[str(name)] |= {"mean": float(known.mean()), "std": float(known.std(ddof=0))}
    return {"images": len(features), "columns": columns}


def read_partitions(attributes: Attributes, reference: Path, features: Features) -> dict[str, Any]:
    """Partitions in the reference folder of a version; if there are none, they are computed from its features.

    Raises:
        DataError: the file cannot be read.
    """
    path = reference / PARTITIONS
    if not path.exists():
        return partitions(attributes, features)
    with reading(path, "evaluate"):
        found: dict[str, Any] = read_json(path, "evaluate")
        found["images"], found["columns"].keys()
    return found


def known_values(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Values of a column of `signals` that are not missing; numbers must be finite."""
    return column[np.isfinite(column)] if column.dtype.kind == "f" else column.dropna()


def partition_of(known: "pd.Series[Any]") -> dict[str, Any] | None:
    """Cells of a column's values, none of which is missing; None if all numbers are equal, or if there is no value.

    The cells of classes are the column's categories.

    Numbers are cut at their deciles, each moved halfway to the next higher value. So no value of the reference lies on
    an edge, and equal values stay in one cell.
    """
    if known.empty:
        return None
    if known.dtype.kind != "f":
        bare: dict[str, Any] = {"values": list(known.cat.categories)}
        return bare | {"weights": weights_of(count(known, bare)).tolist()}
    distinct = np.unique(known.to_numpy())
    if len(distinct) < 2:
        return None
    cuts = np.quantile(known, np.arange(1, CELLS) / CELLS, method="inverted_cdf")
    cuts = np.unique(np.minimum(cuts, distinct[-2]))  # the last cell is never empty
    edges = (cuts + distinct[np.searchsorted(distinct, cuts, side="right")]) / 2
    if len(edges) == 1:  # Great Expectations wants two
        edges = np.array([2 * distinct[0] - edges[0], edges[0]])
    weights = weights_of(count(known, {"bins": edges})).tolist()
    return {"bins": edges.tolist(), "weights": weights[1:-1], "tail_weights": [weights[0], weights[-1]]}


def count(known: "pd.Series[Any]", partition: Partition) -> npt.NDArray[np.int64]:
    """Values per cell: classes in their order; numbers below the first edge, between edges, above the last."""
    if "values" in partition:
        counts = known.value_counts().reindex(partition["values"], fill_value=0).to_numpy()
    else:
        cells = np.searchsorted(partition["bins"], known.to_numpy())
        counts = np.bincount(cells, minlength=len(partition["bins"]) + 1)
    return np.asarray(counts, np.int64)


def weights_of(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The share of every cell, smoothed; they sum to 1."""
    smoothed = counts + SMOOTHING
    return np.asarray(smoothed / smoothed.sum(), np.float64)


def expected_weights(partition: Partition) -> npt.NDArray[np.float64]:
    """The weights of a partition in the order of `count`."""
    if "values" in partition:
        return np.array(partition["weights"], np.float64)
    low, high = partition["tail_weights"]
    return np.array([low, *partition["weights"], high], np.float64)
