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
    names: list[str] = []
    lot_of: list[str] = []
    sure, later = [np.empty((0, len(answered)), np.float32)], [np.empty(0, np.bool_)]
    for lot, features in (lots if labels is not None else {}).items():
        without = [at for at, picture in enumerate(features.pictures.tolist()) if picture not in (labels or ())]
        said = {name: decided(features.probabilities[name], features.decision.get(name, ())) for name in answered}
        sure.append(np.stack([confidence[without] for _, confidence in said.values()], axis=1))
        later.append(np.full(len(without), lot not in needed and ALL not in needed))
        names += [features.filenames[at] for at in without]
        lot_of += [lot] * len(without)
    confidences = np.concatenate(sure)
    least = np.nan_to_num(confidences.min(axis=1, initial=1.0), nan=-1.0)  # no number is less than any
    rows = (
        (names[at], lot_of[at], *("" if np.isnan(value) else f"{value:.4f}" for value in confidences[at].tolist()))
        for at in np.lexsort((least, np.concatenate(later))).tolist()
    )
    columns = ("filename", "lot", *(f"{name}_confidence" for name in answered))
    write_csv(path, columns, rows, for_people=True)
    return len(names)
