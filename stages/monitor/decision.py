"""From what was found to what is to be done: a training, if there are new labels to learn from, or labels first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages.common.contract.artifacts import json_digest
from stages.common.inference.measures import Metric
from stages.common.registry.champion import Champion
from stages.monitor.drift import ALL, FOUND, Drift
from stages.monitor.new_images import NewImages
from stages.monitor.performance import LOW, Performance
from stages.monitor.unlabelled import NONE, Unlabelled

NOTHING = "nothing to monitor"
STRONGEST = 5
"""Signals that a decision, and so a line of the log, names."""


def decide(
    champion: Champion,
    new: NewImages,
    performance: Performance,
    drift: Drift,
    unlabelled: Unlabelled,
    min_accuracy: float,
    *,
    labels_read: bool = True,
) -> dict[str, Any]:
    """The content of decision.json, without the consequences of earlier checks, which only the log knows.

    A training can mend only what somebody has labelled: the same labels would give the same model again. So labels come
    first of lots that drifted, or whose expected accuracy is below `min_accuracy`, and that have none.

    Returns:
        `champion`, its version; `lots`, those with new images -> how many; `seen`, every lot -> how many the champion
        knows; `labelled`, lot, or `ALL` -> how many new ones have a label; `labels_read`, whether anybody's labels
        could be read; `performance` and `drift`, each with its `verdict`, the `lots` concerned and the figures;
        `expected`, accuracy of the new `images` without labels, and the `lots` of which it is too low; `labels_needed`,
        the lots that drifted or are expected to be low, and have no new label; `retrain`, whether the other findings
        ask for it; `cause` {"champion", "performance": lots, "drift": lots, "labelled": of these}, and its digest
        `cause_id`, or null and "".
    """
    labelled = {lot: group.images for lot, group in performance.lots.items()} | {ALL: performance.total.images}
    low = sorted(performance.concerned) if performance.verdict == LOW else []
    drifted = sorted(drift.concerned) if drift.verdict == FOUND else []
    # of balanced accuracy nothing is expected
    doubtful = unlabelled.low(min_accuracy) if performance.metric == "accuracy" else []
    concerned = {"performance": low, "drift": [lot for lot in drifted if labelled.get(lot)]}
    return {
        "champion": champion.version,
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
        **_cause(champion.version, concerned, labelled),
    }


def nothing_to_monitor(version: str | None, seen: Mapping[str, int], metric: Metric) -> dict[str, Any]:
    """The content of decision.json without a champion (None), or without an image that it does not know."""
    return {
        "champion": version,
        "lots": {},
        "seen": dict(sorted(seen.items())),
        "labelled": {},
        "labels_read": True,
        "performance": {
            "verdict": NOTHING, "metric": metric, "mean_accuracy": None, "mean_balanced_accuracy": None,
            "mean_majority": None, "low": None, "high": None, "labels": 0, "lots": [],
        },
        "drift": {"verdict": NOTHING, "lots": [], "tests": 0, "signals": []},
        "expected": _expected(NONE, []),
        "labels_needed": [],
        **_cause(version, {}, {}),
    }  # fmt: skip


def _expected(unlabelled: Unlabelled, doubtful: Sequence[str]) -> dict[str, Any]:
    mean = unlabelled.expected["mean"] if unlabelled.expected else {}
    figures = {name: mean.get(key) for name, key in (("mean_accuracy", "value"), ("low", "low"), ("high", "high"))}
    return {"images": unlabelled.images, **figures, "lots": sorted(doubtful)}


def _cause(version: str | None, concerned: Mapping[str, Sequence[str]], labelled: Mapping[str, int]) -> dict[str, Any]:
    """Who is concerned, how, and how many of their images are labelled, but not which signals moved.

    As images come in, the correction for more tests lets one of these drop out; that must not make another cause.
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
