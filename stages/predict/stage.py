"""The wiring of stage `predict`: lots and the released model in, predictions and features out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.contract.artifacts import link_or_copy, write_json
from stages.common.contract.errors import DataError
from stages.common.contract.history import remember
from stages.common.contract.logs import log
from stages.common.contract.stage import Context, Headline, Input, LotsContext, RawFiles, Stage
from stages.common.contract.tables import write_csv
from stages.common.images.listing import as_text, require_lots
from stages.common.images.sources import Source, find_sources
from stages.common.registry.champion import Champion, read_champion
from stages.common.reports.report import REPORT, Report, write_report
from stages.common.schema.attributes import names
from stages.common.schema.learned import never_answered, remarks
from stages.predict.images import Found, find_images
from stages.predict.page import (
    TITLE,
    describe_ignored,
    describe_predictions,
    describe_undecodable,
    nothing_released,
)
from stages.predict.params import Params

if TYPE_CHECKING:
    from stages.common.inference.onnx_model import OnnxModel
    from stages.common.inference.to_label import Worth
    from stages.common.workers.lot_cache import Lots
    from stages.predict.counts import Unsure
    from stages.predict.pieces import Piece

METRICS = "metrics/predictions.json"
SETTING = "predict.lots"
NO_IMAGES = "{} holds no .png or .jpg images: name the folder that holds the lots"


def _find(context: LotsContext[Params], wanted: Sequence[str], setting: str) -> Found:
    """The images of the wanted lots.

    Raises:
        DataError: there are none.
        UsageError: one of the lots does not exist.
    """
    found = find_images(context.inputs["raw"])
    if not found.names:
        raise DataError(NO_IMAGES.format(context.inputs["raw"]))
    require_lots(wanted, found.names, setting)
    return found.select(wanted)


def _answer_lots(context: LotsContext[Params], champion: Champion, found: Found) -> "Lots[Piece]":
    """The piece of every lot, from the cache or made now."""
    from stages.common.workers.lot_cache import take_lots
    from stages.predict.pieces import load_once, recipe_of

    section, largest = context.params.predict, context.params.images.max_megapixels
    model = load_once(champion.model, champion.model_digest)  # a model that does not fit is refused here, in one line
    log.info("%s answers %s", champion.version, ", ".join(names(model.attributes)))
    raw = context.inputs["raw"]
    sources: dict[str, list[Source]] = {
        lot: list(find_sources(((name, f"{raw}/{path}") for name, path in images.items()), context.digests))
        for lot, images in found.lots.items()
    }
    recipe = recipe_of(champion.model, champion.model_digest, largest, section.batch_size, champion.version)
    lots = take_lots(recipe, sources, context.cache, section.workers)
    made = [lots.pieces[lot] for lot in lots.made]
    if made:
        told = _counted(sum(piece.images for piece in made), sum(len(piece.undecodable) for piece in made))
        log.info("%s predicted by %s", told, champion.version)
    for lot, piece in lots.pieces.items():
        how = "computed" if lot in lots.made else "reused"
        log.info("lot %s: %s, %s", lot, how, _counted(piece.images, len(piece.undecodable)))
    return lots


def _counted(images: int, undecodable: int) -> str:
    """The number of predicted images, and of those that cannot be predicted."""
    return f"{images} images" + (f" (and {undecodable} undecodable)" if undecodable else "")


def _write_left_out(folder: Path, undecodable: Iterable[Sequence[str]], ignored: Iterable[Sequence[str]]) -> None:
    write_csv(folder / "undecodable.csv", ("filename", "lot", "reason"), undecodable, for_people=True)
    write_csv(folder / "ignored.csv", ("filename", "lot", "path", "reason"), ignored, for_people=True)


def _without_release(context: Context[Params]) -> Headline:
    """Predict nothing before the first release; that is no error, for a pipeline must be able to run before it."""
    log.warning("no version is released yet: nothing is predicted; run the pipeline until a model passes the gate")
    for folder in ("outputs", "features", "data_docs"):
        (context.out / folder).mkdir()
    _write_left_out(context.out, [], [])
    for name in ("findings.csv", "to_label.csv"):
        write_csv(context.out / name, (), [])
    write_json(context.out / METRICS, {"model_version": None, "images": 0, "undecodable": 0, "lots": {}})
    write_report(context.out / REPORT, nothing_released())
    return {"version": "none", "images": 0, "lots": 0, "lots_reused": 0, "undecodable": 0}


def _write_lots(
    out: Path, answered: "Lots[Piece]", model: "OnnxModel", champion: Champion, to_label: int
) -> "tuple[dict[str, Any], list[Unsure], list[Worth]]":
    """Write predictions and features, one lot after the other, so that memory does not grow with their number.

    Returns:
        The keys `new`, `expected` (accuracy on the new images, None without an estimate) and `lots` of `METRICS`; the
        least sure answers; the new images that are most worth labels.
    """
    from stages.common.inference.expected import certainty, expect, figures, read_trust
    from stages.common.inference.features import load_features
    from stages.common.inference.to_label import Chooser
    from stages.common.registry.seen import read_seen, unseen
    from stages.predict.counts import count_answers, least_sure
    from stages.predict.page import PICTURES
    from stages.predict.pieces import answers_in, write_answers

    lots: dict[str, dict[str, Any]] = {}
    cases: list[Unsure] = []
    known, trusts = read_seen(champion.reference), read_trust(champion.reference)
    chooser = Chooser(model.attributes, load_features(champion.reference / "features.npz"), to_label)
    parts = []
    for lot, piece in answered.pieces.items():
        features = load_features(piece.features) if piece.features else None
        names, answers = features.filenames if features else [], answers_in(model, features)
        table = out / "outputs" / f"predictions_{lot}.csv"
        if piece.version == champion.version:
            link_or_copy(piece.predictions, table)
        else:  # the same model has been archived again
            write_answers(table, model, champion.version, features)
        if piece.features:
            link_or_copy(piece.features, out / "features" / f"{lot}.npz")
            cases = sorted([*cases, *least_sure(lot, names, answers, PICTURES)])[:PICTURES]
        counts = {"images": len(names), "undecodable": len(piece.undecodable), "reused": lot in answered.reused}
        lots[lot] = {**counts, "new": 0, "expected": None, "classes": count_answers(answers)}
        if features:
            new = unseen(lot, features.pictures, known, champion.lots)
            chooser.show(lot, features, new)
            parts.append(certainty(answers, new))
            lots[lot] |= {"new": parts[-1].images, "expected": figures(expect(parts[-1], trusts))}
    together = sum(parts[1:], parts[0])
    told = {"new": together.images, "expected": figures(expect(together, trusts)), "lots": lots}
    return told, cases, chooser.choose()


def _run(context: Context[Params]) -> Headline:
    champion = read_champion(context.inputs["champion"])
    if champion is None:
        return _without_release(context)
    # not needed for --help
    import pandas as pd

    from stages.common.checks.validation import check  # Great Expectations takes seconds
    from stages.common.images.decode import thumbnail_as_decoded
    from stages.common.inference.decision import decision_table
    from stages.common.inference.predictions import SUITE, columns_of, read_predictions
    from stages.common.inference.to_label import TO_LABEL, write_to_label
    from stages.predict.counts import add_counts
    from stages.predict.pieces import limited, load_once

    params, out, raw = context.params.predict, context.out, context.inputs["raw"]
    found = _find(context, params.lots, SETTING)
    answered = _answer_lots(context, champion, found)
    model = load_once(champion.model, champion.model_digest)
    settings = limited(model.preprocessing, context.params.images.max_megapixels)
    of_pieces = [(name, lot, why) for lot, piece in answered.pieces.items() for name, why in piece.undecodable.items()]
    undecodable = sorted([*of_pieces, *found.undecodable], key=lambda row: (row[1], row[0], row[2]))
    if not any(piece.features for piece in answered.pieces.values()):
        _refuse(context, undecodable, found.ignored)

    for folder in ("outputs", "features"):
        (out / folder).mkdir()
    _write_left_out(out, undecodable, found.ignored)
    of_lots, cases, worth = _write_lots(out, answered, model, champion, context.params.to_label.images)
    lots, expected = of_lots["lots"], of_lots["expected"]
    places = {(image.lot, image.filename): as_text(found.lots[image.lot][image.filename]) for image in worth}
    write_to_label(out / TO_LABEL, model.attributes, worth, places)
    tables = [
        read_predictions(model.attributes, out / "outputs" / f"predictions_{lot}.csv", lot)
        for lot, counts in lots.items()
        if counts["images"]
    ]
    table = pd.concat(tables, ignore_index=True)
    never = never_answered(model.attributes, model.calibration.learned)
    checked = check(
        model.attributes,
        SUITE,
        table,
        params.thresholds(model.lowest_confidences, champion.version),
        context,
        columns_of(never),
    )
    for line in (untold := remarks(model.attributes, model.calibration.learned)):
        log.warning("%s", line)

    images = sum(counts["images"] for counts in lots.values())
    metrics = {
        "model_version": champion.version,
        "model_digest": champion.model_digest,
        "images": images,
        "undecodable": len(undecodable),
        "ignored": len(found.ignored),
        "lots_reused": len(answered.reused),
        "images_per_s": answered.images_per_s,
        "never_answered": untold,
        "classes": add_counts(counts["classes"] for counts in lots.values()),
        **of_lots,
    }
    write_json(out / METRICS, metrics)

    def picture(lot: str, filename: str) -> str:
        return thumbnail_as_decoded(raw / found.lots[lot][filename], settings)

    counts = {"images": images, "undecodable": len(undecodable), "findings": len(checked.found)}
    history = remember(context.cache, str(raw), {"success": True, **counts})
    attributes = tuple(attribute for attribute in model.attributes if attribute.name not in never)
    answers = decision_table(attributes, model.calibration)
    report = describe_predictions(
        attributes, metrics, answers, checked, cases, worth, picture, undecodable, found.ignored, history
    )
    write_report(out / REPORT, report)
    told: dict[str, int | float | str] = {
        "lots": len(lots),
        "lots_reused": len(answered.reused),
        "undecodable": len(undecodable),
        "to_label": len(worth),
    }
    if expected:
        told["expected_accuracy"] = round(expected["mean"]["value"], 4)
    if never:
        told["never_answered"] = ", ".join(never)
    if checked.found:
        told["findings"] = "; ".join(finding.reason for finding in checked.found)
    return {"version": champion.version, "images": images, **told}


def _refuse(context: Context[Params], undecodable: Sequence[Sequence[str]], ignored: Sequence[Sequence[str]]) -> None:
    """End the stage if no image can be used."""
    context.failed.mkdir()
    _write_left_out(context.failed, undecodable, ignored)
    name, _, reason = undecodable[0]
    message = (
        f"none of the {len(undecodable)} images can be used; the first is {name}: {reason}; repair or remove those in "
        f"{context.failed}/undecodable.csv"
    )
    sections = [*describe_undecodable(undecodable), *describe_ignored(ignored)]
    write_report(context.failed / REPORT, Report(TITLE, "", message, passed=False, sections=sections))
    raise DataError(message)


def _run_lots(context: LotsContext[Params], lots: Sequence[str]) -> Headline:
    champion = read_champion(context.inputs["champion"])
    if champion is None:
        log.warning("no version is released yet: nothing is predicted")
        return {"version": "none", "images": 0, "lots": 0, "lots_reused": 0}
    found = _find(context, lots, "--lots")
    answered = _answer_lots(context, champion, found)
    images = sum(piece.images for piece in answered.pieces.values())
    told = {"lots": len(answered.pieces), "lots_reused": len(answered.reused)}
    return {"version": champion.version, "images": images, **told}


def _raw_files(params: Params, inputs: Mapping[str, Path], _name: str) -> RawFiles:
    """Images of the selected lots, and the other files that the artifact lists."""
    found = find_images(inputs["raw"]).select(params.predict.lots)
    images = [path for of_lot in found.lots.values() for path in of_lot.values()]
    return RawFiles(images, (*found.undecodable, *found.ignored))


def _check(params: Params, inputs: Mapping[str, Path]) -> Headline:
    """Count images and lots.

    Raises:
        DataError: there are no images.
        UsageError: a selected lot does not exist.
    """
    found = find_images(inputs["raw"])
    if not found.lots:
        raise DataError(NO_IMAGES.format(inputs["raw"]))
    require_lots(params.predict.lots, found.names, SETTING)
    found = found.select(params.predict.lots)
    return {"images": sum(map(len, found.lots.values())), "lots": len(found.lots)}


STAGE = Stage(
    name="predict",
    description="Predicts every image of the raw folder with the released model, lot by lot.",
    params=Params,
    inputs={
        "raw": Input("folder of raw images (PNG or JPEG), in lots", artifact=False),
        "champion": Input("artifact of stage champion"),
    },
    outputs={
        "predictions": ("outputs", "one predictions_<lot>.csv per lot: class, confidence, answered, model_version"),
        "features": ("features", "one <lot>.npz per lot: statistics, embeddings and probabilities of its images"),
        "to_label": ("to_label.csv", "new images most worth labelling, to be filled in: filename, lot, why, answers"),
        "undecodable": ("undecodable.csv", "images that cannot be used: filename, lot, reason"),
        "ignored": ("ignored.csv", "other files in the raw folder: filename, lot, path, reason"),
        "metrics": (METRICS, "counts per lot and class, images without an answer, images per second, version"),
        "findings": ("findings.csv", "findings of the suite: severity, reason, filename, column, value"),
        "data_docs": ("data_docs", "predictions/index.html: findings of Great Expectations"),
    },
    run=_run,
    content=("features",),
    raw_files=_raw_files,
    check=_check,
    run_lots=_run_lots,
)
