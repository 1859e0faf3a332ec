"""Which new images somebody should label: to_label.csv, with file name, lot, and per attribute the confidence (0-1)."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.common.contract.tables import write_csv
from stages.common.inference.decision import decided
from stages.common.inference.features import Features
from stages.monitor.drift import ALL
from stages.monitor.performance import Labels

TO_LABEL = "to_label.csv"


def write_to_label(
    path: Path,
    lots: Mapping[str, Features],
    labels: Labels | None,
    needed: Collection[str] = (),
    answered: Sequence[str] = (),
) -> int:
    """List the new images without a label: those of lots that need labels first, and of these the least sure.

    Args:
        path: the file.
        lots: lot -> its new images.
        labels: what is known; None if no labels could be read, so nobody knows which image lacks them.
        needed: lots that need labels, or `ALL`.
        answered: the attributes that the model answers.

    Returns:
        How many there are.
    """
    rows: list[tuple[bool, float, str, str, list[str]]] = []
    for lot, features in (lots if labels is not None else {}).items():
        said = {name: decided(features.probabilities[name], features.decision.get(name, ())) for name in answered}
        sure = np.stack([confidence for _, confidence in said.values()], axis=1)
        least = np.nan_to_num(sure.min(axis=1), nan=-1.0)  # no number is less than any
        for position, picture in enumerate(features.pictures.tolist()):
            if labels is not None and picture not in labels:
                cells = ["" if np.isnan(value) else f"{value:.4f}" for value in sure[position]]
                later = lot not in needed and ALL not in needed
                rows.append((later, float(least[position]), lot, features.filenames[position], cells))
    rows.sort()
    columns = ("filename", "lot", *(f"{name}_confidence" for name in answered))
    write_csv(path, columns, ((name, lot, *cells) for _, _, lot, name, cells in rows), for_people=True)
    return len(rows)
