"""The report of a validation: files, findings, and accepted rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from stages.common.checks.validation_report import checks, data_docs_links, past_runs
from stages.common.reports.report import (
    Badge,
    Bars,
    Cards,
    Group,
    Labels,
    Links,
    PageSection,
    Picture,
    Pictures,
    Report,
    Share,
    Table,
    short_table,
    shown,
)
from stages.common.schema.attributes import Attribute, Attributes, names
from stages.validate.changes import Changes
from stages.validate.raw_annotations import AnnotationFile, RawAnnotations
from stages.validate.summary import class_counts, listed
from stages.validate.verdict import REPLACED, Verdict

if TYPE_CHECKING:
    from stages.validate.stage import SuiteResults

REJECTED_PICTURES, REMARKED_PICTURES, DUPLICATE_PICTURES = 60, 30, 60
"""Limits of thumbnails on a page, 150 in all: 0.4 MB of faces, 1 MB if all were noise; all HTML may take 2 MB."""
EXAMPLES = 12
"""Rows shown per reason."""
GROUP_PICTURES = 4
"""Pictures shown of one group of duplicates."""
LABELS_SHOWN = 8
"""Labels that are shown beside a picture, and as many open for correction; the others open on request."""
ROWS_SHOWN = 50
"""Rows of a table; the CSV files hold all."""
FIGURES = ("rows", "accepted", "rejected", "warnings", "images")
"""Figures of `metrics/validation.json` that stand first, and are compared with past runs."""
SHEETS = {
    "rejected.csv": "rows left out, with the reason",
    "warnings.csv": "rows kept with a warning, repeats, replaced labels",
    "unannotated.csv": "images that no row names, files that are not read",
    "annotations.csv": "accepted images and their labels",
    "changes.csv": "rows and labels that changed since the last validation",
}

Show = Callable[[str], str]
"""Path of an image relative to the raw folder -> its thumbnail as a data URI, or "" if it cannot be shown."""


def build_report(
    annotations: RawAnnotations,
    checked: "SuiteResults",
    verdict: Verdict,
    *,
    verdict_line: str,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    changes: Changes | None = None,
    labels: pd.DataFrame | None = None,
    picture: Show | None = None,
    sheets: Iterable[str] = ("rejected.csv", "warnings.csv", "unannotated.csv"),
) -> Report:
    """Put together the report of a validation.

    Args:
        annotations: as read.
        checked: the findings of the suites.
        verdict: on the rows.
        verdict_line: the verdict in one line.
        metrics: `metrics/validation.json`; absent figures are left out, but `success` is needed.
        history: past runs, the oldest first and this run last (`stages.common.contract.history`): `time`, `success`,
            `rows`, `accepted`, `rejected`, `warnings`, `images`.
        changes: differences from the previous validation; None if there was none.
        labels: labels of any image by path (the index), in the columns and values of `Verdict.accepted`; default: those
            of the accepted rows.
        picture: gives the thumbnail of an image; without it, there are no thumbnails.
        sheets: the CSV files beside the report.
    """
    attributes, accepted = annotations.attributes, verdict.accepted
    known = (accepted if labels is None else labels.assign(path=labels.index)).dropna(subset="path")
    images = _Images(attributes, known.drop_duplicates("path").set_index("path"), picture)
    present = [sheet for sheet in SHEETS if sheet in set(sheets)]
    sections: list[PageSection | None] = [
        _cards(metrics),
        _changes(changes, present),
        _failing(
            "Rejected rows", verdict.rejected, images, REJECTED_PICTURES, _link("rejected.csv", present), ask=True
        ),
        _notices(metrics),
        _failing("Rows with a warning", verdict.remarks, images, REMARKED_PICTURES, _link("warnings.csv", present)),
        _replaced(annotations.replaced, present),
        _duplicates(checked.duplicates, checked.near_duplicates, images),
        _groups(metrics),
        _distributions(attributes, accepted),
        _files(annotations.files),
        _lots(metrics),
        _left_out(metrics, present),
        Group("Checks", [checks(suite, result) for suite, result in checked.results.items()]),
        past_runs(history, FIGURES),
        Links("Files", {f"{sheet}: {SHEETS[sheet]}": sheet for sheet in present}) if present else None,
        data_docs_links(checked.results) if checked.results else None,
    ]
    return Report(
        title=f"Validation of {annotations.name}",
        subtitle="What the annotations and images hold, and which of them can be used.",
        verdict="; ".join([verdict_line, *metrics.get("never_answered", ()), *_warned(metrics)]),
        passed=metrics["success"],
        remarked=any(metrics.get(what) for what in ("rejected", "warnings", "never_answered", "notices")),
        sections=[section for section in sections if section],
        attributes=attributes,
    )


def _warned(metrics: Mapping[str, Any]) -> list[str]:
    """Warnings about a table that passed; rejected rows stand in the verdict already."""
    if not metrics["success"]:
        return []
    count = metrics["warnings"]
    kinds = [f"{count:,} warning{'' if count == 1 else 's'}: {listed(metrics['remarks'])}"] if count else []
    return [*kinds, *metrics["notices"]]


def _cards(metrics: Mapping[str, Any]) -> Cards:
    lots = {"lots": len(metrics["lots"])} if "lots" in metrics else {}
    return Cards({name: metrics[name] for name in FIGURES if name in metrics} | lots)


def _changes(changes: Changes | None, present: Sequence[str]) -> Table | None:
    """Numbers of rows and labels that changed since the last validation."""
    if not changes:
        return None
    rows: list[tuple[str, int, object, int]] = [("Images", changes.added, "", changes.gone)]
    rows += [(f"Labels: {title}", *counts) for title, counts in changes.labels.items() if any(counts)]
    notes = ["Labels: of the images that both have"] if changes.labels else []
    if not len(changes.table):
        notes = ["No accepted image or label has changed"]
    notes += [f"The attributes have changed, {changes.unlike}"] if changes.unlike else []
    return Table(
        f"Since the validation of {changes.since.replace('T', ' ')[:16]} UTC",
        ("What", "Added", "Changed", "Gone"),
        rows,
        note=". ".join(notes),
        link=_link("changes.csv", present),
    )


def _notices(metrics: Mapping[str, Any]) -> Table | None:
    notices = metrics.get("notices")
    return Table("Warnings about the whole table", ("Warning",), [(notice,) for notice in notices]) if notices else None


def _link(sheet: str, present: Sequence[str]) -> tuple[str, str] | None:
    return (f"All of them: {sheet}", sheet) if sheet in present else None


def _failing(
    title: str, rows: pd.DataFrame, images: "_Images", most: int, link: tuple[str, str] | None, *, ask: bool = False,
) -> Group | None:  # fmt: skip
    """Rows by reason: their number, and the first of each with their pictures."""
    if rows.empty:
        return None
    counts = rows["kind"].value_counts()
    table = Table("", ("Reason", "Rows", "Share"), [(kind, int(n), Share(n / len(rows))) for kind, n in counts.items()])
    with_picture = int(rows["path"].notna().groupby(rows["kind"]).any().sum()) if images.show else 0
    each = max(1, min(EXAMPLES, most // max(1, with_picture)))
    examples: list[PageSection] = []
    for kind in counts.index.drop(REPLACED, errors="ignore"):
        some = rows[rows["kind"] == kind]
        if images.show and most >= each and some["path"].notna().any():
            first, note = shown(range(len(some)), each)
            most -= len(first)
            pictures = [images.of_row(some.iloc[at], ask=ask) for at in first]
            examples.append(Pictures(str(kind), pictures, note))
        else:
            columns = ("File", "Row", "Image", "Reason")
            cells = [_place(some.iloc[at]) for at in range(min(len(some), EXAMPLES))]
            examples.append(short_table(str(kind), columns, cells, EXAMPLES, of=len(some)))
    return Group(title, [table, *examples], link=link)


def _place(row: "pd.Series[Any]") -> tuple[str, ...]:
    return tuple("" if pd.isna(row[name]) else str(row[name]) for name in ("source", "row", "filename", "reason"))


@dataclass(frozen=True)
class _Images:
    """The pictures of images with their labels (by path); without `show` there are no thumbnails."""

    attributes: Attributes
    labels: pd.DataFrame
    show: Show | None

    def of_row(self, row: "pd.Series[Any]", *, ask: bool) -> Picture:
        """The picture of a row; if `ask`, with its missing and invalid labels open, or with all if there are none."""
        path = row["path"]
        name = "(no name)" if pd.isna(row["filename"]) or row["filename"] == "" else str(row["filename"])
        found = str(row["reason"]).removeprefix(str(row["kind"])).strip(" ():")
        lines = [name, f"{row['source']} row {row['row']}", *([found] if found else [])]
        if pd.isna(path):
            return Picture("", lines, missing=str(row["kind"]))
        known = self._known(path)
        missing = [at for at, index in enumerate(known) if index is None]
        asked = (missing or range(len(known)))[:LABELS_SHOWN] if ask else ()
        labels = Labels(str(row["filename"]), known, asked)
        return Picture(self._thumbnail(path), lines, missing=str(row["kind"]), labels=labels)

    def labelled(self, path: str, told: Sequence[Attribute]) -> Picture:
        """A picture with its labels of some attributes."""
        if path not in self.labels.index:
            return Picture(self._thumbnail(path), [path, "no annotation"])
        row = self.labels.loc[path]
        lines = [path, *(f"{attribute.title}: {_class(attribute, row[attribute.name])}" for attribute in told)]
        asked = [at for at, attribute in enumerate(self.attributes) if attribute in told]
        return Picture(self._thumbnail(path), lines, labels=Labels(path, self._known(path), asked))

    def _thumbnail(self, path: str) -> str:
        return self.show(path) if self.show else ""

    def _known(self, path: str) -> list[int | None]:
        """Class index of each attribute of an image, None if the label is unknown or not a class."""
        cells = [
            self.labels[attribute.name].get(path) if attribute.name in self.labels else None
            for attribute in self.attributes
        ]
        return [
            int(cell) if isinstance(cell, str) and cell.isdecimal() and int(cell) < len(attribute.classes) else None
            for attribute, cell in zip(self.attributes, cells, strict=True)
        ]


def _replaced(replaced: pd.DataFrame, present: Sequence[str]) -> Table | None:
    if replaced.empty:
        return None
    rows = [_place(replaced.iloc[at]) for at in range(min(len(replaced), ROWS_SHOWN))]
    columns = ("File", "Row", "Image", "Replaced label")
    note = "Files contradict each other here; the newest wins."
    link = _link("warnings.csv", present)
    return short_table(
        "Labels that a newer file replaced", columns, rows, ROWS_SHOWN, note, of=len(replaced), link=link
    )


def _distributions(attributes: Attributes, accepted: pd.DataFrame) -> Group | None:
    if accepted.empty:
        return None
    counts = class_counts(attributes, accepted)
    bars = [Bars(attribute.title, counts[attribute.name], muted=("unknown",)) for attribute in attributes]
    return Group("Labels of the accepted rows", bars, note="An unknown label is left out of losses and metrics.")


def _duplicates(exact: Sequence[Sequence[str]], near: Sequence[Sequence[str]], images: _Images) -> Group | None:
    """Groups of images, those with contradicting labels first."""
    if not (exact or near):
        return None
    counts, parts = [], []
    for title, groups in (("The same picture", exact), ("Nearly the same picture", near)):
        disputed = contradicting(images.attributes, groups, images.labels)
        counts.append((title, len(groups), sum(map(len, groups)), sum(map(bool, disputed))))
        boxes: list[PageSection] = []
        budget = DUPLICATE_PICTURES // 2
        for differing, paths in sorted(zip(disputed, groups, strict=True), key=lambda group: not group[0]):
            first, note = shown(paths, GROUP_PICTURES)
            if len(first) > budget:
                break
            budget -= len(first)
            named = ", ".join(attribute.title.lower() for attribute in differing)
            mark = Badge(f"labels contradict: {named}", "remark") if named else None
            told_of = (differing or images.attributes)[:LABELS_SHOWN]
            boxes.append(Pictures("", [images.labelled(path, told_of) for path in first], note, mark=mark))
        if groups:
            told = shown(groups, len(boxes))[1]
            parts.append(Group(title, boxes, note=f"Groups: {told}" if told else ""))
    table = Table("", ("Found", "Groups", "Images", "Groups with contradicting labels"), counts)
    return Group("Duplicates", [table, *parts])


def contradicting(
    attributes: Attributes, groups: Sequence[Sequence[str]], labels: pd.DataFrame
) -> list[list[Attribute]]:
    """Attributes whose known labels differ, for each group of images with the same picture.

    Args:
        attributes: the annotated attributes.
        groups: groups of paths.
        labels: by path.
    """
    numbers = [number for number, paths in enumerate(groups) for _ in paths]
    some = labels.reindex([path for paths in groups for path in paths])[list(names(attributes))]
    differ = some.groupby(numbers).nunique() > 1
    return [
        [attribute for attribute, is_so in zip(attributes, row, strict=True) if is_so]
        for row in differ.to_numpy().tolist()
    ]


def _class(attribute: Attribute, label: Any) -> str:
    if pd.isna(label):
        return "unknown"
    classes = {str(index): name for index, name in enumerate(attribute.classes)}
    return classes.get(str(label), str(label))


def _files(files: Sequence[AnnotationFile]) -> Table | None:
    if not files:
        return None
    rows = [(file.source, file.form, file.dated, file.rows) for file in files]
    return short_table("Annotation files", ("File", "Form", "Date", "Rows"), rows, ROWS_SHOWN)


def _groups(metrics: Mapping[str, Any]) -> Table | None:
    """Given groups, and given splits."""
    rows: list[tuple[str, int]] = []
    if found := metrics.get("groups"):
        rows += [
            ("groups, such as all images of one person", found["groups"]),
            ("images in a group", found["images"]),
            ("images in the largest group", found["largest"]),
            ("images in no group, each alone or with its near duplicates", found["alone"]),
            ("groups merged because they share a picture", len(found["joined"])),
        ]
    rows += [(f"images given to split {name}", number) for name, number in metrics.get("splits", {}).items()]
    note = "A group is in one split and in one fold. Given splits are used if data.split is given."
    return Table("Groups", ("What", "Count"), rows, note=note) if rows else None


def _lots(metrics: Mapping[str, Any]) -> Table | None:
    lots = metrics.get("lots")
    if not lots:
        return None
    rows = list(lots.items())
    return short_table("Lots", ("Lot", "Accepted images"), rows, ROWS_SHOWN, folded=len(lots) > EXAMPLES)


def _left_out(metrics: Mapping[str, Any], present: Sequence[str]) -> Table | None:
    rows = [
        ("annotation rows", "lot not selected", metrics.get("not_selected")),
        ("annotation rows", "image of a published list, not here", metrics.get("absent")),
        ("images", "no annotation", metrics.get("unannotated")),
        *(("files", f"not read: {reason}", count) for reason, count in (metrics.get("ignored") or {}).items()),
    ]
    rows = [row for row in rows if row[2]]
    if not rows:
        return None
    return Table("Left out", ("What", "Why", "Count"), rows, link=_link("unannotated.csv", present))
