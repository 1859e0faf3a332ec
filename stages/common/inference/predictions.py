"""predictions.csv: a model's answers about each image, in the form that the suite `predictions` checks."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.common.contract.tables import as_written, write_csv
from stages.common.inference.answers import Answers
from stages.common.schema.attributes import Attributes, names
from stages.common.schema.face import Face

SUITE = "predictions"
VERSION = "model_version"
PARTS = ("", "_predicted", "_confidence", "_answered")


def columns(attributes: Attributes) -> tuple[str, ...]:
    """Columns that the suite checks."""
    return ("filename", "lot", *(f"{name}{part}" for name in names(attributes) for part in PARTS), VERSION)


def write_predictions(
    path: Path,
    filenames: Sequence[str],
    answers: Sequence[Answers],
    version: str = "",
    faces: npt.NDArray[np.int32] | None = None,
) -> None:
    """Write a row per image: file name, and per attribute label, predicted class, confidence, and answered or not.

    If it is not answered (`no`), the model abstains, because its confidence is below the threshold; class and
    confidence stay in the row. Cells are empty if a label is not known, or if the model gave no number, as for
    attributes that it never answers.

    Args:
        path: the file to write.
        filenames: N names.
        answers: one per attribute, of N images.
        version: of a model in use, named in every row; labels are not known then and have no columns.
        faces: (N, F), the F fields of `Face`, which get columns; None if no face was detected.
    """
    table: dict[str, Sequence[str]] = {"filename": filenames}
    for answer in answers:
        # the last entry is for -1, an unknown label, and for the class of no answer
        shown = [*answer.attribute.classes, ""]
        cells = (
            [shown[label] for label in answer.labels],
            [shown[label] for label in answer.predicted],
            [f"{value:.4f}" if known else "" for value, known in zip(answer.confidence, answer.finite, strict=True)],
            ["yes" if given else "no" for given in answer.answered],
        )
        wanted = {part: column for part, column in zip(PARTS, cells, strict=True) if part or not version}
        table |= {f"{answer.attribute.name}{part}": column for part, column in wanted.items()}
    if faces is not None:
        table |= zip(Face._fields, faces.T.tolist(), strict=True)
    if version:
        table[VERSION] = [version] * len(filenames)
    write_csv(path, table, zip(*table.values(), strict=True), for_people=True)


def columns_of(never: Iterable[str]) -> set[str]:
    """Columns of attributes that are never answered; the suite has no expectations for them."""
    return {f"{name}{part}" for name in never for part in PARTS[1:]}


def read_predictions(attributes: Attributes, path: Path, lot: str = "") -> pd.DataFrame:
    """Read a predictions.csv as the suite checks it: text, confidences as numbers, empty cells missing.

    Absent columns are added: those of labels, all missing; that of the version, empty, as for a model that is not a
    version yet; and that of the lot of the file. The columns of `Face` are left out.
    """
    labelled = names(attributes)
    types = {**dict.fromkeys(columns(attributes), "str"), **{f"{name}_confidence": "float64" for name in labelled}}
    table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
    table = table.drop(columns=[*Face._fields], errors="ignore")
    table["filename"] = table["filename"].map(as_written, na_action="ignore")
    absent = {"lot": pd.Series(lot, table.index, "str")}
    absent |= {name: pd.Series(pd.NA, table.index, "str") for name in labelled if name not in table}
    if VERSION not in table:
        absent[VERSION] = pd.Series("", table.index, "str")
    return table.assign(**absent)
