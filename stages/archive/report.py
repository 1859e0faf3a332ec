"""The run report: what one version is, how good it is, and where it came from."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.archive.collect import REJECTED
from stages.common.attributes import ATTRIBUTES
from stages.common.report import REPORT, Cards, Group, Link, Plot, Report, Section, Table, shown

REJECTS_SHOWN = 50
"""Rows of a rejects table; the full list is in `<stage>/rejected.csv` beside the report."""
MEASURES = {
    "labels": "Labels", "accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1",
    "roc_auc": "ROC AUC", "ece": "ECE", "coverage": "Answered", "answered_accuracy": "Right",
}  # fmt: skip
PLOTS = {
    "confusion_matrices": "Confusion matrices: rows are the labels, columns what the model says",
    "roc_curves": "ROC curves",
    "reliability": "Reliability: right answers at each confidence",
    "training_curves": "Loss",
    "accuracy_curves": "Validation accuracy",
    "trials": "Hyperparameter search",
    "data_distribution": "Class shares by split",
}

Manifests = Mapping[str, Mapping[str, Any]]


def build_report(title: str, key: str, manifests: Manifests, archive: Path) -> Report:
    """Put the report of a version together.

    Args:
        title: the page's title.
        key: the key of the archive artifact; its first 12 digits name the version.
        manifests: stage name -> manifest.
        archive: the folder that `stages.archive.collect.collect` has filled.
    """
    metrics = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (archive / "metrics").glob("*.json")}
    evaluation = metrics["eval_metrics"]
    rejects = {stage: _rejects(archive / stage) for stage in ("validate", "prepare_train")}
    figures = {
        "mean test accuracy": evaluation["mean_accuracy"],
        "test images, seen by nothing before": evaluation["images"],
        "images prepared": manifests["prepare_train"]["headline"]["images"],
        "rejected, with reasons below": sum(map(len, rejects.values())),
    }
    if "label_doubt" in metrics:
        figures["doubtful labels"] = metrics["label_doubt"]["doubts"]
    data = [_rejected(stage, rows) for stage, rows in rejects.items() if rows]
    sections: list[Section] = [
        Cards(figures),
        _stages(manifests, archive),
        Group(
            "Test metrics", [_measures(evaluation), *_plots(archive, "confusion_matrices", "roc_curves", "reliability")]
        ),
        Group("Training", _plots(archive, "training_curves", "accuracy_curves", "trials")),
        Group("Data", [*_plots(archive, "data_distribution"), *data, *_left_out(metrics)]),
        _lineage(manifests),
        _params(manifests),
    ]
    made = manifests["train"]["created"]
    return Report(title, f"Run report, version {key[:12]}, model made {made}", sections=sections)


def _rejects(folder: Path) -> list[dict[str, str]]:
    file = folder / REJECTED
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


def _rejected(stage: str, rows: list[dict[str, str]]) -> Table:
    first, note = shown(rows, REJECTS_SHOWN)
    return Table(
        f"{len(rows):,} rejected by {stage}",
        ("File", "Reason"),
        [(row["filename"], row["reason"]) for row in first],
        note=note,
        link=("All of them as CSV", f"{stage}/{REJECTED}"),
        folded=True,
    )


def _stages(manifests: Manifests, archive: Path) -> Table:
    """Every stage with the way to its own report."""
    rows = [
        (
            Link(stage, f"{stage}/{REPORT}") if (archive / stage / REPORT).exists() else stage,
            manifest["headline"],
            manifest["seconds"],
            manifest["peak_memory_mb"],
        )
        for stage, manifest in manifests.items()
    ]
    return Table("Reports of the stages", ("Stage", "Headline", "Seconds", "Memory, MB"), rows)


def _measures(evaluation: Mapping[str, Any]) -> Table:
    found = evaluation["attributes"]
    return Table(
        "",
        ("Attribute", *MEASURES.values()),
        [(one.title, *(found[one.name][name] for name in MEASURES)) for one in ATTRIBUTES],
        note="Precision, recall and F1 are means over classes; an unknown label does not count. ECE is the expected "
        "calibration error. Answered is the share for which the model is sure enough, Right what is right of these.",
    )


def _plots(archive: Path, *names: str) -> list[Section]:
    files = [(name, archive / "plots" / f"{name}.png") for name in names]
    return [Plot(PLOTS[name], file.read_bytes()) for name, file in files if file.exists()]


def _left_out(metrics: Mapping[str, Any]) -> list[Section]:
    """What is left out or remarked besides the rejects."""
    rows: list[tuple[object, ...]] = []
    if validation := metrics.get("validation"):
        warnings, unannotated = (Link(name, f"validate/{name}") for name in ("warnings.csv", "unannotated.csv"))
        rows.append(("Annotation rows left out", "lot not selected", validation["not_selected"], ""))
        rows += [("Annotation rows remarked", what, n, warnings) for what, n in validation["remarks"].items()]
        rows.append(("Images left out", "no annotation", validation["unannotated"], unannotated))
        rows += [("Files not read", what, n, unannotated) for what, n in validation["ignored"].items()]
    if stats := metrics.get("data_stats"):
        found, listed = stats["duplicates"], Link("data_stats.json", "metrics/data_stats.json")
        names = f"under several names ({found['images']} images)"
        rows.append(("Pictures remarked", names, found["pictures"], listed))
        against = "under several names, with contradicting labels"
        rows.append(("Pictures remarked", against, found["contradicting_labels"], listed))
    return [Table("Left out or remarked", ("What", "Found", "Count", "Listed in"), rows)] if rows else []


def _lineage(manifests: Manifests) -> Table:
    rows = []
    for stage, manifest in manifests.items():
        made_from = []
        for name, source in manifest["inputs"].items():
            files = f" ({source['files']} file{'' if source['files'] == 1 else 's'})" if "files" in source else ""
            made_from.append(f"{name} {source.get('key', source.get('digest'))[:12]}{files}")
        rows.append((stage, manifest["key"][:12], made_from))
    link = ("All of it, with images and commits: lineage.json", "lineage.json")
    return Table("Lineage", ("Stage", "Key", "Made from"), rows, link=link)


def _params(manifests: Manifests) -> Table:
    rows = [
        (stage, f"{section}.{name}", str(value))
        for stage, manifest in manifests.items()
        for section, values in manifest["params"].items()
        for name, value in values.items()
    ]
    return Table("Parameters", ("Stage", "Parameter", "Value"), rows, folded=True)
