"""The model card and the data card of a version: facts of the run, and the text of people about their data.

The model card has the sections of Mitchell et al. 2019 ("Model Cards for Model Reporting",
https://doi.org/10.1145/3287560.3287596), the data card those of Gebru et al. 2021 ("Datasheets for Datasets",
https://doi.org/10.1145/3458723). Each is written as Markdown, whose head model hubs read, and as a page.

People write the rest in `card.md` of the data folder. The text below a headline in this Markdown goes into the section
of that name, in both cards if both have it. Text below any other headline becomes a section of the model card.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.archive.release import DATA_CARD, GATE, MODEL_CARD
from stages.common.contract.artifacts import read_json
from stages.common.contract.errors import DataError
from stages.common.inference.measures import in_words
from stages.common.inference.measures_page import between, classes_table, measures_table, thresholds_table
from stages.common.reports.report import VERSION, Group, Links, Report, Table, Text, short_table, text_of, write_report
from stages.common.schema.attributes import read_attributes
from stages.common.schema.dataset import SPLITS

OWN = "card.md"
"""The file of a data folder with the text of people for the cards."""
LONGEST = 2**16
"""Bytes of that file."""
SLICES_SHOWN = 20
"""Rows of a table of slices or lots."""

ASKED = {
    "Intended use": "what the model is for, who uses it, and what it must not be used for",
    "Ethical considerations": "who is in the images, what they agreed to, and whom a wrong answer would harm",
    "Licences": "the licences of images, labels and model",
    "Motivation": "who made the data set, and for what",
    "Collection process": "where the images come from, how they were chosen, and who gave the labels",
    "Uses": "what else the data may be used for, and what not",
    "Distribution": "who may have the data, and how they get them",
    "Maintenance": "who looks after the data, and where faults are reported",
}
"""Sections that people must write, and the question that each answers."""

_HEADLINE = re.compile(r"#{1,6}[ \t]+(.+?)[ \t#]*")

Sections = dict[str, list[str | Table]]
"""Headline -> the paragraphs and tables below it."""
Manifests = Mapping[str, Mapping[str, Any]]
"""Stage -> its manifest."""


def read_own(folder: Path | None) -> dict[str, tuple[str, str]]:
    """Text of people: headline in lower case -> the headline, and the text below it.

    The text above the first headline stands under "".

    Raises:
        DataError: the file is too long, or not UTF-8.
    """
    path = folder / OWN if folder else None
    if not path or not path.is_file():
        return {}
    if (size := path.stat().st_size) > LONGEST:
        raise DataError(f"{path}: {size:,} bytes, at most {LONGEST:,} are read: shorten it")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8: save it as UTF-8") from error
    sections: list[tuple[str, list[str]]] = [("", [])]
    in_code = False
    for line in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines():
        in_code ^= line.lstrip().startswith(("```", "~~~"))
        if not in_code and (headline := _HEADLINE.fullmatch(line)):
            sections.append((headline[1], []))
        else:
            sections[-1][1].append(line)
    found: dict[str, tuple[str, str]] = {}
    for title, lines in sections:
        if below := "\n".join(lines).strip():
            name, before = found.get(title.lower(), (title, ""))
            found[title.lower()] = name, f"{before}\n\n{below}".strip()
    return found


def write_cards(archive: Path, manifests: Manifests, own: Mapping[str, tuple[str, str]]) -> None:
    """Write both cards into an archive that has all other files.

    Args:
        archive: the artifact of stage archive.
        manifests: of the stages that made the version.
        own: `read_own`.
    """
    metrics = {path.stem: read_json(path) for path in (archive / "metrics").glob("*.json")}
    model, data = _model_card(archive, metrics, manifests), _data_card(archive, metrics, manifests)
    known = {title.lower() for title in model | data} | {""}
    model |= {title: [] for name, (title, _) in own.items() if name not in known}
    told = {name: below for name, (_, below) in own.items()}
    digest = read_json(archive / GATE)["model_digest"][:12]
    for name, title, sections, head in (
        (MODEL_CARD, f"Model card of {digest}", model, _head(archive, metrics["eval_metrics"], digest)),
        (DATA_CARD, f"Data card of model {digest}", data, {"tags": ["face-attributes"]}),
    ):
        filled = {section: _filled(section, parts, told) for section, parts in sections.items()}
        first = [told[""]] if "" in told else []
        (archive / f"{name}.md").write_text(_as_markdown(title, head, first, filled), encoding="utf-8")
        write_report(archive / f"{name}.html", _as_page(title, first, filled))


def _filled(title: str, parts: list[str | Table], told: Mapping[str, str]) -> list[str | Table]:
    """A section that begins with the text of people, or with the question that they have not answered."""
    if below := told.get(title.lower()):
        return [below, *parts]
    if title in ASKED:
        return [f"Not written yet. Say below '# {title}' in {OWN} of the data folder {ASKED[title]}.", *parts]
    return parts


def _model_card(archive: Path, metrics: Mapping[str, Any], manifests: Manifests) -> Sections:
    attributes, evaluation = read_attributes(archive), metrics["eval_metrics"]
    gate, measures = read_json(archive / GATE), evaluation["attributes"]
    training, stats = metrics.get("train_metrics", {}), metrics.get("data_stats", {})
    prepared, train = manifests["prepare_train"]["params"].get("data", {}), manifests["train"]
    details = {
        "Model, SHA-256 of model.onnx": gate["model_digest"],
        "Made": train["created"],
        "Made by": f"Face Attributes {VERSION}, commit {train['git_commit'] or 'unknown'}",
        "Kind": "a convolutional network with a head for each attribute, as ONNX and safetensors",
        "Parameters": training.get("parameters"),
        "Input": f"uint8 RGB, {prepared.get('image_size', '?')} x {prepared.get('image_size', '?')} pixels, "
        f"crop {prepared.get('crop', '?')}",
        "Release gate": "; ".join(gate["reasons"]),
    }
    answers = [(attribute.title, ", ".join(attribute.classes)) for attribute in attributes]
    splits = stats.get("splits", {})
    limits = [*evaluation.get("never_answered", []), *evaluation["no_better"], *gate["warnings"]]
    limits += [
        f"{measures[attribute.name]['note']} ({attribute.title})"
        for attribute in attributes
        if "note" in measures[attribute.name]
    ]
    if evaluation["worst_slice"]:
        limits.append(f"The worst slice: {evaluation['worst_slice']}")
    return {
        "Model details": [
            Table("", ("What", "Value"), [*details.items()]),
            Table("What it answers", ("Attribute", "Classes"), answers),
        ],
        "Intended use": ["It answers the attributes above for a picture of one face, each with its confidence."],
        "Factors": [
            "Lots, classes, and pairs of classes of two attributes are measured separately (slices). Properties of "
            "people or camera that nobody has annotated are not measured."
        ],
        "Metrics": [
            f"The release gate uses {in_words(gate['metric'])}. Accuracy is the share of right answers among known "
            "labels. Balanced accuracy is its mean over the classes. Intervals contain the true value with 95 % "
            "(Wilson), adjusted for images that belong together.",
            thresholds_table(attributes, measures, "Thresholds"),
        ],
        "Evaluation data": [
            f"The test split: {evaluation['images']:,} images of {len(gate['lots']):,} lots ({text_of(gate['lots'])}). "
            "They were used neither in training nor for any choice."
        ],
        "Training data": [
            f"{text_of(splits.get('train'))} images for training, and {text_of(splits.get('val'))} to choose "
            f"hyperparameters and thresholds. The data card ({DATA_CARD}.md) describes them."
        ],
        "Quantitative analyses": [
            measures_table(attributes, measures, "Attributes"),
            classes_table(attributes, measures),
            *_slices(archive),
            *_lots(metrics),
        ],
        "Ethical considerations": [],
        "Caveats and recommendations": [f"- {line}" for line in limits] or ["The run found none."],
        "Energy": [
            "Energy was not measured. Estimate it as the power of the device times the seconds.",
            _cost(manifests),
        ],
        "Licences": [],
    }


def _data_card(archive: Path, metrics: Mapping[str, Any], manifests: Manifests) -> Sections:
    attributes = read_attributes(archive)
    stats, validation = metrics.get("data_stats", {}), metrics.get("validation", {})
    prepared = manifests["prepare_train"]["params"].get("data", {})
    splits, groups, labels = (stats.get(name, {}) for name in ("splits", "groups", "labels"))
    lots = [
        (lot, sum(counts.values()), *(counts.get(split) for split in SPLITS))
        for lot, counts in stats.get("lots", {}).items()
    ]
    lots.sort(key=lambda row: -row[1])
    raw = [
        (name, source["files"], source["digest"])
        for name, source in manifests["validate"]["inputs"].items()
        if "files" in source
    ]
    left_out = [
        *((f"row rejected: {reason}", count) for reason, count in validation.get("reasons", {}).items()),
        *((f"row with a warning: {reason}", count) for reason, count in validation.get("remarks", {}).items()),
        *((f"file not read: {reason}", count) for reason, count in validation.get("ignored", {}).items()),
        ("image without annotation", validation.get("unannotated")),
        ("label replaced by a newer file", validation.get("replaced")),
        ("image that cannot be decoded", stats.get("rejected")),
        ("image nearly the same as one of another split", stats.get("left_out")),
        ("doubtful label, contradicted by networks (not changed)", metrics.get("label_doubt", {}).get("doubts")),
    ]
    counts = [
        (attribute.title, name, *(labels.get(attribute.name, {}).get(split, {}).get(name) for split in SPLITS))
        for attribute in attributes
        for name in (*attribute.classes, "unknown")
    ]
    in_splits = [(split, splits.get(split), groups.get(split)) for split in SPLITS]
    belong = "Images of a group belong together, such as copies of a picture, and are in one split."
    return {
        "Motivation": [],
        "Composition": [
            f"{text_of(stats.get('images'))} images with labels of {len(attributes)} attributes. A label may be "
            "unknown.",
            Table("Splits", ("Split", "Images", "Groups"), in_splits, note=belong),
            Table("Labels", ("Attribute", "Class", *SPLITS), counts),
            short_table("Lots", ("Lot", "Images", *SPLITS), lots, SLICES_SHOWN),
        ],
        "Collection process": [Table("Raw files", ("Input", "Files", "SHA-256"), raw)],
        "Preprocessing, cleaning, labelling": [
            f"Images were cropped (crop {prepared.get('crop', '?')}) and scaled to {prepared.get('image_size', '?')} "
            "pixels a side. Great Expectations checked annotations and images. What failed was left out, with its "
            "reason.",
            Table("Left out or with a warning", ("What", "Count"), [row for row in left_out if row[1]]),
        ],
        "Uses": [],
        "Distribution": [],
        "Ethical considerations": [],
        "Licences": [],
        "Maintenance": ["Any other state of the data has other digests than those above."],
    }


def _slices(archive: Path) -> list[Table]:
    """The slices that lie farthest below the rest, as stage evaluate has listed them."""
    path = archive / "evaluate" / "slices.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["accuracy"]) < float(row["elsewhere"])]
    cells = [
        (
            f"images of {row['slice']}", row["attribute"], int(row["labels"]), float(row["accuracy"]),
            between((float(row["low"]), float(row["high"]))), float(row["elsewhere"]), float(row["p"]),
        )
        for row in sorted(rows, key=lambda row: (float(row["p"]), float(row["accuracy"])))
    ]  # fmt: skip
    note = "p: how often a model that is equally good everywhere would have so many wrong answers there."
    columns = ("Slice", "Attribute", "Labels", "Accuracy", "95 %", "Elsewhere", "p")
    return [short_table("Slices below the rest", columns, cells, SLICES_SHOWN, note)]


def _lots(metrics: Mapping[str, Any]) -> list[Table]:
    lots = sorted(metrics.get("slices", {}).get("lots", []), key=lambda lot: float(lot["accuracy"]))
    cells = [(lot["name"], lot["labels"], lot["accuracy"]) for lot in lots]
    columns = ("Images of", "Labels", "Accuracy of all answers")
    return [short_table("Lots", columns, cells, SLICES_SHOWN)] if lots else []


def _cost(manifests: Manifests) -> Table:
    rows = [
        (
            stage, manifest["seconds"],
            *(manifest.get("environment", {}).get(name) for name in ("device", "machine", "cores")),
            manifest["peak_memory_mb"],
        )
        for stage, manifest in manifests.items()
    ]  # fmt: skip
    rows = [(stage, seconds, device or "cpu", *rest) for stage, seconds, device, *rest in rows]
    rows.append(("all", round(sum(row[1] for row in rows), 1), None, None, None, None))
    return Table("", ("Stage", "Seconds", "Device", "Machine", "Cores", "Memory, MB"), rows)


def _head(archive: Path, evaluation: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """The head of a model card as model hubs read it."""
    found = [
        {
            "type": "accuracy",
            "name": attribute.title,
            "value": round(evaluation["attributes"][attribute.name]["accuracy"], 4),
        }
        for attribute in read_attributes(archive)
        if evaluation["attributes"][attribute.name]["accuracy"] is not None
    ]
    results = {
        "task": {"type": "image-classification"},
        "dataset": {"type": "face-attributes", "name": "test split"},
        "metrics": [{"type": "accuracy", "name": "mean", "value": round(evaluation["mean_accuracy"], 4)}, *found],
    }
    return {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["face-attributes"],
        "model-index": [{"name": digest, "results": [results]}],
    }


def _as_page(title: str, first: Sequence[str], sections: Sections) -> Report:
    links = {"Report": "report.html", "Model card": f"{MODEL_CARD}.html", "Data card": f"{DATA_CARD}.html"}
    parts = [
        Group(section, [Text(part) if isinstance(part, str) else part for part in parts])
        for section, parts in sections.items()
    ]
    return Report(title, sections=[*map(Text, first), *parts, Links("Pages", links)])


def _as_markdown(title: str, head: Mapping[str, Any], first: Sequence[str], sections: Sections) -> str:
    lines = [
        "---",
        yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {title}",
        "",
    ]
    for paragraph in first:
        lines += [paragraph, ""]
    for section, parts in sections.items():
        lines += [f"## {section}", ""]
        for part in parts:
            lines += [part if isinstance(part, str) else _table(part), ""]
    return "\n".join(lines)


def _table(table: Table) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    lines = [f"### {table.title}\n"] if table.title else []
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([*lines, *([f"\n{table.note}"] if table.note else [])])


def _cell(value: object) -> str:
    """A value as text that Markdown does not interpret."""
    return re.sub(r"[|<>\[\]`*\\]", r"\\\g<0>", text_of(value)).replace("\n", " ")
