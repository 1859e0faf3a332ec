"""The wiring of stage `monitor`: measure, compare, decide, and write it to the log."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stages.common.contract.artifacts import used_and_given, write_json
from stages.common.contract.errors import DataError
from stages.common.contract.history import remember
from stages.common.contract.logs import log
from stages.common.contract.run import told_run
from stages.common.contract.stage import Context, Delivered, Delivery, Headline, Input, RawFiles, Stage
from stages.common.images.listing import as_text
from stages.common.inference.measures import METRICS
from stages.common.registry.champion import Champion, read_champion
from stages.common.reports.report import REPORT, write_report
from stages.common.schema.attributes import difference, read_attributes
from stages.monitor.params import Params

if TYPE_CHECKING:
    from stages.common.checks.validation import Checked
    from stages.common.inference.features import Features
    from stages.monitor.drift import Drift

NO_LABELS = "no labels could be read, because stage validate failed: its report says why; drift is still reported"


def _run(context: Context[Params]) -> Headline:
    # not needed for --help
    from stages.common.images.thumbnails import thumbnail_of
    from stages.common.inference.expected import read_trust
    from stages.common.inference.features import load_features
    from stages.common.inference.measures import no_better, no_better_in_brief
    from stages.common.inference.to_label import TO_LABEL, write_to_label
    from stages.monitor.decision import decide, nothing_to_monitor
    from stages.monitor.drift import find_drift
    from stages.monitor.monitoring_log import DECISION
    from stages.monitor.new_images import NewImages, find_new_images
    from stages.monitor.page import describe_check, nothing_report, verdict_line
    from stages.monitor.performance import measure, read_labels
    from stages.monitor.unlabelled import NONE, choose_worth, find_places, find_unlabelled

    out, settings, metric = context.out, context.params.monitor, context.params.evaluate.metric
    champion = read_champion(context.inputs["champion"])
    if other := used_and_given(context.manifests, "predict", "champion"):
        raise DataError(
            f"--predict was made with another champion ({other[0]}) than --champion ({other[1]}): run stage predict "
            "with this one"
        )
    validate = context.inputs.get("validate")
    attributes = champion.attributes if champion else ()
    labels, unlike = None, ""
    if not validate:
        log.warning(NO_LABELS)
    else:
        labels = read_labels(attributes, validate)
        if champion and (how := difference(attributes, read_attributes(validate))):
            unlike = f"The labels have other attributes than {champion.version} answers ({how}): they are left out"
            log.warning(unlike)
    folder = context.inputs["predict"] / "features"
    new = find_new_images(folder, champion) if champion else NewImages({}, {})
    lots = new.lots
    if not champion or not lots:
        decision = nothing_to_monitor(champion, new, metric)
        write_json(out / DECISION, decision)
        write_to_label(out / TO_LABEL, attributes, [], {})
        write_json(out / "metrics" / "expected.json", NONE.told)
        for name in ("performance", "drift"):
            write_json(out / "metrics" / f"{name}.json", {"verdict": decision[name]["verdict"]})
        report = nothing_report(decision)
        log.info(report.verdict)
        write_report(out / REPORT, report)
        return _headline(decision)

    reference = load_features(champion.reference / "features.npz")
    performance = measure(attributes, lots, labels or {}, settings, reference.answered, metric)
    weak = no_better_in_brief(no_better(performance.enough(settings.min_labels), metric), metric)
    for line in weak:
        log.warning("on new labels %s", line)
    drift = find_drift(attributes, reference, lots, settings)
    trusts = read_trust(champion.reference)
    if not trusts:
        log.warning("%s has no record of how reliable its confidences are: no accuracy is estimated", champion.version)
    unlabelled = find_unlabelled(attributes, lots, labels, trusts)
    decision = decide(
        champion, new, performance, drift, unlabelled, settings.min_accuracy, labels_read=labels is not None
    )
    write_json(out / DECISION, decision)
    most, needed = context.params.to_label.images, decision["labels_needed"]
    worth = choose_worth(attributes, reference, lots, labels, needed, most)
    raw = context.inputs.get("raw")
    places = find_places(raw, worth) if raw else {}
    write_to_label(out / TO_LABEL, attributes, worth, {of: as_text(path) for of, path in places.items()})
    write_json(out / "metrics" / "performance.json", asdict(performance))
    write_json(out / "metrics" / "expected.json", unlabelled.told)
    told = {"verdict": drift.verdict, "lots": drift.lots, "signals": [asdict(test) for test in drift.tests]}
    write_json(out / "metrics" / "drift.json", told)
    log.info(verdict_line(champion, decision, performance, drift, unlabelled))
    checked, looked_at = _check_expectations(context, champion, reference, drift)
    found = {
        **performance.means,
        "drifted": len({test.signal for test in drift.tests if test.drifted}),
        "images": sum(decision["lots"].values()),
        "lots": len(lots),
    }
    history = remember(context.cache, "monitor", {"success": not decision["retrain"], **found})

    def picture(lot: str, filename: str) -> str:
        return thumbnail_of(raw / places[lot, filename]) if raw and (lot, filename) in places else ""

    report = describe_check(
        out, champion, decision, performance, drift, reference, lots, unlabelled, worth, picture, checked, looked_at,
        history, settings,
        [*([unlike] if unlike else []), *weak],
    )  # fmt: skip
    write_report(out / REPORT, report)
    return _headline(decision)


def _check_expectations(
    context: Context[Params], champion: Champion, reference: "Features", drift: "Drift"
) -> "tuple[Checked | None, list[str]]":
    """Run the suite on the lot that drifted most, or on all new images, so that clean lots do not dilute a drifted one.

    Returns:
        Its findings, None if there was nothing to check; and the lots that it has checked.
    """
    import pandas as pd

    from stages.common.checks.validation import check
    from stages.common.images.statistics import STATISTICS
    from stages.common.inference.partitions import read_partitions
    from stages.monitor.drift import ALL
    from stages.monitor.expectations import SUITE, thresholds

    own = [test.lot for test in drift.tests if test.drifted and test.lot != ALL]
    lots = own[:1] or [lot for lot in drift.now if lot != ALL]
    table = pd.concat([drift.now[lot] for lot in lots], ignore_index=True)
    kept = read_partitions(champion.attributes, champion.reference, reference)
    values = thresholds(kept, table, context.params.monitor.min_psi)
    if not values:
        return None, lots
    # columns that are absent on either side, or constant in the reference, cannot be tested
    without = {name for name in (*STATISTICS, *table) if f"{name}_partition" not in values}
    return check(champion.attributes, SUITE, table, values, context, without), lots


def _headline(decision: Mapping[str, Any]) -> Headline:
    figures = {
        "performance": decision["performance"]["verdict"],
        "drift": decision["drift"]["verdict"],
        "new_lots": len(decision["lots"]),
        "images": sum(decision["lots"].values()),
        "labels_needed": "yes" if decision["labels_needed"] else "no",
    }
    if (expected := decision["expected"]["mean_accuracy"]) is not None:
        figures["expected_accuracy"] = round(expected, 4)
    means = {name: decision["performance"][f"mean_{name}"] for name in (*METRICS, "majority")}
    return figures | {f"mean_{name}": round(mean, 4) for name, mean in means.items() if mean is not None}


def _deliver(delivery: Delivery[Params]) -> Delivered:
    from stages.monitor.monitoring_log import LOG, append_check

    run = told_run().get("run_id", "")
    return Delivered(append_check(delivery.inputs["logs"] / LOG, delivery.artifact, delivery.key, run))


STAGE = Stage(
    name="monitor",
    description=(
        "Measures the released model on newly annotated images, compares new images with the reference, and decides "
        "whether to retrain."
    ),
    params=Params,
    inputs={
        "champion": Input("artifact of stage champion"),
        "predict": Input("artifact of stage predict with that champion"),
        "validate": Input("artifact of stage validate, whose labels count as true", required=False),
        "raw": Input("folder of raw images, for pictures of images to label", artifact=False, required=False),
        "logs": Input("folder of monitoring_log.json, which gets a line for each check", artifact=False, created=True),
    },
    outputs={
        "decision": (
            "decision.json",
            "performance, drift, whether to retrain or to ask for labels, and the cause",
        ),
        "to_label": (
            "to_label.csv",
            "images most worth labelling, to be filled in: filename, lot, why, answers",
        ),
        "expected": ("metrics/expected.json", "of images without labels, by lot: expected accuracy, interval"),
        "performance": (
            "metrics/performance.json",
            "evaluate.metric with 95 % interval per attribute and lot; all figures",
        ),
        "drift": (
            "metrics/drift.json",
            "per lot and signal: mean in reference and new images, PSI, distance, p, whether it drifted",
        ),
    },
    run=_run,
    raw_files=lambda _params, _inputs, _name: RawFiles(()),  # predict's artifact covers them
    deliver=_deliver,
)
