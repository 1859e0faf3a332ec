"""The monitoring log: `monitoring_log.json`, one JSON object a line, one line a check, the oldest first.

    time           end of the check, UTC, ISO 8601, seconds
    run            the run of the check, "" if unknown
    key            of the artifact of stage monitor with all findings; the same findings have the same key
    champion       the monitored version, null before any release
    lots           lots with new images -> number of images that were not used to train or measure it
    seen           every predicted lot -> number of images that it knows
    labelled       lot, or "all new images" -> number of new images with a label, if any
    labels_read    whether labels could be read; without them drift is still reported
    performance    verdict (ok, low, not enough data, nothing to monitor), metric, mean_accuracy,
                   mean_balanced_accuracy, mean_majority (the most frequent classes alone; all 0-1), low and high (95 %
                   interval of the metric), labels, lots (low ones; "all new images" if no single lot is low)
    drift          verdict (none, found, not enough data, nothing to monitor), lots (drifted ones; likewise), tests,
                   signals (the strongest: lot, signal, moved, then, now, psi, distance, p_corrected, drifted)
    expected       of new images without labels: images, mean_accuracy (expected, 0-1), low and high (its 95 %
                   interval; too high for drifted images), lots (where it is below min_accuracy; likewise)
    labels_needed  lots that drifted or have a low expected accuracy, and have no label of a new image: the artifact's
                   to_label.csv lists the images to label first; a training without such labels would not help
    cause          cause of a training: champion, the lots concerned by performance and by drift, and the number of
                   labelled new images of each; or null
    cause_id       digest of it (12 hex digits), "" if there is none
    repeated       whether earlier checks have started trainings for all of that cause
    retrain        whether this check starts a training: there is a cause, and it is not repeated

`Check.model_json_schema()` is the same as a JSON schema. A line that a full disk cuts short does not affect others.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from stages.common.contract.artifacts import lock_of, locked, read_json, reading
from stages.common.contract.history import append_line, read_lines
from stages.common.contract.logs import log
from stages.common.contract.params import Section
from stages.common.contract.stage import Headline
from stages.common.inference.measures import Metric

LOG = "monitoring_log.json"
DECISION = "decision.json"
"""Source of a line. Named here and not beside `decide`, which imports the libraries that found it."""


class PerformanceFound(Section):
    """`performance` of a check."""

    verdict: Literal["ok", "low", "not enough data", "nothing to monitor"]
    metric: Metric = "accuracy"  # absent in lines of earlier code, like the next but one
    mean_accuracy: float | None
    mean_balanced_accuracy: float | None = None
    mean_majority: float | None = None
    low: float | None
    high: float | None
    labels: int
    lots: list[str]


class SignalFound(Section):
    """One of `drift.signals` of a check."""

    lot: str
    signal: str
    moved: str
    then: float
    now: float
    psi: float
    distance: float
    p_corrected: float
    drifted: bool


class DriftFound(Section):
    """`drift` of a check."""

    verdict: Literal["none", "found", "not enough data", "nothing to monitor"]
    lots: list[str]
    tests: int
    signals: list[SignalFound]


class ExpectedFound(Section):
    """`expected` of a check."""

    images: int
    mean_accuracy: float | None
    low: float | None
    high: float | None
    lots: list[str]


class Cause(Section):
    """`cause` of a check: the version, the lots that ask for its successor, the reasons, and their labels."""

    champion: str
    performance: list[str]
    drift: list[str]
    labelled: dict[str, int] = Field(default_factory=dict)


class Check(Section):
    """One line of the log."""

    time: str
    run: str
    key: str
    champion: str | None
    lots: dict[str, int]
    seen: dict[str, int] = Field(default_factory=dict)
    labelled: dict[str, int] = Field(default_factory=dict)
    labels_read: bool = True
    performance: PerformanceFound
    drift: DriftFound
    expected: ExpectedFound | None = None  # absent in lines of earlier code
    labels_needed: list[str] = Field(default_factory=list)
    cause: Cause | None
    cause_id: str
    repeated: bool
    retrain: bool


def append_check(file: Path, artifact: Path, key: str, run: str = "") -> Headline:
    """Write a check to the log, and decide whether it starts a training, given the earlier checks.

    The same check of the same run is written once: a task that is tried again after its container was killed gets the
    answer of its first try, so a decided training is not lost. A later run on unchanged data is a new check, which is
    written, and repeats the cause.

    Args:
        file: the log; it and its folder are created.
        artifact: of stage monitor.
        key: of that artifact.
        run: name of the run; if empty, every call is a new check.

    Returns:
        `retrain` and `repeated` ("yes" or "no"), and `cause_id` ("none" without a cause).

    Raises:
        DataError: the artifact holds no decision.
    """
    with reading(artifact / DECISION, "monitor"):
        decision = read_json(artifact / DECISION, "monitor")
        decision.pop("retrain")
    with locked(lock_of(file), "another check is being written to the log"):
        earlier = read_log(file)
        told = next((check for check in reversed(earlier) if run and (check.run, check.key) == (run, key)), None)
        if told is None:
            cause = decision["cause"] and Cause.model_validate(decision["cause"])
            repeated = cause is not None and is_repeated(cause, earlier)
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            fields = {
                "time": now,
                "run": run,
                "key": key,
                "repeated": repeated,
                "retrain": bool(cause) and not repeated,
            }
            told = Check.model_validate(decision | fields)
            append_line(file, told.model_dump(mode="json"))
    if told.repeated:
        log.info("the cause %s has started a training before, so it starts none now", told.cause_id)
    words = {name: "yes" if given else "no" for name, given in (("retrain", told.retrain), ("repeated", told.repeated))}
    return {**words, "cause_id": told.cause_id or "none"}


def is_repeated(cause: Cause, earlier: Sequence[Check]) -> bool:
    """Whether trainings were started for all lots of a cause, with their labels, against the same version.

    Not by `cause_id`: when one of the lots no longer drifts, the rest would be a new cause. But further labels of a lot
    are a new cause, because a training with them may succeed where one without them failed.
    """
    acted = [
        check.cause for check in earlier if check.retrain and check.cause and check.cause.champion == cause.champion
    ]
    return all(
        any(lot in getattr(known, kind) and known.labelled.get(lot, 0) >= cause.labelled.get(lot, 0) for known in acted)
        for kind, lots in (("performance", cause.performance), ("drift", cause.drift))
        for lot in lots
    )


def read_log(file: Path) -> list[Check]:
    """The checks of a log, the oldest first; a line that cannot be read is left out with a warning."""
    return list(read_lines(file, Check.model_validate_json))
