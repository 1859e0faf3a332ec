"""The wiring of stage `prepare_train`: lots in, shards and split out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.contract.artifacts import link_or_copy, write_json
from stages.common.contract.errors import DataError, UsageError
from stages.common.contract.history import remember
from stages.common.contract.logs import log
from stages.common.contract.stage import Context, Headline, Input, LotsContext, RawFiles, Stage
from stages.common.contract.tables import write_csv
from stages.common.images.sources import Source, find_sources, is_regular
from stages.common.reports.report import REPORT, Cards, PageSection, Report, write_report
from stages.common.schema.attributes import FILE as ATTRIBUTES_FILE
from stages.common.schema.attributes import UNKNOWN, read_attributes, write_attributes
from stages.common.schema.dataset import INDEX, PREPROCESSING, SPLITS, index_columns
from stages.prepare_train.annotations import Annotation, read_annotations
from stages.prepare_train.params import Params
from stages.prepare_train.split import assign_split, leave_out, require_given, units_of
from stages.prepare_train.statistics import (
    Row,
    count_classes,
    count_faces,
    count_groups,
    count_splits,
    find_duplicates,
    mean_and_std,
)

if TYPE_CHECKING:
    from stages.common.workers.lot_cache import Lots
    from stages.prepare_train.shards import Piece

SUITE = "prepared"
CHANGED = "changed since it was validated: run stage validate again"


Rejected = dict[str, dict[str, str]]
"""Lot -> file name -> reason, of all lots."""


def _find_sources(
    context: LotsContext[Params], annotations: list[Annotation]
) -> tuple[dict[str, list[Source]], Rejected]:
    """Images of each lot, and rejects: a file that has changed since was not validated."""
    sources: dict[str, list[Source]] = {}
    rejected: Rejected = {annotation.lot: {} for annotation in annotations}
    raw = context.inputs["raw"]
    files = ((annotation.filename, f"{raw}/{annotation.path}") for annotation in annotations)
    for annotation, source in zip(annotations, find_sources(files, context.digests), strict=True):
        if source.digest in {annotation.digest, ""}:  # empty: gone or not a regular file, which decoding reports
            sources.setdefault(annotation.lot, []).append(source)
        else:
            rejected[annotation.lot][annotation.filename] = CHANGED
    return sources, rejected


def _prepare_lots(context: LotsContext[Params], annotations: list[Annotation]) -> "tuple[Lots[Piece], Rejected]":
    """The piece of every lot with an unchanged image, from the cache or made now; and the rejects."""
    from stages.common.workers.lot_cache import take_lots
    from stages.prepare_train.shards import recipe_of

    sources, rejected = _find_sources(context, annotations)
    lots = take_lots(
        recipe_of(context.params.preprocessing), sources, context.cache, context.params.prepare_train.workers
    )
    for lot, piece in lots.pieces.items():
        rejected[lot] |= piece.rejected
        how = "computed" if lot in lots.made else "reused"
        log.info("lot %s: %s, %d images, %d rejected", lot, how, len(piece.accepted), len(rejected[lot]))
    return lots, rejected


def _check_rejects(context: Context[Params], rejected: Mapping[str, str], images: int) -> None:
    limit = context.params.prepare_train.max_rejected_fraction
    if len(rejected) > limit * images:
        from stages.prepare_train.page import describe_rejects

        context.failed.mkdir()
        _write_listed(context.failed / "rejected.csv", rejected)
        name, reason = next(iter(rejected.items()))
        message = (
            f"{len(rejected)} of {images} images cannot be used, more than prepare_train.max_rejected_fraction "
            f"({limit:g}) allows; the first is {name}: {reason}; repair or remove those "
            f"in {context.failed}/rejected.csv"
        )
        sections: list[PageSection] = [Cards({"images": images, "rejected": len(rejected)}), describe_rejects(rejected)]
        write_report(context.failed / REPORT, Report("Prepared images", "", message, passed=False, sections=sections))
        raise DataError(message)


def _write_listed(path: Path, reasons: Mapping[str, str]) -> None:
    write_csv(path, ("filename", "reason"), sorted(reasons.items()), for_people=True)


def _index_row(row: Row) -> list[Any]:
    labels = ["" if label == UNKNOWN else label for label in row.labels]
    return [row.filename, row.lot, row.row, row.split, row.pixels, row.group, *labels, *row.face]


def _run(context: Context[Params]) -> Headline:
    # not needed for --help; Great Expectations takes seconds
    from stages.common.checks.validation import check
    from stages.prepare_train.page import describe_data
    from stages.prepare_train.plots import plot_distribution
    from stages.prepare_train.table import index_table, read_sums, suite_thresholds

    params, out = context.params, context.out
    attributes = read_attributes(context.inputs["validate"])
    annotations = read_annotations(context.inputs["validate"])
    by_digest = params.data.split == "digest"
    if not by_digest:
        require_given(annotations)
    prepared, rejected_of = _prepare_lots(context, annotations)
    pieces = prepared.pieces
    rejected = {name: reason for of_lot in rejected_of.values() for name, reason in of_lot.items()}
    _check_rejects(context, rejected, len(annotations))
    _write_listed(out / "rejected.csv", rejected)

    annotated = {annotation.filename: annotation for annotation in annotations}
    units = units_of(
        annotations, {name: pixels for piece in pieces.values() for name, pixels in piece.accepted.items()}
    )
    everything = [
        Row(
            name, lot, number, assign_split(units[name], params.data) if by_digest else annotation.given_split, pixels,
            annotation.group, annotation.labels, units[name], piece.faces.get(name, ()),
        )
        for lot, piece in pieces.items()
        for number, (name, pixels) in enumerate(piece.accepted.items())
        for annotation in (annotated[name],)
    ]  # fmt: skip
    left_out = leave_out(everything)
    _write_listed(out / "left_out.csv", left_out)
    rows = [row for row in everything if row.filename not in left_out]
    splits = count_splits(rows)
    for lot, piece in pieces.items():
        if piece.accepted:
            link_or_copy(piece.shard, out / "shards" / f"{lot}.npy")
    write_attributes(out, attributes)
    write_csv(out / INDEX, index_columns(attributes, params.data.crop == "face"), map(_index_row, rows))
    sums = read_sums(out / "shards", [lot for lot, piece in pieces.items() if piece.accepted])
    sums = sums[[row.filename not in left_out for row in everything]]
    table = index_table(out, sums, params.data.image_size**2)
    thresholds = suite_thresholds(rows, params.data, params.prepare_train)
    checked = check(attributes, SUITE, table, thresholds, context)

    classes = count_classes(attributes, rows)
    lots = dict.fromkeys(rejected_of, dict.fromkeys(SPLITS, 0))
    left_out_of = Counter(row.lot for row in everything if row.filename in left_out)
    lots |= {lot: count_splits(members) for lot, members in groupby(rows, key=lambda row: row.lot)}
    duplicates = find_duplicates(rows)
    if duplicates["pictures"]:
        log.warning(
            "%(images)d images show only %(pictures)d pictures; of these, %(contradicting_labels)d have labels that "
            "contradict each other (data_stats.json lists them)",
            duplicates,
        )
    if left_out:
        log.warning(
            "%d images of validation and test are nearly the same as one of another split, or of its group, and are "
            "left out; see left_out.csv",
            len(left_out),
        )
    in_train = table["split"].eq("train").to_numpy()
    mean, std = mean_and_std(sums[in_train].sum(axis=0), splits["train"] * params.data.image_size**2)
    statistics = {
        "images": len(rows),
        "rejected": len(rejected),
        "left_out": len(left_out),
        "splits": splits,
        "groups": count_groups(rows),
        "given_groups": len({annotation.group for annotation in annotations if annotation.given_group}),
        "lots": {
            lot: {**lots[lot], "left_out": left_out_of[lot], "rejected": len(of_lot)}
            for lot, of_lot in rejected_of.items()
        },
        "labels": classes,
        "faces": count_faces(rows),
        "duplicates": duplicates,
        "train_pixels": {"mean": mean.round(4).tolist(), "std": std.round(4).tolist()},
    }
    write_json(out / "metrics" / "data_stats.json", statistics)
    write_json(out / PREPROCESSING, params.preprocessing.model_dump())
    plot_distribution(attributes, out / "plots" / "data_distribution.png", classes, lots)
    contradicting = duplicates["contradicting_labels"]
    found = {"images": len(rows), **splits, "left_out": len(left_out)}
    found |= {"rejected": len(rejected), "contradicting": contradicting}
    found |= {"success": True, "findings": len(checked.found)}
    history = remember(context.cache, str(context.inputs["raw"]), found)
    write_report(
        out / REPORT, describe_data(out, checked, params.preprocessing, table, statistics, rejected, left_out, history)
    )
    return {
        "images": len(rows),
        "rejected": len(rejected),
        "left_out": len(left_out),
        "lots": len(rejected_of),
        "lots_reused": len(prepared.reused),
        **splits,
    }


def _new_lots(context: LotsContext[Params]) -> Mapping[str, int]:
    from stages.common.workers.lot_cache import new_lots
    from stages.prepare_train.shards import recipe_of

    sources, _ = _find_sources(context, read_annotations(context.inputs["validate"]))
    return new_lots(recipe_of(context.params.preprocessing), sources, context.cache)


def _run_lots(context: LotsContext[Params], lots: Sequence[str]) -> Headline:
    wanted = set(lots)
    annotations = read_annotations(context.inputs["validate"], wanted)
    if unknown := sorted(wanted - {annotation.lot for annotation in annotations}):
        raise UsageError(f"--lots: stage validate accepted no image of {', '.join(unknown)}: name lots that it has")
    prepared, rejected = _prepare_lots(context, annotations)
    return {
        "images": sum(len(piece.accepted) for piece in prepared.pieces.values()),
        "rejected": sum(map(len, rejected.values())),
        "lots": len(rejected),
        "lots_reused": len(prepared.reused),
    }


def _raw_files(_params: Params, inputs: Mapping[str, Path], _name: str) -> RawFiles:
    """Only the annotated images decide the key; one that is not a regular file has no content and becomes a reject."""
    raw = inputs["raw"]
    return RawFiles(
        [
            annotation.path
            for annotation in read_annotations(inputs["validate"])
            if is_regular(f"{raw}/{annotation.path}")
        ]
    )


STAGE = Stage(
    name="prepare_train",
    description="Decodes, crops and resizes the annotated images, and splits them into train, validation and test.",
    params=Params,
    inputs={
        "validate": Input("artifact of stage validate"),
        "raw": Input("folder of raw images (PNG or JPEG)", artifact=False),
    },
    outputs={
        "shards": ("shards", "one <lot>.npy per lot: uint8 (images, S, S, 3), RGB, S = data.image_size"),
        "attributes": (ATTRIBUTES_FILE, "the attributes, as in stage validate"),
        "index": (INDEX, "per image: lot, row, split, digest and group of its picture, class indices, face"),
        "rejected": ("rejected.csv", "images that cannot be used, with the reason"),
        "left_out": ("left_out.csv", "images of val and test in a group of another split, with the reason"),
        "stats": ("metrics/data_stats.json", "counts, duplicates, pixel statistics"),
        "preprocessing": (PREPROCESSING, "the settings of the images, saved with the model"),
        "findings": ("findings.csv", "findings of the suite: severity, reason, filename, column, value"),
        "data_docs": ("data_docs/prepared/index.html", "findings of Great Expectations (suite.html: the suite)"),
        "distribution": ("plots/data_distribution.png", "class shares per attribute and split"),
    },
    run=_run,
    content=("shards", ATTRIBUTES_FILE, INDEX, PREPROCESSING),
    raw_files=_raw_files,
    new_lots=_new_lots,
    run_lots=_run_lots,
)
