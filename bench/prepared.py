"""Prepared data for the benches: a folder of faces through the pipeline's own stages, and more images by repetition."""

import contextlib
import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.common.contract.command_line import main as run_stage
from stages.common.contract.data_folder import PARAMS
from stages.common.contract.version import ROOT
from stages.common.schema.attributes import Attribute, Attributes, read_attributes, write_attributes
from stages.common.schema.dataset import INDEX, index_columns, map_images, read_index, read_split
from stages.train.params import Params

if TYPE_CHECKING:
    from stages.common.training.fit import FitResult

LOT = 10_000  # images a shard: 123 MB in memory while they are written


def files_of(recipe: str) -> list[Path]:
    """File of the recipe of that name; empty for `none`."""
    return [] if recipe == "none" else [ROOT / f"params-{recipe}.yaml"]


def arguments_of(recipe: str) -> list[str]:
    """Arguments of a stage for a recipe."""
    return [word for file in (PARAMS, *files_of(recipe)) for word in ("--params", str(file))]


def prepare(data: Path, folder: Path, recipe: str = "none", settings: Sequence[str] = ()) -> Path:
    """Validate and prepare the images of a data folder.

    Args:
        data: holds raw/, and annotations.csv or annotations/.
        folder: gets an artifact of each stage.
        recipe: how; by the defaults, if nothing else is said.
        settings: of prepare_train, `section.key=value` each, in place of the recipe's.

    Returns:
        The artifact of prepare_train. If a stage fails, the program ends with its message and exit code.
    """
    # not needed by who brings prepared data, and their libraries may then be absent
    from stages.prepare_train.stage import STAGE as PREPARE_TRAIN
    from stages.validate.stage import STAGE as VALIDATE

    validated, prepared = folder / "validate", folder / "prepare_train"
    table = data / "annotations.csv"
    annotations = table if table.exists() else data / "annotations"
    given = ["--raw", str(data / "raw"), *arguments_of(recipe)]
    chosen = [word for item in settings for word in ("--set", item)]
    with contextlib.redirect_stdout(sys.stderr):  # a bench prints its figures and nothing else
        code = run_stage(VALIDATE, [*given, "--annotations", str(annotations), "--out", str(validated)]) or run_stage(
            PREPARE_TRAIN, [*given, *chosen, "--validate", str(validated), "--out", str(prepared)]
        )
    if code:
        sys.exit(code)
    return prepared


def made_up(count: int) -> Attributes:
    """So many attributes of two classes, without any label."""
    return tuple(Attribute(f"a{number}", ("no", "yes"), f"a{number}", f"A {number}") for number in range(count))


def repeat(prepared: Path, images: int, folder: Path, attributes: Attributes = ()) -> Path:
    """Write a prepared data set of any size, as far as training reads it: shards and index.

    Args:
        prepared: artifact of prepare_train, at least a few images.
        images: number of training images: those of `prepared` in their order, again and again. The validation images
            are those of `prepared`, once; they are not used in training.
        folder: gets it; 12 kB an image of 64x64.
        attributes: attributes with random labels, in place of those of `prepared`.

    Returns:
        `folder`.
    """
    rows = read_index(prepared)
    random = np.random.default_rng(0)
    for row in rows:
        row.update({attribute.name: str(random.integers(len(attribute.classes))) for attribute in attributes})
    train, val = ([row for row in rows if row["split"] == split] for split in ("train", "val"))
    learned, held_back = map_images(prepared, train), map_images(prepared, val)
    (folder / "shards").mkdir(parents=True)
    np.save(folder / "shards" / "val.npy", held_back.take())
    attributes = attributes or read_attributes(prepared)
    write_attributes(folder, attributes)
    with (folder / INDEX).open("w", encoding="utf-8", newline="") as file:
        index = csv.DictWriter(file, index_columns(attributes), extrasaction="ignore")
        index.writeheader()
        index.writerows(row | {"lot": "val", "row": number} for number, row in enumerate(val))
        for start in range(0, images, LOT):
            lot = f"train{start // LOT}"
            chosen = np.arange(start, min(start + LOT, images)) % len(train)
            np.save(folder / "shards" / f"{lot}.npy", learned.take(chosen))
            index.writerows(train[which] | {"lot": lot, "row": number} for number, which in enumerate(chosen.tolist()))
    return folder


def fit_as_stage_train(prepared: Path, params: Params) -> "tuple[FitResult, int]":
    """Train as stage train does before it exports.

    Args:
        prepared: artifact of prepare_train, or a result of `repeat`.
        params: of stage train; the hyperparameters of its section `train` are those of the fit.

    Returns:
        The fitted network, and the number of processes.
    """
    # not needed to prepare: importing torch takes seconds, and memory that a bench would measure
    from stages.common.training.fit import FitSettings, fit
    from stages.train.distributed import count_processes, fit_in_processes

    section = params.train
    settings = FitSettings(
        hyperparameters=section.hyperparameters(),
        augmentation=params.augmentation,
        epochs=section.epochs,
        seed=section.seed,
        device=section.device,
        compiled=section.compile,
    )
    train, val = read_split(prepared, "train"), read_split(prepared, "val")
    processes = count_processes(section, len(train), section.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "checkpoint.safetensors")
        if processes > 1:
            fit_in_processes(processes, train, val, settings, checkpoint)
        # after several processes nothing is left to do but to read the checkpoint
        return fit(train, val, settings, checkpoint=checkpoint), processes
