"""The record by which a version is compared with any other: its figures, and its answers to test images."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.archive.meeting import Candidate
from stages.archive.release import RECORD
from stages.common.contract.artifacts import read_json
from stages.common.inference.compared import compared_images
from stages.common.registry.registry import LINEAGE
from stages.common.schema.attributes import read_attributes

EPOCHS = 60
"""Points of a curve, evenly spread: nobody would see 120 more."""
LOTS = 50
"""Lots with the most test labels: the accuracy on a few labels means nothing."""
CURVES = ("train_loss", "val_loss", "val_mean_accuracy")


def write_record(archive: Path, candidate: Candidate) -> None:
    """Write `RECORD` into an archive that has all other files, as ASCII JSON.

    Args:
        archive: the artifact of stage archive.
        candidate: the model, with its answers to the test images.
    """
    metrics = {path.stem: read_json(path) for path in (archive / "metrics").glob("*.json")}
    chain = read_json(archive / LINEAGE)
    measures, stats = metrics["eval_metrics"]["attributes"], metrics.get("data_stats", {})
    used = yaml.safe_load((archive / "params.yaml").read_text(encoding="utf-8"))
    by_lot = sorted(metrics.get("slices", {}).get("lots", []), key=lambda lot: (-lot["labels"], lot["name"]))
    record = {
        "attributes": [
            {
                "name": attribute.name,
                "title": attribute.title,
                "classes": attribute.classes,
                **_figures(measures[attribute.name]),
            }
            for attribute in read_attributes(archive)
        ],
        "test_images": metrics["eval_metrics"]["images"],
        "worst_slice": metrics["eval_metrics"]["worst_slice"],
        "by_lot": {lot["name"]: [lot["labels"], _rounded(lot["accuracy"])] for lot in by_lot[:LOTS]},
        "images": stats.get("images"),
        "splits": stats.get("splits", {}),
        "labels": _labels(stats),
        "inputs": {
            f"{stage}: {name}": source["digest"][:12]
            for stage, entry in chain.items()
            for name, source in entry["inputs"].items()
            if "files" in source
        },
        "seconds": {stage: entry["seconds"] for stage, entry in chain.items()},
        "params": dict(_flat(used)),
        "curves": _curves(metrics.get("train_metrics", {}).get("history", [])),
        "answers": _answers(candidate),
    }
    (archive / RECORD).write_text(json.dumps(record, separators=(",", ":"), allow_nan=False), encoding="ascii")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _figures(measures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of an attribute; per class: class, labels, then precision and recall, each with its interval."""
    told = {name: _rounded(measures[name]) for name in ("accuracy", "balanced_accuracy")}
    classes = [
        [
            row["class"], row["support"],
            *(_rounded(end) for name in ("precision", "recall")
              for end in (row[name], *(row[f"{name}_interval"] or (None, None)))),
        ]
        for row in measures["per_class"]
    ]  # fmt: skip
    interval = measures["accuracy_interval"]
    between = interval and [_rounded(end) for end in interval]
    return {"labels": measures["labels"], **told, "interval": between, "per_class": classes}


def _labels(stats: Mapping[str, Any]) -> int | None:
    """Known labels of all splits and attributes."""
    counts = [classes for splits in stats.get("labels", {}).values() for classes in splits.values()]
    return sum(sum(count for name, count in classes.items() if name != "unknown") for classes in counts) or None


def _flat(params: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Every parameter by its full name, its value as text."""
    for name, value in params.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", json.dumps(value)


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Name -> values, and `epoch`, at up to `EPOCHS` epochs, the last one among them."""
    step = max(1, -(-len(history) // EPOCHS))
    chosen = history[len(history) - 1 :: -step][::-1] if history else []
    return {
        name: [epoch[name] if name == "epoch" else _rounded(epoch[name]) for epoch in chosen]
        for name in ("epoch", *CURVES)
    }


def _answers(candidate: Candidate) -> dict[str, Any]:
    """Digest of the picture, name, labels and answers (class indices, -1 without) of the compared images."""
    chosen = compared_images(candidate.pictures, len(candidate.attributes))
    return {
        "pictures": [candidate.pictures[at] for at in chosen],
        "filenames": [candidate.filenames[at] for at in chosen],
        "labels": candidate.labels[chosen].tolist(),
        "answers": candidate.predicted[chosen].tolist(),
    }
