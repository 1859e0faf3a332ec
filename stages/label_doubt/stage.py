"""The wiring of stage `label_doubt`: read, predict out of fold, compare with the labels, write, show."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.common.contract.artifacts import write_json
from stages.common.contract.errors import DataError
from stages.common.contract.logs import log
from stages.common.contract.stage import Context, Headline, Input, Stage
from stages.common.contract.tables import write_csv
from stages.common.reports.report import REPORT, write_report
from stages.common.schema.attributes import UNKNOWN, Attributes, names, read_attributes
from stages.common.schema.dataset import SPLITS, map_images, read_index
from stages.common.schema.learned import learnable, learned_classes
from stages.common.training.hyperparameters import USED, read_hyperparameters
from stages.label_doubt.params import Params

if TYPE_CHECKING:
    from stages.label_doubt.doubts import Doubt
    from stages.label_doubt.folds import Probabilities

COLUMNS = (
    "rank", "filename", "lot", "split", "attribute", "label", "suggested", "probability_of_label",
    "probability_of_suggested", "worth",
)  # fmt: skip


def _measure(
    attributes: Attributes,
    checkable: npt.NDArray[np.int16],
    labels: npt.NDArray[np.int16],
    predicted: "Probabilities",
    doubts: "list[Doubt]",
    areas: Mapping[str, float | None],
    refused: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Per attribute: known labels, doubts, measures and ROC area on held-out labels that can be checked, remark."""
    from stages.common.inference.answers import answers_of
    from stages.common.inference.measures import measure

    measured = {}
    for answer, known in zip(answers_of(attributes, predicted, labels=checkable), labels.T, strict=True):
        name, found = answer.attribute.name, measure(answer)
        measured[name] = {
            "labels": int((known != UNKNOWN).sum()),
            "doubts": sum(doubt.attribute.name == name for doubt in doubts),
            **{key: found[key] for key in ("accuracy", "majority", "balanced_accuracy")},
            "roc_auc": areas[name],
            "not_checked": refused[name],
        }
    return measured


def _doubt_row(rank: int, doubt: "Doubt", row: Mapping[str, str]) -> list[Any]:
    classes = doubt.attribute.classes
    return [
        rank, row["filename"], row["lot"], row["split"], doubt.attribute.name, classes[doubt.label],
        classes[doubt.suggested], f"{doubt.probability_of_label:.4f}", f"{doubt.probability_of_suggested:.4f}",
        f"{doubt.worth:.6f}",
    ]  # fmt: skip


def _run(context: Context[Params]) -> Headline:
    # not needed for --help: importing torch and cleanlab takes seconds
    from stages.common.inference.measures import means_of
    from stages.common.training.device import describe_device, trainings_at_once
    from stages.common.training.fit import FitSettings
    from stages.label_doubt.doubts import area_of, find_doubts, why_not_checked
    from stages.label_doubt.folds import assign_folds, predict_out_of_fold
    from stages.label_doubt.label_studio import write_label_studio
    from stages.label_doubt.page import doubt_report

    section, prepared = context.params.label_doubt, context.inputs["prepare_train"]
    context.environment.update(describe_device(section.device))
    chosen = read_hyperparameters(context.inputs["train"] / USED, "train").model_copy(
        update={"width": section.width, "batch_size": section.batch_size}
    )
    labelled = names(read_attributes(prepared))
    rows = [row for row in read_index(prepared) if any(row[name] for name in labelled)]
    if not rows:
        raise DataError(f"{prepared} has no known label: annotate images")
    images = map_images(prepared, rows)
    attributes = images.attributes
    fold = assign_folds([row["group"] for row in rows], section.folds, section.seed)
    settings = FitSettings.of(section, chosen, context.params.augmentation, threads=1)
    workers = trainings_at_once(section.device, section.workers, section.folds)
    log.info("%d folds of %d epochs, %d at a time", section.folds, section.epochs, workers)
    predicted = predict_out_of_fold(images, fold, settings, context.state, workers)
    # networks cannot doubt a label of a class that they have never seen
    checkable = np.full_like(images.labels, UNKNOWN)
    for number in range(section.folds):
        learned = learned_classes(attributes, images.labels[fold != number])
        checkable[fold == number] = learnable(attributes, images.labels[fold == number], learned)
    areas = {
        attribute.name: area_of(attribute, checkable[:, column], predicted[attribute.name])
        for column, attribute in enumerate(attributes)
    }
    refused = {name: why_not_checked(area) for name, area in areas.items()}
    for name, why in refused.items():
        if why:
            log.warning("%s: labels are not checked: %s", name, why)
    found = [
        [] if refused[attribute.name] else find_doubts(attribute, checkable[:, column], predicted[attribute.name])
        for column, attribute in enumerate(attributes)
    ]
    doubts = sorted((doubt for part in found for doubt in part), key=lambda doubt: -doubt.worth)
    log.info("%d of %d labels are doubtful", len(doubts), int((images.labels != UNKNOWN).sum()))

    measured = _measure(attributes, checkable, images.labels, predicted, doubts, areas, refused)
    means = means_of(list(measured.values()))
    metrics = {
        "images": len(images),
        "folds": section.folds,
        "epochs": section.epochs,
        "labels": sum(figures["labels"] for figures in measured.values()),
        "doubts": len(doubts),
        "doubtful_images": len({doubt.image for doubt in doubts}),
        "doubts_by_split": {split: sum(rows[doubt.image]["split"] == split for doubt in doubts) for split in SPLITS},
        **means,
        "attributes": measured,
    }
    write_json(context.out / "metrics" / "label_doubt.json", metrics)
    write_csv(
        context.out / "doubts.csv",
        COLUMNS,
        (_doubt_row(rank, doubt, rows[doubt.image]) for rank, doubt in enumerate(doubts, 1)),
        for_people=True,
    )
    write_label_studio(context.out, doubts, images, rows)
    page = doubt_report(doubts, images, rows, metrics, section.max_shown)
    write_report(context.out / REPORT, page)
    return {
        "doubts": len(doubts),
        "images": metrics["doubtful_images"],
        "labels": metrics["labels"],
        **{name: round(mean, 4) for name, mean in means.items() if mean is not None},
        **({"not_checked": ", ".join(name for name, why in refused.items() if why)} if any(refused.values()) else {}),
    }


STAGE = Stage(
    name="label_doubt",
    description="Finds probable label errors: labels contradicted by a network trained without that image.",
    params=Params,
    inputs={
        "prepare_train": Input("artifact of stage prepare_train"),
        "train": Input("artifact of stage train"),
    },
    outputs={
        "doubts": ("doubts.csv", "doubtful labels with the suggested class; the corrections that help most come first"),
        "label_studio": ("label_studio.json", "tasks for Label Studio, whose project takes label_studio.xml beside it"),
        "metrics": (
            "metrics/label_doubt.json",
            "known labels, doubts, held-out accuracy, balanced accuracy and ROC area, per attribute",
        ),
    },
    run=_run,
    content=("metrics",),
)
