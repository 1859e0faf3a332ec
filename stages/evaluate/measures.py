"""The measures of one attribute: accuracy, precision, recall, F1, confusion matrix, ROC AUC, calibration, coverage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score, roc_curve

from stages.common.inference.answers import Answers
from stages.common.inference.calibration import Bin, expected_calibration_error, reliability

Measures = Mapping[str, Any]


def roc_curves(answers: Answers) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]]:
    """ROC curve of every class against the rest, of known labels.

    Two classes have one curve between them, that of the second. A class that no label has, or every label, has none.

    Returns:
        Class name -> false positive rate, true positive rate, area under the curve.
    """
    classes = list(enumerate(answers.attribute.classes))
    curves = {}
    for number, name in classes[1:] if len(classes) == 2 else classes:
        positive = answers.labels == number
        if positive.any() and not positive.all() and answers.finite.all():
            score = answers.probabilities[:, number]
            false_rate, true_rate, _ = roc_curve(positive, score)
            curves[name] = (false_rate, true_rate, float(roc_auc_score(positive, score)))
    return curves


def reliability_of(everything: Answers) -> list[Bin]:
    """Confidence against accuracy per part of 0 to 1, of known labels."""
    answers = everything.known()
    return reliability(answers.confidence[answers.finite], answers.right[answers.finite])


def measure(everything: Answers) -> Measures:
    """Measure one attribute on the images whose label is known.

    Precision, recall and F1 are macro averages over the classes that have labels; ROC AUC is that of the second class
    of two, else the average over the classes, each against the rest. What cannot be computed is None, never NaN, and
    `note` says why. An image without a finite answer counts as wrong everywhere and stands in no confusion matrix.
    `ece` is the expected calibration error; `coverage` the share of labels that are answered with a confidence of
    `threshold` or more, and `answered_accuracy` the share of right ones among these. All other measures take in every
    image, answered or not.

    An attribute that is never answered has its labels counted and nothing measured, so no mean takes it in. A label of
    a class that training has not seen is one that the model gets wrong; `unlearned_labels` counts them.
    """
    answers = everything.known()
    classes = answers.attribute.classes
    count = len(answers.labels)
    present = [number for number in range(len(classes)) if (answers.labels == number).any()]
    curves = roc_curves(answers)
    notes = []
    right, answered = answers.right, answers.answered
    unanswered = int((~answers.finite).sum())
    unlearned = {name: int((answers.labels == classes.index(name)).sum()) for name in answers.unlearned}
    if answers.never:
        notes.append(f"never answered: {answers.never}")
    elif unanswered:
        notes.append(f"{unanswered} of {count} images got no finite probabilities and count as wrong")
    notes += [
        f"training has no label of {name}: its {wrong} here count as wrong"
        for name, wrong in unlearned.items()
        if wrong
    ]
    if answers.never:
        pass
    elif not present:
        notes.append("no labels in the test split")
    elif not curves and not unanswered:
        notes.append(f"no ROC AUC: every label in the test split is {classes[present[0]]!r}")
    elif len(present) < len(classes):
        absent = ", ".join(name for n, name in enumerate(classes) if n not in present)
        notes.append(f"no labels of {absent} in the test split")

    result: dict[str, Any] = {
        "labels": count,
        "unlearned_labels": sum(unlearned.values()),
        "accuracy": float(right.mean()) if count and not answers.never else None,
        "precision": None,
        "recall": None,
        "f1": None,
        "roc_auc": float(np.mean([area for _, _, area in curves.values()])) if curves else None,
        "ece": expected_calibration_error(answers.confidence[answers.finite], right[answers.finite]),
        "threshold": None if answers.never else answers.threshold,
        "coverage": float(answered.mean()) if count and not answers.never else None,
        "answered_accuracy": float(right[answered].mean()) if answered.any() else None,
        "classes": list(classes),
        "support": [int((answers.labels == number).sum()) for number in range(len(classes))],
        "confusion_matrix": _confusion(answers),
        "per_class": [],  # a list, so that `dvc metrics show` prints columns per attribute and not per class
    }
    if present and not answers.never:
        scores = precision_recall_fscore_support(answers.labels, answers.predicted, labels=present, zero_division=0)[:3]
        for name, values in zip(("precision", "recall", "f1"), scores, strict=True):
            result[name] = float(np.mean(values))
        result["per_class"] = [
            {"class": classes[number], "precision": float(precision), "recall": float(recall), "f1": float(f1)}
            for number, precision, recall, f1 in zip(present, *scores, strict=True)
        ]
    if notes:
        result["note"] = "; ".join(notes)
    return result


def _confusion(answers: Answers) -> list[list[int]]:
    """Rows are labels, columns predictions: classes x classes counts."""
    sides = range(len(answers.attribute.classes))
    if not len(answers.labels):
        return [[0 for _ in sides] for _ in sides]
    # one more class for images without an answer, cut away again: sklearn wants a label to be among the classes
    matrix = confusion_matrix(answers.labels, answers.predicted, labels=[*sides, len(sides)])
    return [[int(value) for value in row[:-1]] for row in matrix[:-1]]


def mean_of(name: str, measures: Sequence[Measures]) -> float | None:
    """Mean of a measure over the attributes that have it; None if none has."""
    known = [one[name] for one in measures if one[name] is not None]
    return float(np.mean(known)) if known else None
