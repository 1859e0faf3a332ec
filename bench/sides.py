"""Cost of a picture in prepare_train, in train and in predict, by the side of the network's input.

    python -m bench.sides --data FOLDER [--sides 64 96 128] [--images N] [--repeat N] [--recipe NAME]

FOLDER holds raw/, and annotations.csv or annotations/. For each side all images are prepared, and a network is trained
for one epoch and exported, which is not measured. Then the sides take turns with the first N accepted images: their
shard (read, decode, crop, resize, write), an epoch on the training images, their answers (read, decode, crop, resize,
model, statistics). Figures are milliseconds of CPU time of one process with one thread, medians of the turns.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.machine import cpu_seconds, table
from bench.prepared import files_of, prepare
from stages.common.contract.artifacts import file_digest
from stages.common.contract.data_folder import PARAMS
from stages.common.contract.logs import log, start_logging
from stages.common.contract.params import load_params
from stages.common.images.settings import Preprocessing
from stages.common.images.sources import find_source
from stages.common.schema.dataset import read_preprocessing, read_split
from stages.common.schema.learned import class_shares, learned_classes
from stages.common.workers.lot_cache import Recipe, make_pieces
from stages.common.workers.pool import WorkerPool
from stages.predict.pieces import recipe_of as answers_of
from stages.prepare_train.annotations import read_annotations
from stages.prepare_train.shards import recipe_of as shard_of
from stages.train.params import Params

STAGES = ("prepare_train", "train", "predict")
BATCH = 128

Work = tuple[Callable[[], object], int]
"""A call, and the number of pictures that it works on."""


def works(data: Path, side: int, arguments: argparse.Namespace, folder: Path, pool: WorkerPool) -> Sequence[Work]:
    """Work to measure of each of `STAGES` at one side.

    Args:
        data: holds raw/ and annotations.
        side: pixels.
        arguments: of the command line.
        folder: for all that is made.
        pool: one worker.
    """
    from stages.common.training.fit import FitSettings, fit
    from stages.train.calibrate import as_calibration, calibrate
    from stages.train.export import export_onnx

    prepared = prepare(data, folder, arguments.recipe, [f"data.image_size={side}"])
    params = load_params(Params, PARAMS, recipes=files_of(arguments.recipe))
    section = params.train.model_copy(update={"device": "cpu"})
    train, val = read_split(prepared, "train"), read_split(prepared, "val")
    settings = FitSettings(section.hyperparameters(), params.augmentation, 1, section.seed, "cpu", threads=1)
    network = fit(train, val, settings).network
    learned = learned_classes(train.attributes, train.labels)
    calibrated = calibrate(network, val, learned, class_shares(train.attributes, train.labels), section)
    told, model = read_preprocessing(prepared), folder / "model.onnx"
    mirrored = section.mirrored_answers
    export_onnx(model, network, as_calibration(calibrated, learned), told, mirrored=mirrored)

    images = read_annotations(folder / "validate")[: arguments.images]
    sources = [find_source(image.filename, data / "raw" / image.path, file_digest) for image in images]
    turns = itertools.count()

    def piece(recipe: Recipe[Any, Any, Any]) -> None:
        make_pieces(recipe, {folder / f"turn{next(turns)}": sources}, pool)

    limit = told["max_megapixels"]
    log.info("%d pixels: prepared, trained, exported", side)
    return (
        (lambda: piece(shard_of(Preprocessing.model_validate(told))), len(sources)),
        (lambda: fit(train, val, settings), len(train)),
        (lambda: piece(answers_of(model, file_digest(model), limit, BATCH, "v1")), len(sources)),
    )


def milliseconds(work: Work) -> float:
    """CPU time per picture of one turn."""
    do, pictures = work
    started = cpu_seconds()
    do()
    return 1000 * (cpu_seconds() - started) / pictures


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with raw/ and annotations")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 96, 128], help="pixels (default: 64 96 128)")
    parser.add_argument("--images", type=int, default=2000, help="at most (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--recipe", default="none", metavar="NAME", help="default: params.yaml as it is")
    arguments = parser.parse_args()
    start_logging()
    with tempfile.TemporaryDirectory() as name, WorkerPool(1, "one worker") as pool:
        of = {side: works(arguments.data, side, arguments, Path(name, str(side)), pool) for side in arguments.sides}
        found: dict[tuple[int, int], list[float]] = {}
        for _ in range(arguments.repeat + 1):
            for side, each in of.items():
                for at, work in enumerate(each):
                    found.setdefault((side, at), []).append(milliseconds(work))
    rows = []
    for side in arguments.sides:
        medians = (statistics.median(found[side, at][1:]) for at in range(len(STAGES)))  # the first turn warms up
        rows.append((f"{side} x {side}", *(f"{median:.2f}" for median in medians)))
    print(
        f"\nRecipe {arguments.recipe}, CPU milliseconds a picture; of train, a picture and epoch with its validation\n"
    )
    print(table(("side", *STAGES), rows))


if __name__ == "__main__":
    main()
