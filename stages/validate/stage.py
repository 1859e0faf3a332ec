"""The wiring of stage `validate`: read, check, write, report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from stages.common.contract.artifacts import write_json
from stages.common.contract.errors import DataError
from stages.common.contract.history import recall, remember
from stages.common.contract.logs import log
from stages.common.contract.stage import Context, Headline, Input, RawFiles, Stage
from stages.common.contract.tables import write_csv
from stages.common.images.decode import thumbnail_as_decoded
from stages.common.images.listing import Listing, about_links, as_text, list_folder, lot_of, require_lots
from stages.common.reports.report import REPORT, write_report
from stages.common.schema.annotations import ANNOTATIONS, GIVEN, annotation_columns
from stages.common.schema.attributes import FILE as ATTRIBUTES_FILE
from stages.common.schema.attributes import Attributes, names, write_attributes
from stages.common.schema.learned import Learned, remarks
from stages.validate.attributes_file import find_attributes_file, read_attributes_file
from stages.validate.changes import FILE as CHANGES
from stages.validate.changes import find_changes, last_before
from stages.validate.forms.text import brief
from stages.validate.groups import count_groups, groups_joined, join_groups
from stages.validate.image_table import image_table, images_to_inspect
from stages.validate.inspection import inspect_images
from stages.validate.page import FIGURES, build_report
from stages.validate.params import Params
from stages.validate.raw_annotations import (
    RawAnnotations,
    annotation_files,
    correction_files,
    count_annotations,
    find_corrections,
    read_annotations,
)
from stages.validate.summary import (
    class_counts,
    examples,
    expectation_counts,
    listed,
    remedies,
    stopping_line,
    verdict_line,
)
from stages.validate.table import add_classes, join_images, listed_files, select_lots, split_repeats
from stages.validate.verdict import LISTED, Verdict, count, decide_rows, no_verdict

if TYPE_CHECKING:
    from stages.common.checks.suite import Finding

NO_ANNOTATION = "no annotation"
LOTS = "validate.lots"
KNOWN = ["digest", "pixels", "group"]
"""Columns of annotations.csv that identify images, independently of their names."""

_OF_IMAGES = ["path", "files", "ambiguous", "other_name"]
"""Columns of `join_images` that suite `images` needs."""


@dataclass(frozen=True)
class _Rows:
    """The annotations of the selected lots beside their images.

    Attributes:
        table: rows to check, with the columns of suite `raw_annotations`.
        repeats: rows that repeat a row of `table`.
        absent: rows of a published list whose image is not there.
        broken: rows that could not be read.
        not_selected: number of rows of other lots.
        images: `listed_files` of the selected lots; none without `--raw`.
        unannotated: images that no annotation names, and files that are not read, with their `reason`.
        links: remark on links among the images.
    """

    table: pd.DataFrame
    repeats: pd.DataFrame
    absent: pd.DataFrame
    broken: pd.DataFrame
    not_selected: int
    images: pd.DataFrame
    unannotated: pd.DataFrame
    links: str

    @property
    def count(self) -> int:
        """The number of annotations, without absent ones."""
        return len(self.table) + len(self.repeats) + len(self.broken)


@dataclass
class SuiteResults:
    """The findings of the suites.

    Attributes:
        table: the annotations, with all columns of the suites.
        results: suite -> Great Expectations' result.
        suites: suite -> the suite.
        findings: the findings, in the order of the suites.
        duplicates: groups of paths with the same picture; `near_duplicates`: groups of near duplicates.
        known: identity of images, path as index: columns `digest`, `pixels` and `group` as in annotations.csv, the last
            by the first path of a group.
    """

    table: pd.DataFrame
    results: dict[str, Any] = field(default_factory=dict)
    suites: dict[str, Any] = field(default_factory=dict)
    findings: "list[Finding]" = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    near_duplicates: list[list[str]] = field(default_factory=list)
    known: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=KNOWN, dtype="str"))

    @property
    def stopping(self) -> "Finding | None":
        """The first finding that makes the table as a whole unusable."""
        return next((finding for finding in self.findings if finding.rows is None and finding.critical), None)


def _join(annotations: RawAnnotations, context: Context[Params]) -> _Rows:
    lots, raw = context.params.validate.lots, context.inputs.get("raw")
    listing = list_folder(raw, context.inputs["annotations"]) if raw else Listing([], {})
    images = listed_files(listing.images)
    if raw:
        require_lots(lots, images["lot"], LOTS)
        images = images[images["lot"].isin(lots)] if lots else images  # other lots are not part of the key
    attributes = annotations.attributes
    read, unread = (join_images(attributes, rows, images, lots) for rows in (annotations.rows, annotations.broken))
    table, broken = select_lots(read, lots), select_lots(unread, lots)
    not_selected = len(read) + len(unread) - len(table) - len(broken)
    named = pd.concat([table["candidates"], broken["candidates"]]).explode()
    unused = [
        images[~images["path"].isin(named)].assign(reason=NO_ANNOTATION),
        listed_files(listing.ignored, list(listing.ignored.values())),
        annotations.ignored.rename(columns={"source": "path"}).assign(image=annotations.ignored["source"]),
    ]
    links = about_links(raw, listing) if raw else ""
    unannotated = pd.concat(unused).rename(columns={"image": "filename"}).drop_duplicates("path").sort_values("path")
    absent = pd.concat([_absent(rows, annotations) for rows in (table, broken)] if raw else [table[:0]])
    table, broken = table.drop(index=absent.index, errors="ignore"), broken[~broken.index.isin(absent.index)]
    table, repeats = split_repeats(attributes, table)
    return _Rows(table, repeats, absent, broken, not_selected, images, unannotated, links)


def _absent(table: pd.DataFrame, annotations: RawAnnotations) -> pd.DataFrame:
    """Rows of published lists whose image is not there: with a part of the images, nobody needs to shorten the list."""
    return table[(table["files"] == 0).fillna(False) & table["source"].isin(annotations.published)]


def _notices(rows: _Rows, annotations: RawAnnotations) -> list[str]:
    """Notices about the reading of files, and about files that were not read.

    Raises:
        DataError: no image of a published list is there.
    """
    notices = list(annotations.notices)
    if absent := len(rows.absent):
        here = f"{rows.count:,} of {rows.count + absent:,} annotated images are here"
        if rows.table.empty:
            there = brief(rows.images["path"].iloc[0]) if len(rows.images) else "no image"
            first = brief(rows.absent["filename"].iloc[0])
            line = f"{here}: --raw must name the folder of {first}; {there} is in it"
            raise DataError("; ".join(filter(None, [line, rows.links])))
        notices.append(f"{here}; the others, of a published list, are left out and listed in warnings.csv")
    return [*notices, *filter(None, [rows.links])]


def _metrics(rows: _Rows, checked: SuiteResults, verdict: Verdict, annotations: RawAnnotations) -> dict[str, Any]:
    accepted, rejected = verdict.accepted, verdict.rejected
    classes = class_counts(annotations.attributes, accepted)
    reasons = rows.unannotated["reason"]
    return {
        "rows": rows.count,
        "accepted": len(accepted),
        "rejected": len(rejected),
        "rejected_fraction": round(len(rejected) / max(1, rows.count), 6),
        "repeated": len(rows.repeats),
        "replaced": len(annotations.replaced),
        "warnings": len(verdict.remarks),
        "not_selected": rows.not_selected,
        "absent": len(rows.absent),
        "images": len(rows.images),
        "unannotated": int((reasons == NO_ANNOTATION).sum()),
        "ignored": count(reasons[reasons != NO_ANNOTATION]),
        **expectation_counts(checked.results.values()),
        "reasons": count(rejected["kind"]),
        "remarks": count(verdict.remarks["kind"]),
        "examples": examples(verdict.rejected, remedies(checked.findings)) | examples(verdict.remarks, {}),
        "duplicates": {"exact": len(checked.duplicates), "near": len(checked.near_duplicates)},
        "labels_known": {name: len(accepted) - counts["unknown"] for name, counts in classes.items()},
        "classes": classes,
        "lots": {str(lot): int(number) for lot, number in accepted["lot"].value_counts().sort_index().items()},
    }


def _check(context: Context[Params], rows: _Rows, annotations: RawAnnotations) -> SuiteResults:
    from stages.common.checks.suite import findings, load_suite, run_suite, suite_file  # takes seconds to import

    section = context.params.validate
    attributes = annotations.attributes
    checked = SuiteResults(add_classes(attributes, rows.table))

    def run(suite: str, table: pd.DataFrame) -> None:
        file = suite_file(suite, context.suites)
        checked.suites[suite] = load_suite(file, attributes)
        checked.results[suite] = run_suite(checked.suites[suite], annotations.name, table, section.model_dump())
        checked.findings += findings(checked.results[suite])

    run("raw_annotations", checked.table.drop(columns=[*LISTED[:2], *_OF_IMAGES, "candidates", "lot"]))
    if "raw" in context.inputs and not checked.stopping:
        rejected = [row for finding in checked.findings if finding.critical for row in finding.rows or ()]
        remaining = checked.table.drop(index=rejected)
        for finding in checked.findings:
            if finding.clear:  # a label that becomes unknown contradicts nothing
                remaining.loc[remaining.index.intersection(finding.rows or []), finding.column] = pd.NA
        facts = inspect_images(images_to_inspect(remaining), context)
        looked, duplicates = image_table(attributes, remaining, facts, section.near_duplicate_bits)
        run("images", looked)
        checked.table = checked.table.join(looked.drop(columns=_OF_IMAGES))
        checked.duplicates, checked.near_duplicates = duplicates.exact, duplicates.near
        checked.known = facts[["digest", "pixels"]].assign(group=duplicates.group)
    return checked


def _labels_by_path(attributes: Attributes, table: pd.DataFrame) -> pd.DataFrame:
    called = {attribute.column: attribute.name for attribute in attributes if attribute.column in table}
    return table[table["path"].notna()].drop_duplicates("path").set_index("path")[list(called)].rename(columns=called)


def _identified(attributes: Attributes, accepted: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Canonical annotations with the columns `KNOWN`; a rejected image does not give a group its name."""
    table = join_groups(accepted.join(known, on="path"))
    return table[list(annotation_columns(attributes, [name for name in GIVEN.values() if name in table]))]


def _write(path: Path, table: pd.DataFrame, *, for_people: bool = True) -> None:
    write_csv(path, table.columns, table.fillna("").itertuples(index=False), for_people=for_people)


def _write_reports(
    context: Context[Params], folder: Path, annotations: RawAnnotations, rows: _Rows, checked: SuiteResults,
    verdict: Verdict, identified: pd.DataFrame, metrics: Mapping[str, Any], summary: str,
) -> None:  # fmt: skip
    from stages.common.checks.data_docs import write_data_docs

    (folder / "metrics").mkdir(parents=True, exist_ok=True)  # it exists already in the artifact
    write_json(folder / "metrics" / "validation.json", metrics)
    _write(folder / "rejected.csv", verdict.rejected[LISTED])
    absent = rows.absent.assign(reason="image of a published list, not here")
    _write(folder / "warnings.csv", pd.concat([verdict.remarks[LISTED], absent[LISTED]]))
    _write(folder / "unannotated.csv", rows.unannotated[["filename", "lot", "path", "reason"]])
    if metrics["success"]:
        write_attributes(folder, annotations.attributes)
        _write(folder / ANNOTATIONS, identified, for_people=False)
    for suite, result in checked.results.items():
        write_data_docs(folder / "data_docs" / suite, checked.suites[suite], result, summary, others=checked.results)
    source, lots = str(context.inputs["annotations"]), list(context.params.validate.lots)
    alike = [earlier for earlier in recall(context.cache, source) if earlier.get("lots") == lots]
    earlier = last_before(context.key, context.cache.parent, alike) if metrics["success"] else None
    changes = find_changes(annotations.attributes, identified, *earlier) if earlier else None
    if changes:
        _write(folder / CHANGES, changes.table)
    known = {"key": context.key, "lots": lots}
    remember(context.cache, source, {name: metrics[name] for name in ("success", *FIGURES)} | known)
    raw = context.inputs.get("raw")
    report = build_report(
        annotations,
        checked,
        verdict,
        verdict_line=summary,
        metrics=metrics,
        history=recall(context.cache, source),
        changes=changes,
        labels=_labels_by_path(annotations.attributes, checked.table),
        picture=(lambda path: thumbnail_as_decoded(raw / path, context.params.images)) if raw else None,
        sheets=[path.name for path in folder.glob("*.csv")],
    )
    write_report(folder / REPORT, report)


def _learned(attributes: Attributes, accepted: pd.DataFrame) -> Learned:
    """Classes that a training on all accepted rows would see."""
    counts = class_counts(attributes, accepted)
    return {
        attribute.name: [name for name in attribute.classes if counts[attribute.name][name]] for attribute in attributes
    }


def run(context: Context[Params]) -> Headline:
    """Validate: see the package's docstring."""
    asked = read_attributes_file(context.inputs["attributes"])
    annotations = read_annotations(asked, context.inputs["annotations"], context.inputs.get("corrections"))
    attributes = annotations.attributes
    log.info("%s asks for %s", context.inputs["attributes"], brief(", ".join(names(attributes)), 200))
    rows = _join(annotations, context)
    log.info("%d annotations, %d images", len(annotations.rows) + len(annotations.broken), len(rows.images))
    of_reading = _notices(rows, annotations)
    checked = _check(context, rows, annotations)
    from stages.common.checks.validation import describe  # imports Great Expectations

    notices: list[str] = []
    if checked.stopping:  # other findings about the table, such as classes without a row, follow from it
        verdict, success = no_verdict(attributes), False
        summary = stopping_line(checked.stopping, annotations, rows.not_selected)
    else:
        notices = [describe(finding, checked.table) for finding in checked.findings if finding.rows is None]
        findings = [finding for finding in checked.findings if finding.rows is not None]
        verdict = decide_rows(annotations, checked.table, rows.repeats, rows.broken, findings)
        allowed = context.params.validate.max_rejected_fraction
        success = len(verdict.rejected) <= allowed * rows.count and len(verdict.accepted) > 0
        summary = verdict_line(verdict, rows.count, allowed, remedies(checked.findings))
    summary = summary if success else "; ".join(filter(None, [summary, rows.links]))
    identified = _identified(attributes, verdict.accepted, checked.known) if success else verdict.accepted
    belong = count_groups(identified) if success else {}
    notices = [*of_reading, *notices, *groups_joined(belong)]
    # findings that follow from a refused table are left out
    untold = remarks(attributes, _learned(attributes, verdict.accepted)) if success else []
    found = _metrics(rows, checked, verdict, annotations)
    told = {"never_answered": untold, "notices": notices, "notices_of_reading": of_reading}
    metrics = {"success": success, **told, **found, **belong}

    folder = context.out if success else context.failed
    _write_reports(context, folder, annotations, rows, checked, verdict, identified, metrics, summary)
    if not success:
        raise DataError(f"{summary}; see {folder / REPORT}")
    log.info("%s", summary)
    for line in (*untold, *notices):
        log.warning("%s", line)
    for number, what, where in (
        (metrics["warnings"], "rows kept with a warning", f" ({listed(metrics['remarks'])}): see warnings.csv"),
        (metrics["unannotated"], "images without annotation", ": see unannotated.csv"),
        (sum(metrics["ignored"].values()), "files not read", ": see unannotated.csv"),
        (metrics["not_selected"], "rows of lots not selected", ""),
    ):
        if number:
            log.warning("%s: %d%s", what, number, where)
    remarked = {"warnings": listed(metrics["remarks"]), "notices": "; ".join([*untold, *notices])}
    return {
        **{name: metrics[name] for name in ("rows", "accepted", "rejected", "success")},
        **{kind: text for kind, text in remarked.items() if text},
    }


def raw_files(params: Params, inputs: Mapping[str, Path], name: str) -> RawFiles:
    """Files of the key: images and pair files of the selected lots, and other annotation files by age.

    Left out are the files that `unannotated.csv` lists as not read.
    """
    lots = params.validate.lots
    if name == "annotations":
        return annotation_files(read_attributes_file(inputs["attributes"]), inputs[name], lots)
    if name == "corrections":
        return correction_files(inputs[name])
    listing = list_folder(inputs[name], inputs["annotations"])
    require_lots(lots, {lot_of(path) for path in listing.images}, LOTS)
    images = [path for path in listing.images if not lots or lot_of(path) in lots]
    return RawFiles(images, [(as_text(path), reason) for path, reason in listing.ignored.items()])


def check(params: Params, inputs: Mapping[str, Path]) -> Headline:
    """Count images, annotations and lots.

    Raises:
        DataError: there are none.
        UsageError: a selected lot does not exist.
    """
    found = {"annotation_rows": count_annotations(read_attributes_file(inputs["attributes"]), inputs["annotations"])}
    if "raw" in inputs:
        listing = list_folder(inputs["raw"], inputs["annotations"])
        images = listed_files(listing.images)
        if images.empty:
            line = f"{inputs['raw']} holds no .png or .jpg images: name the folder that holds the lots"
            links = about_links(inputs["raw"], listing)
            raise DataError("; ".join(filter(None, [line, links])))
        require_lots(params.validate.lots, images["lot"], LOTS)
        found |= {"images": len(images), "lots": images["lot"].nunique()}
    return found


STAGE = Stage(
    name="validate",
    description="Check raw annotations and images with Great Expectations and write the canonical annotations.",
    params=Params,
    inputs={
        "raw": Input(
            "folder of images, any depth; without it only the annotations are checked", artifact=False, required=False
        ),
        "annotations": Input(
            "annotation file in any format, or a folder of such files; given alone, without the flag, it is only "
            "checked, and a verdict is printed",
            artifact=False,
        ),
        "attributes": Input(
            "attributes.yaml, which lists the attributes; default: beside annotations or raw, else that of the "
            "repository",
            artifact=False,
            required=False,
            default=find_attributes_file,
        ),
        "corrections": Input(
            "folder of corrections, which override all other annotations; default: beside the annotations",
            artifact=False,
            required=False,
            default=find_corrections,
        ),
    },
    outputs={
        "attributes": (ATTRIBUTES_FILE, "the attributes: name, classes, column, title, unknown_when"),
        "annotations": (
            ANNOTATIONS,
            "accepted: filename, lot, path, digests, group, class index or empty per attribute, given group and split",
        ),
        "rejected": ("rejected.csv", "rows left out: source, row, filename, reason"),
        "warnings": ("warnings.csv", "rows kept with a warning, and repeats: source, row, filename, reason"),
        "unannotated": ("unannotated.csv", "images without a row, and files not read: filename, lot, path, reason"),
        "data_docs": ("data_docs", "<suite>/index.html: findings of Great Expectations; suite.html: the suite"),
        "metrics": ("metrics/validation.json", "counts of rows, per reason, class, lot and attribute"),
    },
    run=run,
    content=(ANNOTATIONS, ATTRIBUTES_FILE),
    raw_files=raw_files,
    check=check,
)
