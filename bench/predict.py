"""Rate and memory of `predict`, compared with the rate at which as many processes only decode the files.

    python -m bench.predict --model DIR [--data FOLDER] [--images N] [--repeat N] [--workers N] [--sizes N ...]

DIR is the artifact of train. First, the whole stage runs once per size, with lots of 1,000 images, and again after a
change of one image: files are links to FOLDER's images under other names, so pictures repeat. Then predicting one lot
takes turns with all decoders of `bench.decoders` on the same files, once by CPU seconds of all processes, which other
work on the machine changes less, and once by the clock. Compare the ratios: rates depend on the machine at that moment.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from bench.decoders import Files, copies, decoders_for, in_pool, print_rates, rates_in_turns
from bench.machine import cpu_seconds, run_measured, table
from stages.common.contract import artifacts
from stages.common.contract.cpus import available_cpus
from stages.common.contract.version import ROOT
from stages.common.images.preprocess import preprocess
from stages.common.images.settings import Preprocessing
from stages.common.images.sources import find_source
from stages.common.inference.observation import observe
from stages.common.inference.onnx_model import load
from stages.common.registry.champion import CHAMPION
from stages.common.schema.attributes import write_attributes
from stages.common.workers.lot_cache import make_pieces
from stages.common.workers.pool import WorkerPool
from stages.predict.pieces import recipe_of

LOT = 1000
PREPARED = "our decode and crop"
ANSWERED = "predict's lot"


def prepare(settings: Preprocessing, files: Files) -> int:
    """The work before the model."""
    for path in files:
        preprocess(path, settings)
    return len(files)


def compare(
    model: Path, files: Files, workers: int, repeat: int, batch_size: int, folder: Path, clock: Callable[[], float]
) -> None:
    """Print the rates of all decoders and of answering the files as one lot."""
    sources = [find_source(path.name, path, artifacts.file_digest) for path in files]
    settings = load(model).preprocessing
    turns = count()
    with WorkerPool(workers, "--workers") as pool:
        ways = {name: partial(in_pool, pool, way, files) for name, way in decoders_for(files).items()}
        ways[PREPARED] = partial(in_pool, pool, partial(prepare, settings), files)

        def answer() -> None:
            recipe = recipe_of(model, "", settings.max_megapixels, batch_size, "v1")
            make_pieces(recipe, {folder / str(next(turns)): sources}, pool)

        print_rates(rates_in_turns({**ways, ANSWERED: answer}, len(files), repeat, clock), [PREPARED, ANSWERED])


def release(model: Path, folder: Path) -> Path:
    """Write what stage champion would, of a model; it was measured on noise."""
    folder.mkdir()
    shutil.copy(model, folder / "model.onnx")
    version = {"version": "v1", "model_digest": "0" * 64, "mean_accuracy": 1.0, "lots": []}
    artifacts.write_json(folder / CHAMPION, version)
    loaded = load(folder / "model.onnx")
    write_attributes(folder, loaded.attributes)
    noise = np.random.default_rng(0).integers(0, 256, (250, loaded.image_size, loaded.image_size, 3), np.uint8)
    (folder / "reference").mkdir()
    named = [f"{number}.png" for number in range(len(noise))]
    observe(loaded, named, noise.__getitem__, 256).save(folder / "reference" / "features.npz")
    artifacts.write_manifest(folder, stage="champion", key="0" * 64)
    return folder


def whole_stage(model: Path, data: Path, images: int, workers: int, folder: Path) -> list[str]:
    """Run the stage on `images` images in a process of its own, twice: the cells of its row."""
    raw, result = folder / "raw", folder / "result.json"
    for lot in range(-(-images // LOT)):
        copies(data, min(LOT, images - lot * LOT), raw / f"l{lot:03d}", link=True)
    for path in artifacts.walk_files(raw):
        (raw / path).rename(raw / path.parent / f"{path.parent}_{path.name}")
    command = [sys.executable, "-m", "stages.predict", "--raw", raw, "--champion", release(model, folder / "champion")]
    command += ["--store", folder / "store", "--result", result, "--set", f"predict.workers={workers}"]
    seconds = []
    for _ in range(2):
        _, memory = run_measured(list(map(str, command)))
        made = json.loads(result.read_text(encoding="utf-8"))
        seconds.append(made["seconds"])
        if len(seconds) == 1:
            first = memory
            metrics = json.loads(Path(made["outputs"]["metrics"]).read_text(encoding="utf-8"))
            changed = raw / artifacts.walk_files(raw)[0]
            changed.unlink()  # a link, whose other names stay as they are
            Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(changed, "PNG")
    return [
        f"{images:,}", str(len(metrics["lots"])), f"{seconds[0]:.1f}", f"{images / seconds[0]:,.0f}",
        f"{metrics['images_per_s']:,.0f}", f"{seconds[1]:.1f}", f"{first.resident:.0f}", f"{first.proportional:.0f}",
    ]  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="artifact of train")
    parser.add_argument("--data", type=Path, default=ROOT / "data/raw", help="folder of images (default: the samples)")
    parser.add_argument("--images", type=int, default=2000, help="images to compare with (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cpus(), help="processes (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="images a job (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000, 100_000], help="images of whole runs")
    arguments = parser.parse_args()
    model = arguments.model / "model.onnx"
    rows = []  # first, for a process starts with the peak of the one that started it, which will have grown
    for images in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(whole_stage(model, arguments.data, images, arguments.workers, Path(folder)))
    header = [
        "images",
        "lots",
        "seconds",
        "images/s",
        "while answering, images/s",
        "again, one lot changed, seconds",
        "all processes, MB",
        "shared memory counted once, MB",
    ]
    if rows:
        print(table(header, rows))
    print(f"{arguments.images} images of {arguments.data}, {arguments.workers} processes, {arguments.repeat} turns")
    for name, clock in (("CPU", cpu_seconds), ("clock", time.perf_counter)):
        print(f"\nby {name} seconds")
        with tempfile.TemporaryDirectory() as place:
            files = copies(arguments.data, arguments.images, Path(place) / "raw")
            compare(
                model, files, arguments.workers, arguments.repeat, arguments.batch_size, Path(place) / "kept", clock
            )


if __name__ == "__main__":
    main()
