"""From what was found to what is to be done."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages.common.artifacts import json_digest
from stages.common.champion import Champion
from stages.monitor.drift import FOUND, Drift
from stages.monitor.performance import LOW, Performance

DECISION = "decision.json"
NOTHING = "nothing to monitor"
STRONGEST = 5
"""Signals that a decision, and so a line of the log, names."""


def decide(champion: Champion, lots: Mapping[str, int], performance: Performance, drift: Drift) -> dict[str, Any]:
    """What decision.json says, apart from what earlier checks have led to, which only the log knows.

    Returns:
        `champion`, its version; `lots`, the new ones, which it has not learned from, with their images; `performance`
        and `drift`, each with its `verdict`, the `lots` concerned and the figures; `retrain`, whether the findings ask
        for it; `cause` {"champion", "performance": lots, "drift": lots}, and its digest `cause_id`, or null and "".
    """
    concerned = {
        "performance": sorted(performance.concerned) if performance.verdict == LOW else [],
        "drift": sorted(drift.concerned) if drift.verdict == FOUND else [],
    }
    return {
        "champion": champion.version,
        "lots": dict(sorted(lots.items())),
        "performance": {
            "verdict": performance.verdict,
            "mean_accuracy": performance.total.mean.value,
            "low": performance.total.mean.low,
            "high": performance.total.mean.high,
            "labels": performance.total.mean.labels,
            "lots": concerned["performance"],
        },
        "drift": {
            "verdict": drift.verdict,
            "lots": concerned["drift"],
            "tests": sum(test.p is not None for test in drift.tests),
            "signals": _strongest(drift),
        },
        **_cause(champion.version, concerned),
    }


def nothing_to_monitor(version: str | None) -> dict[str, Any]:
    """What decision.json says without a champion (None), or without a lot that it has not learned from."""
    return {
        "champion": version,
        "lots": {},
        "performance": {"verdict": NOTHING, "mean_accuracy": None, "low": None, "high": None, "labels": 0, "lots": []},
        "drift": {"verdict": NOTHING, "lots": [], "tests": 0, "signals": []},
        **_cause(version, {}),
    }


def _cause(version: str | None, concerned: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Who is concerned, and how, but not which signals moved.

    As lots come in, the correction for more tests lets one of these drop out; that must not make another cause.
    """
    if not any(concerned.values()):
        return {"retrain": False, "cause": None, "cause_id": ""}
    cause = {"champion": version, **concerned}
    return {"retrain": True, "cause": cause, "cause_id": json_digest(cause)[:12]}


def _strongest(drift: Drift) -> list[dict[str, Any]]:
    kept = ("lot", "signal", "moved", "then", "now", "psi", "distance", "p_corrected", "drifted")
    told = [asdict(test) for test in drift.tests if test.p is not None][:STRONGEST]
    return [
        {name: round(value, 6) if isinstance(value := one[name], float) else value for name in kept} for one in told
    ]
