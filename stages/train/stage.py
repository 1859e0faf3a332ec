"""The wiring of stage `train`: read, fit, calibrate, export, draw."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.contract.artifacts import used_and_given, write_json
from stages.common.contract.errors import DataError
from stages.common.contract.logs import INTERVAL_S, log
from stages.common.contract.stage import Context, Headline, Input, Stage
from stages.common.reports.report import REPORT, write_report
from stages.common.schema.attributes import read_attributes
from stages.common.schema.dataset import read_preprocessing, read_split
from stages.common.schema.learned import class_shares, learned_classes, never_answered, remarks
from stages.common.training.hyperparameters import BEST, USED, read_hyperparameters
from stages.train.params import Params

if TYPE_CHECKING:
    from stages.common.training.fit import Epoch
    from stages.train.calibrate import Calibrated

DESCRIPTION = "Trains the network, calibrates its confidences, chooses its thresholds, and exports it."


class EpochLog:
    """Logs a line per epoch, at most one every `INTERVAL_S` seconds, and always for the last epoch."""

    def __init__(self, epochs: int) -> None:
        """Follow a training of so many epochs."""
        self.epochs = epochs
        self.last = -INTERVAL_S

    def __call__(self, epoch: "Epoch") -> None:
        """Log this epoch if a line is due."""
        now = time.monotonic()
        if now - self.last >= INTERVAL_S or epoch.epoch == self.epochs:
            self.last = now
            log.info(
                "epoch %d of %d: loss %.4f, validation loss %.4f, validation accuracy %.4f, %.0f images/s",
                epoch.epoch, self.epochs, epoch.train_loss, epoch.val_loss, epoch.val_mean_accuracy,
                epoch.images_per_s,
            )  # fmt: skip


def _told(calibrated: "Calibrated") -> dict[str, Any]:
    """Entry of an attribute in train_metrics.json, without its measures."""
    return {name: value for name, value in asdict(calibrated).items() if name != "measures"}


def _check(params: Params, inputs: Mapping[str, Path]) -> Headline:
    """Refuse loss weights and entries of `wanted` that do not fit the attributes of the data."""
    attributes = read_attributes(inputs["prepare_train"])
    params.train.complete(attributes)
    params.train.check_wanted(attributes)
    return {}


def _run(context: Context[Params]) -> Headline:
    # not needed for --help: importing torch takes seconds
    from stages.common.inference.measures import means_of, no_better, no_better_in_brief
    from stages.common.training.device import describe_device
    from stages.common.training.fit import FitSettings, fit
    from stages.common.training.network import count_parameters
    from stages.train.calibrate import as_calibration, calibrate
    from stages.train.distributed import count_processes, fit_in_processes

    _check(context.params, context.inputs)
    section = context.params.train
    context.environment.update(describe_device(section.device))
    # a search on other data may have seen these test images
    if section.use_hyperopt and (unlike := used_and_given(context.manifests, "hyperopt", "prepare_train")):
        raise DataError(
            f"the search ran on data {unlike[0]}, not on {unlike[1]}: run stage hyperopt on these, or set "
            "train.use_hyperopt to false"
        )
    preprocessing = read_preprocessing(context.inputs["prepare_train"])
    train, val = (read_split(context.inputs["prepare_train"], split) for split in ("train", "val"))
    attributes = train.attributes
    searched = context.inputs["hyperopt"] / BEST
    chosen = read_hyperparameters(searched, "hyperopt") if section.use_hyperopt else section.hyperparameters()
    chosen = chosen.complete(attributes)
    log.info(
        "training on %d images, validating on %d, with %s: %s",
        len(train), len(val), "the best parameters of the search" if section.use_hyperopt else "section train",
        chosen.model_dump_json(),
    )  # fmt: skip
    learned = learned_classes(attributes, train.labels)
    unseen = remarks(attributes, learned)
    for line in unseen:
        log.warning("%s", line)
    settings = FitSettings.of(section, chosen, context.params.augmentation, compiled=section.compile)
    checkpoint = context.state / "checkpoint.safetensors"
    processes = count_processes(section, len(train), chosen.batch_size)
    if processes > 1:
        log.info("%d processes share every batch", processes)
        fit_in_processes(processes, train, val, settings, checkpoint)
    result = fit(train, val, settings, on_epoch=EpochLog(section.epochs), checkpoint=checkpoint)

    calibrated = calibrate(result.network, val, learned, class_shares(attributes, train.labels), section)
    for entry in calibrated:
        if any(entry.decision.offsets):
            log.info("%s: %s, for %s", entry.attribute, entry.decision.answer, entry.decision.by)
        for note in filter(None, (entry.decision.note, entry.abstention.note)):
            log.warning("%s: %s", entry.attribute, note)
    calibration = as_calibration(calibrated, learned)
    # imported after the training, or every process would have this memory, too
    from stages.train.export import export_onnx, save_weights
    from stages.train.page import describe_training
    from stages.train.plots import plot_accuracy, plot_pictures, plot_training

    log.info("exporting, with temperatures %s", calibration.temperatures)
    mirrored = section.mirrored_answers
    export_onnx(context.out / "model.onnx", result.network, calibration, preprocessing, mirrored=mirrored)
    save_weights(context.out / "model.safetensors", result.network, calibration, mirrored=mirrored)
    last, used = result.history[-1], result.hyperparameters
    measures = {calibration.attribute: calibration.measures for calibration in calibrated}
    means = {f"val_{name}": mean for name, mean in means_of(list(measures.values())).items()}
    weak = no_better_in_brief(no_better(measures, section.decide_by), section.decide_by)
    for line in weak:
        log.warning("on validation images %s", line)
    images_per_s = len(result.history) / sum(1 / epoch.images_per_s for epoch in result.history)
    write_json(
        context.out / "metrics" / "train_metrics.json",
        {
            **means,
            "val_loss": last.val_loss,
            "no_better": weak,
            "never_answered": unseen,
            "epochs": len(result.history),
            "train_images": len(train),
            "val_images": len(val),
            "parameters": count_parameters(result.network),
            "images_per_s": round(images_per_s, 1),
            "device": result.device,
            "processes": processes,
            "seed": section.seed,
            "hyperparameters_from": "hyperopt" if section.use_hyperopt else "params.yaml",
            "hyperparameters": used.model_dump(),
            "attributes": measures,
            # lists, for which `dvc metrics show` makes no columns
            "calibration": [_told(calibration) for calibration in calibrated],
            "history": [asdict(epoch) for epoch in result.history],
        },
    )
    write_json(context.out / USED, used.model_dump())
    plot_training(context.out / "plots" / "training_curves.png", result.history)
    plot_accuracy(context.out / "plots" / "accuracy_curves.png", attributes, result.history)
    plot_pictures(context.out / "plots" / "augmented_pictures.png", train, settings)
    told = {name: round(mean, 4) for name, mean in means.items() if mean is not None}
    headline: Headline = {
        **told,
        "epochs": len(result.history),
        "images_per_s": round(images_per_s),
        "device": result.device,
        **({"never_answered": ", ".join(never)} if (never := never_answered(attributes, learned)) else {}),
    }
    remarked = [*weak, *unseen]
    report = describe_training(attributes, DESCRIPTION, headline, calibrated, remarked, context.out)
    write_report(context.out / REPORT, report)
    return headline


STAGE = Stage(
    name="train",
    description=DESCRIPTION,
    params=Params,
    inputs={
        "prepare_train": Input("artifact of stage prepare_train"),
        "hyperopt": Input("artifact of stage hyperopt"),
    },
    outputs={
        "model": ("model.onnx", "uint8 images (N, S, S, 3) to probabilities (N, classes) per attribute"),
        "weights": ("model.safetensors", "the same weights for PyTorch"),
        "hyperparameters": (USED, "the hyperparameters used"),
        "metrics": (
            "metrics/train_metrics.json",
            "measures on validation images, calibration, every epoch, parameters",
        ),
        "training_curves": ("plots/training_curves.png", "losses and learning rate per epoch"),
        "augmented_pictures": ("plots/augmented_pictures.png", "augmented training images"),
        "accuracy_curves": (
            "plots/accuracy_curves.png",
            "accuracy and balanced accuracy on validation images, per epoch and attribute",
        ),
    },
    run=_run,
    check=_check,
    content=("model.onnx", "model.safetensors", USED),
)
