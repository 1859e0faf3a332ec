"""The wiring of stage `evaluate`: run the model over the test split, measure, draw."""

from dataclasses import asdict

from stages.common.contract.artifacts import used_and_given, write_json
from stages.common.contract.errors import DataError
from stages.common.contract.history import remember
from stages.common.contract.logs import log
from stages.common.contract.stage import Context, Headline, Input, Stage
from stages.common.contract.tables import write_csv
from stages.common.reports.report import REPORT, write_report
from stages.common.schema.attributes import difference
from stages.common.schema.dataset import index_rows, read_split
from stages.common.schema.learned import never_answered, remarks
from stages.evaluate.params import Params

HARDEST = "hardest.json"


def _run(context: Context[Params]) -> Headline:
    # not needed for --help
    from stages.common.checks.validation import check  # Great Expectations takes seconds
    from stages.common.inference.answers import answers_of, right_answers
    from stages.common.inference.compared import PICTURES, compared_images
    from stages.common.inference.decision import decision_table
    from stages.common.inference.expected import write_trust
    from stages.common.inference.features import join_features
    from stages.common.inference.measures import mean_of, means_of, no_better, no_better_in_brief
    from stages.common.inference.observation import observe
    from stages.common.inference.onnx_model import load
    from stages.common.inference.partitions import PARTITIONS, partitions
    from stages.common.inference.predictions import SUITE, columns_of, read_predictions, write_predictions
    from stages.common.inference.slices import COLUMNS, measure_slices, totals, worst
    from stages.evaluate.measures import measure
    from stages.evaluate.page import describe_model, hardest_images, slices_page, thumbnails
    from stages.evaluate.plots import plot_confusion, plot_reliability, plot_roc

    if unlike := used_and_given(context.manifests, "train", "prepare_train"):
        raise DataError(
            f"the model was trained on data {unlike[0]}, not on {unlike[1]}, whose test split it may have seen: "
            "evaluate it on its own data, or train again"
        )
    model = load(context.inputs["train"] / "model.onnx")
    val, split = (read_split(context.inputs["prepare_train"], name) for name in ("val", "test"))
    if model.image_size != split.image_size:
        raise DataError(
            f"the model expects images of {model.image_size} pixels, found {split.image_size}: train again on these"
        )
    attributes, section = split.attributes, context.params.evaluate
    if how := difference(attributes, model.attributes):
        raise DataError(f"the model has other attributes than the data, {how}: train again on these")
    of_test, of_val = (observe(model, part.filenames, part.take, section.batch_size) for part in (split, val))
    answers = answers_of(attributes, of_test.probabilities, model.calibration, split.labels, groups=split.group)
    measures = {answer.attribute.name: measure(answer) for answer in answers}
    means = means_of(list(measures.values()))
    if means["mean_accuracy"] is None:
        raise DataError(
            f"none of the {len(split)} test images has a label of an attribute that the model answers: annotate some"
        )
    for name, measured in measures.items():
        if "note" in measured:
            log.warning("%s: %s", name, measured["note"])
    weak = no_better(measures, section.metric)
    weak_in_brief = no_better_in_brief(weak, section.metric)
    for line in weak_in_brief:
        log.warning("%s", line)
    rows = [row for row in index_rows(context.inputs["prepare_train"]) if row["split"] == "test"]
    lots, pictures = ([row[name] for row in rows] for name in ("lot", "pixels"))
    right = right_answers(answers)
    slices = measure_slices(attributes, split.labels, lots, right, split.group)
    if weakest := worst(slices):
        log.warning("worst slice: %s", weakest.text)

    write_predictions(context.out / "predictions.csv", split.filenames, answers)
    table = read_predictions(attributes, context.out / "predictions.csv")
    never = never_answered(attributes, model.calibration.learned)
    checked = check(
        attributes,
        SUITE,
        table,
        section.thresholds(model.lowest_confidences),
        context,
        columns_of(never),
    )

    reference = join_features([of_val, of_test])
    reference.save(context.out / "reference" / "features.npz")
    write_json(context.out / "reference" / PARTITIONS, partitions(attributes, reference))
    write_trust(context.out / "reference", answers)
    all_means = means | {f"mean_{name}": mean_of(name, list(measures.values())) for name in ("ece", "coverage")}
    metrics = {
        **all_means,
        "images": len(split),
        "groups": len(set(split.group.tolist())),
        "metric": section.metric,
        "no_better": weak_in_brief,
        "never_answered": remarks(attributes, model.calibration.learned),
        "worst_slice": weakest and weakest.text,
        "attributes": measures,
    }
    write_json(context.out / "metrics" / "eval_metrics.json", metrics)
    by_slice = totals(attributes, split.labels, lots, right)
    write_json(context.out / "metrics" / "slices.json", by_slice)
    write_csv(context.out / "slices.csv", COLUMNS, (found.cells for found in slices), for_people=True)
    plot_confusion(attributes, context.out / "plots" / "confusion_matrices.png", measures)
    plot_roc(context.out / "plots" / "roc_curves.png", answers, measures)
    plot_reliability(context.out / "plots" / "reliability.png", answers, measures)
    accuracies = {name: round(of["accuracy"], 4) for name, of in measures.items() if of["accuracy"] is not None}
    by_metric = [(of[section.metric], name) for name, of in measures.items() if of[section.metric] is not None]
    lowest = min(by_metric, default=None, key=lambda found: found[0])
    found = {**all_means, "images": len(split), **accuracies, "findings": len(checked.found)}
    history = remember(context.cache, SUITE, {"success": True, **found})
    hardest = hardest_images(split, answers)
    write_json(context.out / HARDEST, [asdict(kind) for kind in hardest])
    compared = compared_images(pictures, len(attributes))
    shown = zip((pictures[at] for at in compared), thumbnails(split, compared), strict=True)
    write_json(context.out / PICTURES, dict(shown))
    answered = decision_table(attributes, model.calibration)
    report = describe_model(
        attributes, context.out, checked, metrics, answered, slices_page(slices, by_slice), hardest, history
    )  # fmt: skip
    write_report(context.out / REPORT, report)
    return {
        **{name: round(value, 4) for name, value in means.items() if value is not None},
        **({"no_better": ", ".join(weak)} if weak else {}),
        "images": len(split),
        **({"lowest": f"{lowest[1]} {lowest[0]:.4g}"} if lowest else {}),
        **({"never_answered": ", ".join(never)} if never else {}),
        **({"worst_slice": weakest.text} if weakest else {}),
    }


STAGE = Stage(
    name="evaluate",
    description="Measures the exported model on the test split, which no earlier stage has used.",
    params=Params,
    inputs={
        "prepare_train": Input("artifact of stage prepare_train"),
        "train": Input("artifact of stage train"),
    },
    outputs={
        "metrics": (
            "metrics/eval_metrics.json",
            "accuracy beside majority and balanced accuracy, figures of each class, ROC AUC, calibration",
        ),
        "slices": ("metrics/slices.json", "accuracy on each lot and each pair of classes"),
        "slices_of_attributes": ("slices.csv", "each slice in each attribute: labels, right answers, interval, p"),
        "confusion": ("plots/confusion_matrices.png", "a confusion matrix per attribute"),
        "roc": ("plots/roc_curves.png", "ROC curves per attribute, every class against the rest"),
        "reliability": ("plots/reliability.png", "confidence against accuracy per attribute"),
        "findings": ("findings.csv", "findings of the suite: severity, reason, filename, column, value"),
        "data_docs": (
            "data_docs/predictions/index.html",
            "findings of Great Expectations (suite.html: the suite)",
        ),
        "predictions": ("predictions.csv", "label, predicted class, confidence, whether answered, per test image"),
        "hardest": (HARDEST, "thumbnails of wrong and of unsure answers, with labels, for reports"),
        "pictures": ("pictures.json", "thumbnails of the test images that versions are compared on, by digest"),
        "reference": ("reference/features.npz", "of the val and test images: statistics, embeddings, probabilities"),
        "partitions": ("reference/partitions.json", "their distributions, for Great Expectations"),
        "confidences": ("reference/confidences.json", "how reliable confidences are, by the test labels"),
    },
    run=_run,
    content=("metrics", "predictions.csv", "reference"),
)
