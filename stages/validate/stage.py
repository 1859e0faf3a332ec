"""The stage `validate`: what it takes, what it makes, and the run itself."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from stages.common.artifacts import write_json
from stages.common.attributes import NAMES
from stages.common.errors import DataError
from stages.common.logs import log
from stages.common.stage import Context, Headline, Input, Stage
from stages.common.tables import write_csv
from stages.common.version import ROOT
from stages.validate.images import image_files, list_ignored, list_images, lot_of, require_lots
from stages.validate.params import Params
from stages.validate.raw_annotations import (
    COLUMNS,
    RawAnnotations,
    annotation_files,
    brief,
    count_annotations,
    read_annotations,
)
from stages.validate.table import join_images, select_lots, split_repeats
from stages.validate.verdict import count, judge

if TYPE_CHECKING:
    from stages.common.suite import Finding

SUITE = ROOT / "expectations" / "raw_annotations.json"


def explain(finding: "Finding", annotations: RawAnnotations) -> str:
    """One line about an unmet expectation of the whole table: what was expected, what was found."""
    line = f"{annotations.name}: {finding.reason} ({finding.type})"
    missing = finding.details.get("details", {}).get("mismatched", {}).get("missing")
    if missing:
        line += f": missing {', '.join(missing)}; expected {', '.join(COLUMNS)}"
        line += f"; found {brief(', '.join(annotations.header), 200)}"
    if len(annotations.broken):
        first = annotations.broken.iloc[0]
        line += f"; {len(annotations.broken)} cannot be read, the first {first['source']} row {first['row']}: "
        line += str(first["reason"])
    return line


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def _write(path: Path, table: pd.DataFrame, *, for_people: bool = True) -> None:
    write_csv(path, table.columns, table.fillna("").itertuples(index=False), for_people=for_people)


def run(context: Context[Params]) -> Headline:
    """Validate: see the package's docstring."""
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # at INFO its import alone logs 300 lines
    from stages.common.data_docs import write_data_docs  # Great Expectations takes seconds to import
    from stages.common.suite import findings, load_suite, run_suite

    lots, allowed = context.params.validate.lots, context.params.validate.max_rejected_fraction
    annotations = read_annotations(context.inputs["annotations"])
    images = list_images(context.inputs["raw"])
    require_lots(lots, images["lot"])
    images = images[images["lot"].isin(lots)] if lots else images  # what others hold is not part of the key
    log.info("%d annotations, %d images", len(annotations.rows) + len(annotations.broken), len(images))

    read, unread = join_images(annotations.rows, images), join_images(annotations.broken, images)
    table, broken = select_lots(read, lots), select_lots(unread, lots)
    rows = len(table) + len(broken)
    not_selected = len(read) + len(unread) - rows
    named = pd.concat([table["candidates"], broken["candidates"]]).explode()
    table, repeats = split_repeats(table)

    suite = load_suite(SUITE)
    result = run_suite(suite, annotations.name, table.drop(columns=["source", "row", "candidates", "lot"]))
    found = findings(result)
    for finding in found:
        if finding.rows is None and finding.critical:
            message = explain(finding, annotations)
            write_data_docs(context.failed / "data_docs", suite, result, message)
            raise DataError(f"{message}; see {context.failed / 'data_docs' / 'index.html'}")

    verdict = judge(table, repeats, broken, [finding for finding in found if finding.rows is not None])
    accepted, rejected = len(verdict.accepted), len(verdict.rejected)
    unannotated = images[~images["path"].isin(named)].assign(reason="no annotation")
    ignored = list_ignored(context.inputs["raw"], context.inputs["annotations"])
    unused = pd.concat([unannotated, ignored]).rename(columns={"image": "filename"}).sort_values("path")
    success = rejected <= allowed * rows and accepted > 0
    if rejected > allowed * rows:
        summary = f"{rejected} of {rows} rows rejected ({rejected / rows:.1%} > {allowed:.1%} allowed)"
    else:
        summary = f"{accepted} of {rows} rows accepted, {rejected} rejected"
    summary += f": {_listed(verdict.reasons)}" if rejected else ""
    remarks = f"kept with a remark: {_listed(verdict.remarks)}" if verdict.remarks else ""
    metrics = {
        "success": success,
        "rows": rows,
        "accepted": accepted,
        "rejected": rejected,
        "rejected_fraction": round(rejected / rows, 6),
        "repeated": len(repeats),
        "warnings": len(verdict.warnings),
        "not_selected": not_selected,
        "images": len(images),
        "unannotated": len(unannotated),
        "ignored": count(ignored["reason"]),
        "expectations_evaluated": result.statistics["evaluated_expectations"],
        "expectations_met": result.statistics["successful_expectations"],
        "reasons": verdict.reasons,
        "remarks": verdict.remarks,
        "labels_known": {name: int(verdict.accepted[name].notna().sum()) for name in NAMES},
        "lots": {str(lot): int(count) for lot, count in verdict.accepted["lot"].value_counts().sort_index().items()},
    }

    folder = context.out if success else context.failed
    (folder / "metrics").mkdir(parents=True)
    write_json(folder / "metrics" / "validation.json", metrics)
    write_data_docs(folder / "data_docs", suite, result, "; ".join(filter(None, (summary, remarks))))
    _write(folder / "rejected.csv", verdict.rejected)
    _write(folder / "warnings.csv", verdict.warnings)
    _write(folder / "unannotated.csv", unused[["filename", "lot", "path", "reason"]])
    if not success:
        raise DataError(f"{summary}; see {folder / 'rejected.csv'}")
    _write(folder / "annotations.csv", verdict.accepted, for_people=False)

    log.info("%s", summary)
    for number, what in (
        (len(verdict.warnings), f"rows {remarks}; see warnings.csv"),
        (len(unannotated), "images without annotation; see unannotated.csv"),
        (len(ignored), "files that are not read; see unannotated.csv"),
        (not_selected, "rows of lots that are not selected"),
    ):
        if number:
            log.warning("%d %s", number, what)
    return {"rows": rows, "accepted": accepted, "rejected": rejected, "success": success}


def raw_files(params: Params, inputs: Mapping[str, Path], name: str) -> Iterable[Path]:
    """The files that make the key: images, or pair files, of the selected lots."""
    lots = params.validate.lots
    if name == "annotations":
        return annotation_files(inputs[name], lots)
    files = image_files(inputs[name])
    require_lots(lots, {lot_of(path) for path in files})
    return [path for path in files if not lots or lot_of(path) in lots]


def check(params: Params, inputs: Mapping[str, Path]) -> Headline:
    """Count images, annotations and lots.

    Raises:
        DataError: there are none.
        UsageError: a selected lot does not exist.
    """
    images = list_images(inputs["raw"])
    if images.empty:
        raise DataError(f"{inputs['raw']} holds no .png or .jpg images: name the folder that holds the lots")
    require_lots(params.validate.lots, images["lot"])
    return {
        "images": len(images),
        "annotation_rows": count_annotations(inputs["annotations"]),
        "lots": images["lot"].nunique(),
    }


STAGE = Stage(
    name="validate",
    description="Check raw annotations with Great Expectations and write the canonical ones.",
    params=Params,
    inputs={
        "raw": Input("folder of images, any depth", artifact=False),
        "annotations": Input("flat CSV, or a folder of Cartoon Set pairs (csX.csv beside csX.png)", artifact=False),
    },
    outputs={
        "annotations": ("annotations.csv", "accepted images: filename, lot, path, class index per attribute or empty"),
        "rejected": ("rejected.csv", "rows left out: source, row, filename, reason"),
        "warnings": ("warnings.csv", "rows kept with a remark, and repeats: source, row, filename, reason"),
        "unannotated": ("unannotated.csv", "images that no row names, and files not read: filename, lot, path, reason"),
        "data_docs": ("data_docs/index.html", "what Great Expectations found (suite.html: what it expects)"),
        "metrics": ("metrics/validation.json", "counts of rows, per reason, lot and attribute"),
    },
    run=run,
    raw_files=raw_files,
    check=check,
)
