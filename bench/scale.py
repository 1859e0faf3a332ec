"""Memory and seconds of validate, prepare_train, predict and monitor as the number of images grows.

    python -m bench.scale [--images N ...] [--lot N] [--side N] [--workers N] [--folder FOLDER] [--share]

For each N, N different pictures of 64x64 are drawn, in lots, with visible labels; each stage runs on them in a separate
process, and once more without changes. The model is a small one of some pictures of the same kind. A picture takes a
block of 4 kB on the disk, and 3 kB and .5 kB in the artifacts. --share keeps only 10,000 different pictures: the others
are links to these, so that a million takes no room, and most of them are duplicates.
"""

import argparse
import csv
import json
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.machine import run_measured, table
from stages.common.contract import artifacts
from stages.common.contract.cpus import available_cpus
from stages.common.contract.data_folder import PARAMS
from stages.common.images.decode import PNG
from stages.common.inference.onnx_model import load
from stages.common.registry.champion import CHAMPION
from stages.common.schema.attributes import Attributes, write_attributes
from stages.validate.attributes_file import DEFAULT, read_attributes_file

Numbers = npt.NDArray[np.int64]

CELLS, PIXELS = 8, 8
"""A picture is 8 x 8 cells of 8 x 8 pixels, and a row of cells shows the class of an attribute."""
LEARNED = 600
"""Number of training pictures of the model."""
SHARED = 10_000
"""Different pictures with --share."""


def labels_of(numbers: Numbers, attributes: Attributes) -> Numbers:
    """(N, A): the class of each attribute in pictures of these numbers, whose labels repeat after a million."""
    shown = [np.random.default_rng(column).integers(len(attribute.classes), size=1 << 20)[numbers % (1 << 20)]
             for column, attribute in enumerate(attributes)]  # fmt: skip
    return np.stack(shown, axis=1)


def cells_of(labels: Numbers, attributes: Attributes) -> Iterator[list[str]]:
    """Rows of the annotations: class indices, but nothing where another class leaves an attribute unknown."""
    order = [attribute.name for attribute in attributes]
    cells = labels.astype(np.str_).astype(object)
    for column, attribute in enumerate(attributes):
        for other, name in attribute.unknown_when.items():
            at = order.index(other)
            cells[labels[:, at] == attributes[at].classes.index(name), column] = ""
    yield from cells.tolist()


def pictures(numbers: Numbers, labels: Numbers, attributes: Attributes) -> Iterator[bytes]:
    """PNG files: the rows of cells are lighter or darker by the classes, and every cell has a colour of its own."""
    shown = labels / np.maximum(1, np.array([len(attribute.classes) for attribute in attributes]) - 1)
    rows = shown[:, np.arange(CELLS) % len(attributes)]
    noise = np.random.default_rng(int(numbers[0])).integers(80, size=(len(numbers), CELLS, CELLS, 3))
    cells = (noise + 150 * rows[:, :, None, None]).astype(np.uint8)
    side = CELLS * PIXELS
    for picture in cells.repeat(PIXELS, axis=1).repeat(PIXELS, axis=2):
        lines = np.zeros((side, 1 + 3 * side), np.uint8)
        lines[:, 1:] = picture.reshape(side, 3 * side)
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        yield PNG + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b""))
        )


def write_data(folder: Path, count: int, lot: int, first: int = 0, *, share: bool = False) -> None:
    """Write raw/ and annotations.csv, as people give them to the pipeline."""
    attributes = read_attributes_file(DEFAULT).attributes
    folder.mkdir(parents=True)
    originals: list[Path] = []
    with (folder / "annotations.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", *(attribute.column for attribute in attributes)])
        for start in range(0, count, lot):
            name = f"l{start // lot:04d}"
            (folder / "raw" / name).mkdir(parents=True)
            numbers = np.arange(first + start, first + min(start + lot, count))
            paths = [folder / "raw" / name / f"{name}_{number:07d}.png" for number in numbers]
            shown = numbers % SHARED if share else numbers
            labels = labels_of(shown, attributes)
            if share and len(originals) >= SHARED:
                for number, path in zip(shown, paths, strict=True):
                    path.hardlink_to(originals[number])
            else:
                originals += paths
                for path, content in zip(paths, pictures(numbers, labels, attributes), strict=True):
                    path.write_bytes(content)
            rows.writerows([path.name, *cells] for path, cells in zip(paths, cells_of(labels, attributes), strict=True))


class Runs:
    """Runs stages on one store."""

    def __init__(self, folder: Path, settings: Mapping[str, Sequence[str]]) -> None:
        """Artifacts and results go to `folder`; `settings` are those of some stages."""
        self.folder = folder
        self.settings = settings

    def run(self, stage: str, *arguments: object) -> tuple[Path, list[str]]:
        """The artifact, and cells: seconds, CPU seconds, largest process and all of them in MB, and seconds again."""
        result = self.folder / f"{stage}.json"
        command = [sys.executable, "-m", f"stages.{stage}", *map(str, arguments), "--params", str(PARAMS)]
        command += [word for setting in self.settings.get(stage, ()) for word in ("--set", setting)]
        command += ["--store", str(self.folder / "store"), "--result", str(result)]
        before, start = _cpu_seconds(), time.monotonic()
        _, memory = run_measured(command)
        seconds, cpu = time.monotonic() - start, _cpu_seconds() - before
        made = json.loads(result.read_text(encoding="utf-8"))
        manifest = json.loads((Path(made["path"]) / artifacts.MANIFEST).read_text(encoding="utf-8"))
        start = time.monotonic()
        _, again = run_measured(command)
        told = [f"{seconds:.1f}", f"{cpu:.1f}", f"{manifest['peak_memory_mb']:.0f}", f"{memory.proportional:.0f}"]
        return Path(made["path"]), [*told, f"{time.monotonic() - start:.1f}", f"{again.proportional:.0f}"]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def release(folder: Path, settings: Mapping[str, Sequence[str]]) -> Path:
    """Artifact that stage champion would give, of a small model."""
    write_data(folder / "data", LEARNED, LEARNED, 1 << 30)
    short = {"hyperopt": ["hyperopt.max_evals=1", "hyperopt.epochs=1"], "train": ["train.epochs=20"]}
    runs = Runs(folder, {**settings, **short})
    raw = ["--raw", folder / "data" / "raw"]
    validated, _ = runs.run("validate", *raw, "--annotations", folder / "data" / "annotations.csv")
    prepared, _ = runs.run("prepare_train", *raw, "--validate", validated)
    searched, _ = runs.run("hyperopt", "--prepare_train", prepared)
    trained, _ = runs.run("train", "--prepare_train", prepared, "--hyperopt", searched)
    evaluated, _ = runs.run("evaluate", "--prepare_train", prepared, "--train", trained)
    champion = folder / "champion"
    champion.mkdir()
    shutil.copy(trained / "model.onnx", champion)
    shutil.copytree(evaluated / "reference", champion / "reference")
    version: dict[str, Any] = {"version": "v1", "model_digest": "0" * 64, "mean_accuracy": 1.0, "lots": []}
    artifacts.write_json(champion / CHAMPION, version)
    write_attributes(champion, load(champion / "model.onnx").attributes)
    artifacts.write_manifest(champion, stage="champion", key="0" * 64)
    return champion


def measure(
    champion: Path, count: int, arguments: argparse.Namespace, folder: Path, settings: Mapping[str, Sequence[str]]
) -> None:
    """Print the row of each stage."""
    write_data(folder / "data", count, arguments.lot, share=arguments.share)
    runs = Runs(folder, settings)
    raw = ["--raw", folder / "data" / "raw"]

    def row(stage: str, *inputs: object) -> Path:
        artifact, cells = runs.run(stage, *inputs)
        print(f"| {count:,} | {stage} | {' | '.join(cells)} |", flush=True)
        return artifact

    validated = row("validate", *raw, "--annotations", folder / "data" / "annotations.csv")
    row("prepare_train", *raw, "--validate", validated)
    predicted = row("predict", *raw, "--champion", champion)
    known = ["--champion", champion, "--predict", predicted, "--validate", validated]
    row("monitor", *known, "--logs", folder / "logs")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000], help="sizes")
    parser.add_argument("--lot", type=int, default=1000, help="images a lot (default: %(default)s)")
    parser.add_argument("--side", type=int, default=32, help="pixels of what the network gets (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cpus(), help="processes (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--share", action="store_true", help="only 10,000 different pictures, and links to them")
    arguments = parser.parse_args()
    settings = {name: [f"{name}.workers={arguments.workers}"] for name in ("validate", "prepare_train", "predict")}
    settings["prepare_train"].append(f"data.image_size={arguments.side}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        champion = release(Path(folder) / "small", settings)
        header = ["images", "stage", "seconds", "CPU seconds", "largest process, MB", "all processes, MB"]
        print(table([*header, "again, seconds", "again, MB"], []))
        for count in arguments.images:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
                measure(champion, count, arguments, Path(place) / "scale", settings)


if __name__ == "__main__":
    main()
