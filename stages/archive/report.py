"""The report of a version: its measures, the verdict of the gate, and its lineage."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.archive.collect import HARDEST, REJECTED
from stages.archive.release import DATA_CARD, GATE, MODEL_CARD
from stages.common.contract.artifacts import read_json
from stages.common.contract.tables import as_written
from stages.common.inference.measures import METRICS, in_words
from stages.common.inference.measures_page import classes_table, measures_table
from stages.common.registry.registry import LINEAGE
from stages.common.reports.report import (
    REPORT,
    Badge,
    Cards,
    Group,
    Labels,
    Link,
    Links,
    PageSection,
    Picture,
    Pictures,
    Plot,
    Report,
    Table,
    short_table,
)
from stages.common.schema.attributes import read_attributes

REJECTS_SHOWN = 50
"""Rows of a rejects table; the full list is in `<stage>/rejected.csv` beside the report."""
MORE_MEASURES = {"roc_auc": "ROC AUC", "ece": "ECE", "coverage": "Answered", "answered_accuracy": "Right"}
"""Further figures in a table of attributes."""
MORE_NOTE = (
    "ECE is the expected calibration error. Answered is the share of images for which the model is sure enough, Right "
    "the share of these answers that are right."
)
PLOTS = {
    "confusion_matrices": "Confusion matrices: rows are labels, columns are predictions",
    "roc_curves": "ROC curves",
    "reliability": "Reliability: right answers at each confidence",
    "training_curves": "Loss",
    "accuracy_curves": "Accuracy and balanced accuracy on validation images",
    "augmented_pictures": "Training pictures as the network sees them once, augmented",
    "trials": "Hyperparameter search",
    "data_distribution": "Class shares by split",
}

P_VALUE = (
    "Better and worse count the answers that only one of the two has right. p: how often two equally good models would "
    "differ by at least this much in {metric} to the candidate's disadvantage ({test}, adjusted for all attributes). "
    "Images that belong together count as one."
)
TESTS = {"accuracy": "McNemar", "balanced_accuracy": "permutation test; each class counts as much as the others"}

Chain = Mapping[str, Mapping[str, Any]]
"""`LINEAGE`: stage -> key, inputs, cost, headline."""


def build_report(
    title: str, archive: Path, versions: str, run: Sequence[PageSection] = (), subtitle: str = "", base: str = ""
) -> Report:
    """Put together the report of a version, or of a run that made it.

    Args:
        title: the page's title.
        archive: the folder filled by `stages.archive.stage`.
        versions: relative address of the page of all versions.
        run: first sections, about a run.
        subtitle: one line below the title.
        base: relative address of the archive from the page, ending in a slash; "" for a page inside it.
    """
    chain: Chain = read_json(archive / LINEAGE)
    gate = read_json(archive / GATE)
    metrics = {path.stem: read_json(path) for path in (archive / "metrics").glob("*.json")}
    evaluation = metrics["eval_metrics"]
    rejects = {stage: _rejects(archive / stage) for stage in ("validate", "prepare_train")}
    figures = {
        "mean test accuracy": evaluation["mean_accuracy"],
        "mean balanced accuracy": evaluation["mean_balanced_accuracy"],
        "most frequent class alone": evaluation["mean_majority"],
        "test images, not used before": evaluation["images"],
        "images prepared": chain["prepare_train"]["headline"]["images"],
        "rejected, with reasons below": sum(map(len, rejects.values())),
    }
    if "label_doubt" in metrics:
        figures["doubtful labels"] = metrics["label_doubt"]["doubts"]
    data = [_rejected(stage, rows, base) for stage, rows in rejects.items() if rows]
    attributes, measures = read_attributes(archive), evaluation["attributes"]
    sections: list[PageSection] = [
        Cards(figures),
        *run,
        _gate(gate),
        *([] if run else [stages_table("Reports of the stages", chain, archive, base)]),
        Group(
            "Test metrics",
            [
                measures_table(attributes, measures, "", MORE_MEASURES, MORE_NOTE),
                classes_table(attributes, measures),
                *_plots(archive, "confusion_matrices", "roc_curves", "reliability"),
            ],
        ),
        *_hardest(archive),
        Group("Training", _plots(archive, "training_curves", "accuracy_curves", "augmented_pictures", "trials")),
        Group("Data", [*_plots(archive, "data_distribution"), *data, *_left_out(metrics, base)]),
        Links("Cards and other versions", {**_cards(archive), "Compare this version with any other": versions}),
        _lineage(chain, base),
        _params(archive),
    ]
    model = f"Model {gate['model_digest'][:12]}, made {chain['train']['created']}"
    return Report(
        title=title,
        subtitle=f"{subtitle}{model}",
        verdict="; ".join(
            [
                *gate["reasons"],
                *(f"warning: {line}" for line in gate["warnings"]),
                *evaluation["no_better"],
                *([f"worst slice: {evaluation['worst_slice']}"] if evaluation["worst_slice"] else []),
            ]
        ),
        passed=gate["fit"],
        sections=sections,
        attributes=attributes,
        remarked=any(rejects.values()) or bool(evaluation["no_better"] or gate["warnings"]),
        word="Fit for release" if gate["fit"] else "Not fit for release",
    )


def _cards(archive: Path) -> dict[str, str]:
    """The cards beside the page; versions of earlier code have none."""
    files = {"Model card": f"{MODEL_CARD}.html", "Data card": f"{DATA_CARD}.html"}
    return {text: file for text, file in files.items() if (archive / file).exists()}


def _gate(gate: Mapping[str, Any]) -> PageSection:
    """The candidate against the champion, and against the best version."""
    (low, high), metric = gate["interval"], gate["metric"]
    found, words = gate["means"][metric], in_words(metric)
    mean = f"No mean {words}" if found is None else f"Mean {words} {found:.4f}, 95 % from {low:.4f} to {high:.4f}"
    champion, best, between = gate["champion"], gate["best"], gate["champion_to_best"]
    if not champion:
        why = "there was none, or the verdict above says why it could not be"
        return Group("Release gate", [], note=f"{mean}. It was compared with no champion: {why}.")
    if best:
        standing = (
            f"The best version so far is {best['version']}: on the same images the candidate lies "
            f"{_difference(best)} from it, and the champion {_difference(between)}."
        )
    else:
        standing = f"{champion['version']} is the best version so far as well."
    return Group(
        "Release gate",
        [
            _compared("Against the champion", champion),
            *([_compared("Against the best version so far", best)] if best else []),
            *([_slices(champion["version"], gate["slices"])] if gate["slices"] else []),
        ],
        note=f"{mean}. {standing} {P_VALUE.format(metric=words, test=TESTS[metric])}",
    )


def _difference(comparison: Mapping[str, Any]) -> str:
    low, high = comparison["interval"]
    return f"{comparison['difference']:+.4f} (95 % from {low:+.4f} to {high:+.4f}, paired bootstrap)"


def _compared(title: str, comparison: Mapping[str, Any]) -> Table:
    version, metric = comparison["version"], comparison["metric"]
    rows: list[tuple[object, ...]] = [
        (
            attribute["title"], attribute["labels"],
            *(attribute[who][name] for name in METRICS for who in ("candidate", "version")),
            *(attribute[name] for name in ("better", "worse", "p")),
        )
        for attribute in comparison["attributes"].values()
    ]  # fmt: skip
    means = [comparison[who][name] for name in METRICS for who in ("candidate", "of_version")]
    rows.append(("Mean", None, *means, None, None, None))
    note = (
        f"On the same {comparison['images']} images. Difference in mean {in_words(metric)} {_difference(comparison)}."
    )
    figures = [f"{in_words(name).capitalize()}{whose}" for name in METRICS for whose in ("", f", {version}")]
    columns = ("Attribute", "Labels", *figures, "Better", "Worse", "p")
    return Table(title, columns, rows, note=" ".join([note, *comparison["notes"]]))


def _slices(version: str, slices: Sequence[Mapping[str, Any]]) -> Table:
    """Slices in which the candidate has wrong answers where the champion is right."""
    columns = ("Images of", "Attribute", "Labels", "Accuracy", f"Accuracy, {version}", "Better", "Worse", "p")
    names = ("name", "attribute", "labels", "candidate", "version", "better", "worse", "p")
    note = (
        "A slice is the images of a lot, or of two classes of two attributes. p: how often equally good models would "
        "differ by at least this much to the candidate's disadvantage (sign test, adjusted for all slices with enough "
        "such answers to reach significance). The verdict above warns of slices that fall by more than "
        "archive.slice_margin and by more than chance explains."
    )
    rows = [[found[name] for name in names] for found in slices]
    return Table(f"Slices, against {version}", columns, rows, note=note, folded=True)


def _rejects(folder: Path) -> list[dict[str, str]]:
    file = folder / REJECTED
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as rows:
        return [{name: as_written(cell) for name, cell in row.items()} for row in csv.DictReader(rows)]


def _rejected(stage: str, rows: list[dict[str, str]], base: str) -> Table:
    cells = [(row["filename"], row["reason"]) for row in rows]
    link = ("All of them as CSV", f"{base}{stage}/{REJECTED}")
    title = f"{len(rows):,} rejected by {stage}"
    return short_table(title, ("File", "Reason"), cells, REJECTS_SHOWN, link=link, folded=True)


def stages_table(
    title: str, chain: Chain, archive: Path, base: str, run: Mapping[str, Any] | None = None, note: str = ""
) -> Table:
    """Every stage with a link to its report, and its result in a `run` (stage -> result), if known."""
    rows: list[list[object]] = []
    for stage, entry in chain.items():
        name = Link(stage, f"{base}{stage}/{REPORT}") if (archive / stage / REPORT).exists() else stage
        own = (run or {}).get(stage, {})
        state = "" if not own else Badge("cached") if own["cached"] else Badge("computed", "good")
        known = [state, own.get("seconds")] if run else []
        rows.append([name, *known, entry["seconds"], entry["peak_memory_mb"], entry["headline"]])
    of_run = ("In this run", "Seconds") if run else ()
    return Table(title, ("Stage", *of_run, "Computed in, s", "Memory, MB", "Headline"), rows, note=note)


def _plots(archive: Path, *names: str) -> list[PageSection]:
    files = [(name, archive / "plots" / f"{name}.png") for name in names]
    return [Plot(PLOTS[name], file.read_bytes()) for name, file in files if file.exists()]


def _hardest(archive: Path) -> list[PageSection]:
    """The hardest test images of stage evaluate; people can correct their labels."""
    pictures = [
        Pictures(group["title"], [_picture(picture) for picture in group["pictures"]], group["note"])
        for group in read_json(archive / HARDEST)
    ]
    return [Group("Hardest test images", pictures)] if pictures else []


def _picture(told: Mapping[str, Any]) -> Picture:
    labels = told.get("labels")  # absent in versions of earlier code
    if labels:  # JSON has positions as text
        labels = Labels(**labels | {"suggested": {int(at): label for at, label in labels["suggested"].items()}})
    return Picture(**{**told, "labels": labels})


def _left_out(metrics: Mapping[str, Any], base: str) -> list[PageSection]:
    """Counts of other entries that are left out or have a warning, without the rejects."""
    rows: list[tuple[object, ...]] = []
    if validation := metrics.get("validation"):
        warnings, unannotated = (Link(name, f"{base}validate/{name}") for name in ("warnings.csv", "unannotated.csv"))
        rows.append(("Annotation rows left out", "lot not selected", validation["not_selected"], ""))
        rows += [("Annotation rows with a warning", what, n, warnings) for what, n in validation["remarks"].items()]
        rows.append(("Images left out", "no annotation", validation["unannotated"], unannotated))
        rows += [("Files not read", what, n, unannotated) for what, n in validation["ignored"].items()]
    if stats := metrics.get("data_stats"):
        found, listed = stats["duplicates"], Link("data_stats.json", f"{base}metrics/data_stats.json")
        names = f"under several names ({found['images']} images)"
        rows.append(("Pictures with a warning", names, found["pictures"], listed))
        against = "under several names, with contradicting labels"
        rows.append(("Pictures with a warning", against, found["contradicting_labels"], listed))
    return [Table("Left out or with a warning", ("What", "Found", "Count", "Listed in"), rows)] if rows else []


def _lineage(chain: Chain, base: str) -> Table:
    rows = []
    for stage, entry in chain.items():
        made_from = []
        for name, source in entry["inputs"].items():
            files = f" ({source['files']} file{'' if source['files'] == 1 else 's'})" if "files" in source else ""
            made_from.append(f"{name} {(source.get('key') or source['digest'])[:12]}{files}")
        rows.append((stage, entry["key"][:12], made_from))
    link = (f"All of it, with images and commits: {LINEAGE}", f"{base}{LINEAGE}")
    return Table("Lineage", ("Stage", "Key", "Made from"), rows, link=link)


def _params(archive: Path) -> Table:
    """The parameters that the stages used."""
    sections = yaml.safe_load((archive / "params.yaml").read_text(encoding="utf-8"))
    rows = [(section, name, str(value)) for section, values in sections.items() for name, value in values.items()]
    return Table("Parameters", ("Section", "Parameter", "Value"), rows, folded=True)
