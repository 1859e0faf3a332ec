"""Measures of one attribute that only stage evaluate computes: ROC, calibration, coverage."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score, roc_curve

from stages.common.inference import measures
from stages.common.inference.answers import Answers
from stages.common.inference.calibration import Bin, expected_calibration_error, reliability
from stages.common.inference.measures import Measures


def roc_curves(answers: Answers) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]]:
    """ROC curve of every class against the rest, of known labels.

    Two classes share one curve, that of the second. A class without labels, or with all labels, has no curve.

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

    ROC AUC is that of the second class of two, else the average over the classes, each against the rest. `ece` is the
    expected calibration error; `coverage` is the share of labels that are answered with a confidence of `threshold` or
    more, and `answered_accuracy` the share of right answers among these. All other measures include every image,
    answered or not. A measure that cannot be computed is None, never NaN, and `note` says why.

    For an attribute that is never answered, only the labels are counted, and no mean includes it. A label of a class
    that training has not seen counts as a wrong answer; `unlearned_labels` counts these labels.
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
    elif len(present) == 1:
        notes.append(f"no ROC AUC, no balanced accuracy: every label in the test split is {classes[present[0]]!r}")
    elif len(present) < len(classes):
        absent = ", ".join(name for n, name in enumerate(classes) if n not in present)
        notes.append(f"no labels of {absent} in the test split")

    result: dict[str, Any] = {
        **measures.measure(everything),
        "unlearned_labels": sum(unlearned.values()),
        "roc_auc": float(np.mean([area for _, _, area in curves.values()])) if curves else None,
        "ece": expected_calibration_error(answers.confidence[answers.finite], right[answers.finite]),
        "threshold": None if answers.never else answers.threshold,
        "coverage": float(answered.mean()) if count and not answers.never else None,
        "answered_accuracy": float(right[answered].mean()) if answered.any() else None,
    }
    if notes:
        result["note"] = "; ".join(notes)
    return result
