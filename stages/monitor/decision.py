"""From findings to a decision: a training if there are new labels for it, or else labels first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from stages.common.contract.artifacts import json_digest
from stages.common.inference.measures import Metric, means_of
from stages.common.registry.champion import Champion
from stages.monitor.drift import ALL, FOUND, Drift
from stages.monitor.new_images import NewImages
from stages.monitor.performance import LOW, Accuracy, GroupAccuracy, Performance
from stages.monitor.unlabelled import NONE, Unlabelled

NOTHING = "nothing to monitor"
STRONGEST = 5
"""Signals in a decision, and so in a line of the log."""


def decide(
    champion: Champion | None,
    new: NewImages,
    performance: Performance,
    drift: Drift,
    unlabelled: Unlabelled,
    min_accuracy: float,
    *,
    labels_read: bool = True,
) -> dict[str, Any]:
    """The content of decision.json, without the consequences of earlier checks, which are in the log.

    A training helps only with new labels: the same labels would give the same model again. So lots without labels need
    labels first if they drifted, or if their expected accuracy is below `min_accuracy`.

    Returns:
        `champion`, its version; `lots`, lot -> number of its new images; `seen`, every lot -> number of images that the
        champion knows; `labelled`, lot, or `ALL` -> number of new images with a label; `labels_read`, whether labels
        could be read; `performance` and `drift`, each with its `verdict`, the `lots` concerned and the figures;
        `expected`, expected accuracy on the new `images` without labels, and the `lots` in which it is too low;
        `labels_needed`, the lots that drifted or have a low expected accuracy, and have no new label; `retrain`,
        whether the other findings ask for a training; `cause` {"champion", "performance": lots, "drift": lots,
        "labelled": of these}, and its digest `cause_id`, or null and "".
    """
    version = champion.version if champion else None
    labelled = {lot: group.images for lot, group in performance.lots.items()} | {ALL: performance.total.images}
    low = sorted(performance.concerned) if performance.verdict == LOW else []
    drifted = sorted(drift.concerned) if drift.verdict == FOUND else []
    # there is no estimate of balanced accuracy
    doubtful = unlabelled.low(min_accuracy) if performance.metric == "accuracy" else []
    concerned = {"performance": low, "drift": [lot for lot in drifted if labelled.get(lot)]}
    return {
        "champion": version,
        "lots": {lot: len(new.lots[lot]) for lot in sorted(new.lots)},
        "seen": dict(sorted(new.seen.items())),
        "labelled": {lot: count for lot, count in sorted(labelled.items()) if count},
        "labels_read": labels_read,
        "performance": {
            "verdict": performance.verdict,
            "metric": performance.metric,
            **performance.means,
            "low": performance.total.mean.low,
            "high": performance.total.mean.high,
            "labels": performance.total.mean.labels,
            "lots": low,
        },
        "drift": {
            "verdict": drift.verdict,
            "lots": drifted,
            "tests": sum(test.p is not None for test in drift.tests),
            "signals": _strongest(drift),
        },
        "expected": _expected(unlabelled, doubtful),
        "labels_needed": [lot for lot in sorted({*drifted, *doubtful}) if labels_read and not labelled.get(lot)],
        **_cause(version, concerned, labelled),
    }


def nothing_to_monitor(champion: Champion | None, new: NewImages, metric: Metric) -> dict[str, Any]:
    """The content of decision.json without a champion, or without new images."""
    performance = Performance(metric, NOTHING, GroupAccuracy(0, {}, Accuracy(0)), {}, [], {}, means_of([]))
    return decide(champion, new, performance, Drift(NOTHING, {}, [], [], pd.DataFrame(), {}), NONE, 0)


def _expected(unlabelled: Unlabelled, doubtful: Sequence[str]) -> dict[str, Any]:
    mean = unlabelled.expected["mean"] if unlabelled.expected else {}
    figures = {name: mean.get(key) for name, key in (("mean_accuracy", "value"), ("low", "low"), ("high", "high"))}
    return {"images": unlabelled.images, **figures, "lots": sorted(doubtful)}


def _cause(version: str | None, concerned: Mapping[str, Sequence[str]], labelled: Mapping[str, int]) -> dict[str, Any]:
    """The lots concerned, the kind of finding, and their numbers of labelled images, but not the drifted signals.

    With more images there are more tests, so a signal may no longer be significant; that must not be a new cause.
    """
    if not any(concerned.values()):
        return {"retrain": False, "cause": None, "cause_id": ""}
    lots = sorted({lot for of_kind in concerned.values() for lot in of_kind})
    cause = {"champion": version, **concerned, "labelled": {lot: labelled[lot] for lot in lots}}
    return {"retrain": True, "cause": cause, "cause_id": json_digest(cause)[:12]}


def _strongest(drift: Drift) -> list[dict[str, Any]]:
    kept = ("lot", "signal", "moved", "then", "now", "psi", "distance", "p_corrected", "drifted")
    told = [asdict(test) for test in drift.tests if test.p is not None][:STRONGEST]
    return [
        {name: round(value, 6) if isinstance(value := test[name], float) else value for name in kept} for test in told
    ]
