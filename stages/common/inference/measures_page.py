"""The tables of every report that measures a model: its attributes, and the classes of each."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.common.inference.calibration import Threshold
from stages.common.inference.measures import RARE, Measures
from stages.common.reports.report import Table, share
from stages.common.schema.attributes import Attributes

COLUMNS = {
    "labels": "Labels", "accuracy": "Accuracy", "majority": "Most frequent class",
    "balanced_accuracy": "Balanced accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1",
}  # fmt: skip
MANY = 40
"""Number of classes from which on their table is folded."""


def told_means(means: Mapping[str, Any]) -> str:
    """A line about `stages.common.inference.measures.means_of`, whose accuracy must be known."""
    balanced = means["mean_balanced_accuracy"]
    told = f"Mean accuracy {means['mean_accuracy']:.3f} (the most frequent classes alone: {means['mean_majority']:.3f})"
    return told if balanced is None else f"{told}, balanced accuracy {balanced:.3f}"


def measures_table(
    attributes: Attributes,
    measures: Mapping[str, Measures],
    title: str,
    more: Mapping[str, str] | None = None,
    note: str = "",
) -> Table:
    """A row per attribute.

    Args:
        attributes: the measured attributes.
        measures: attribute -> `stages.common.inference.measures.measure`.
        title: of the table.
        more: further figures of `measures` -> the title of their column.
        note: on these further figures.
    """
    columns = COLUMNS | dict(more or {})
    return Table(
        title,
        ("Attribute", *columns.values()),
        [(attribute.title, *(measures[attribute.name].get(name) for name in columns)) for attribute in attributes],
        note="Most frequent class: the accuracy of always answering that class. Balanced accuracy is the mean recall "
        "of the classes, at least two of which need labels; precision, recall and F1 are also means over classes. "
        f"Unknown labels do not count. {note}".strip(),
    )


def classes_table(attributes: Attributes, measures: Mapping[str, Measures]) -> Table:
    """A row per class: its labels, precision and recall with intervals, average precision if it is rare."""
    rows = [
        (
            attribute.title, row["class"], row["support"],
            row["precision"], between(row["precision_interval"]),
            row["recall"], between(row["recall_interval"]),
            row["f1"], row.get("average_precision"),
        )
        for attribute in attributes
        for row in measures[attribute.name]["per_class"]
    ]  # fmt: skip
    columns = ("Attribute", "Class", "Labels", "Precision", "95 %", "Recall", "95 %", "F1", "Average precision")
    note = (
        "Precision: share of right answers among those with this class. Recall: share of the images of this class that "
        "are found. The interval beside it contains the true figure with 95 %, adjusted for images that belong "
        f"together. Average precision is given for classes below {RARE:.0%} of the labels; by chance it is their share "
        "of the labels."
    )
    return Table("Classes", columns, rows, note=note, folded=len(rows) >= MANY)


def thresholds_table(attributes: Attributes, measures: Mapping[str, Measures], title: str) -> Table:
    """A row per attribute: its threshold, the effect of the threshold, and the calibration error.

    Args:
        attributes: the measured attributes.
        measures: attribute -> its figures in `metrics/eval_metrics.json` of stage evaluate.
        title: of the table.
    """
    rows = []
    for attribute in attributes:
        figures = measures[attribute.name]
        threshold = told_threshold(figures["classes"], figures.get("threshold"))
        answered, right = (share(figures.get(name)) for name in ("coverage", "answered_accuracy"))
        rows.append((attribute.title, threshold, answered, right, figures.get("ece")))
    columns = ("Attribute", "Answers from a confidence of", "Answered", "Right of these", "ECE")
    note = (
        "Chosen on the validation split. Below its threshold the model abstains. ECE is the expected calibration "
        "error, the mean distance between confidence and accuracy."
    )
    return Table(title, columns, rows, note=note)


def told_threshold(classes: Sequence[str], threshold: Threshold | None) -> object:
    """The lowest confidence of an answer, or that of each class, for a table."""
    return dict(zip(classes, threshold, strict=True)) if isinstance(threshold, list) else threshold


def between(interval: tuple[float, float] | None) -> str | None:
    """An interval, for a table."""
    return None if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
