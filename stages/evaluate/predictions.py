"""predictions.csv: what the model says about each image. Stage `predict` will write the same without labels."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages.common.attributes import NAMES
from stages.common.tables import write_csv
from stages.evaluate.measures import Answers

PARTS = ("", "_predicted", "_confidence", "_answered")
COLUMNS = ("filename", *(f"{name}{part}" for name in NAMES for part in PARTS))


def write_predictions(path: Path, filenames: Sequence[str], answers: Sequence[Answers]) -> None:
    """One row an image: file name, and per attribute label, predicted class, confidence, and whether it is answered.

    Where that is `no`, the model abstains, for its confidence is below its threshold; what it would have said stays.
    Cells are empty where a label is not known, or the model gave no number.
    """
    columns: list[list[str]] = []
    for one in answers:
        names = [*one.attribute.classes, ""]  # the last is found by -1, an unknown label, and by the class of no answer
        columns += [
            [names[label] for label in one.labels],
            [names[label] for label in one.predicted],
            [f"{value:.4f}" if known else "" for value, known in zip(one.confidence, one.finite, strict=True)],
            ["yes" if given else "no" for given in one.answered],
        ]
    write_csv(path, COLUMNS, zip(filenames, *columns, strict=True), for_people=True)


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a predictions.csv as the suite checks it: text, confidences as numbers, missing where a cell is empty.

    Columns of labels that are not there are added, all missing: nobody knows them where a model is in use.
    """
    confidences = {f"{name}_confidence": "float64" for name in NAMES}
    table = pd.read_csv(
        path, dtype={**dict.fromkeys(COLUMNS, "str"), **confidences}, keep_default_na=False, na_values=[""]
    )
    return table.assign(**{name: pd.Series(pd.NA, table.index, "str") for name in NAMES if name not in table})
