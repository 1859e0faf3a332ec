"""Rate and memory of `prepare_train`, compared with the rate at which as many processes only decode the files.

    python -m bench.prepare_train [--data FOLDER] [--images N] [--repeat N] [--workers N] [--sizes N ...] [--cpu]
        [--enlarged png|jpeg]

First, the whole stage runs once per size, with lots of 1,000 images: files are links to FOLDER's images under other
names, so pictures repeat. Then making shards takes turns with all decoders of `bench.decoders` on the same files.
Compare the ratios: rates depend on the machine at that moment. With --cpu, seconds are CPU seconds of all processes,
which other programs change less; waiting does not show in them. With --enlarged, the comparison is of FOLDER's images
enlarged to 500x500 on white, as RGB PNG or as JPEG of quality 90.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from bench.decoders import (
    OURS,
    SETTINGS,
    Files,
    copies,
    cpu_seconds,
    decoders_for,
    in_pool,
    print_rates,
    rates_in_turns,
)
from bench.machine import run_measured, table
from stages.common.contract import artifacts
from stages.common.contract.cpus import available_cpus
from stages.common.contract.version import ROOT
from stages.common.images.decode import as_image, decode, read_image_file
from stages.common.images.settings import Preprocessing
from stages.common.images.sources import find_source
from stages.common.schema.attributes import names, write_attributes
from stages.common.workers.lot_cache import make_pieces
from stages.common.workers.pool import WorkerPool
from stages.prepare_train.shards import recipe_of
from stages.validate.attributes_file import DEFAULT, read_attributes_file

LOT = 1000
SHARD = "prepare_train's shards"


def compare(
    files: Files, side: int, workers: int, repeat: int, folder: Path, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Print the rates, by `clock`, of all decoders and of making shards of the files."""
    sources = [find_source(path.name, path, artifacts.file_digest) for path in files]
    settings = Preprocessing(**SETTINGS.model_dump(), image_size=side)
    turns = count()
    with WorkerPool(workers, "--workers") as pool:
        ways = {name: partial(in_pool, pool, way, files) for name, way in decoders_for(files).items()}

        def shards() -> None:
            turn = next(turns)
            lots = {folder / f"{turn}-{row}": sources[row : row + LOT] for row in range(0, len(sources), LOT)}
            make_pieces(recipe_of(settings), lots, pool)

        print_rates(rates_in_turns({**ways, SHARD: shards}, len(files), repeat, clock), [OURS, SHARD])


def enlarged(data: Path, suffix: str, folder: Path) -> Path:
    """Write 400 images of `data` as 500x500 to `folder`, which is enough to take in turns."""
    folder.mkdir()
    for path in copies(data, 400, folder.with_name("sources"), link=True):
        picture = as_image(decode(read_image_file(path, SETTINGS), SETTINGS))
        picture.resize((500, 500)).save(folder / f"{path.stem}.{suffix}", quality=90)
    return folder


def whole_stage(data: Path, images: int, workers: int, folder: Path) -> list[str]:
    """Run the stage on `images` images in a process of its own: the cells of its row."""
    raw, validated, out = folder / "raw", folder / "validate", folder / "prepared"
    different = len(list(artifacts.walk_files(data)))
    for lot in range(-(-images // LOT)):
        copies(data, min(LOT, images - lot * LOT), raw / f"l{lot:03d}", link=True)
    validated.mkdir()
    attributes = read_attributes_file(DEFAULT).attributes
    write_attributes(validated, attributes)
    with (validated / "annotations.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", "lot", "path", "digest", "group", *names(attributes)])
        for path in sorted(artifacts.walk_files(raw)):
            number = int(path.stem) % different  # the same picture has the same labels
            labels = [number % len(attribute.classes) for attribute in attributes]
            name, digest = f"{path.parent}_{path.name}", artifacts.file_digest(raw / path)
            rows.writerow([name, path.parent, path, digest, number, *labels])
    artifacts.write_manifest(validated, stage="validate", key="0" * 64)
    command = [sys.executable, "-m", "stages.prepare_train", "--raw", raw, "--validate", validated, "--out", out]
    _, memory = run_measured([*map(str, command), "--set", f"prepare_train.workers={workers}"])
    made = json.loads((out / artifacts.MANIFEST).read_text(encoding="utf-8"))
    shards = len(list((out / "shards").glob("*.npy")))
    rate, largest = images / made["seconds"], made["peak_memory_mb"]
    return [
        f"{images:,}", str(shards), f"{made['seconds']:.1f}", f"{rate:,.0f}", f"{largest:.0f}",
        f"{memory.resident:.0f}", f"{memory.proportional:.0f}",
    ]  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/raw", help="folder of images (default: the samples)")
    parser.add_argument("--images", type=int, default=2000, help="images to compare with (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="pixels of the results (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cpus(), help="processes (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000, 100_000], help="images of whole runs")
    parser.add_argument("--cpu", action="store_true", help="compare by CPU seconds, on a busy machine")
    parser.add_argument("--enlarged", choices=["png", "jpeg"], help="compare on images of 500x500")
    arguments = parser.parse_args()
    rows = []  # first, for a process starts with the peak of the one that started it, which will have grown
    for images in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(whole_stage(arguments.data, images, arguments.workers, Path(folder)))
    header = [
        "images",
        "shards",
        "seconds",
        "images/s",
        "largest process, MB",
        "all processes, MB",
        "shared memory counted once, MB",
    ]
    if rows:
        print(table(header, rows))
    size = f" as 500x500 {arguments.enlarged}" if arguments.enlarged else ""
    print(
        f"{arguments.images} images of {arguments.data}{size}, {arguments.workers} processes, {arguments.repeat} turns"
    )
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if arguments.enlarged:
            data = enlarged(data, arguments.enlarged, Path(folder) / "enlarged")
        files = copies(data, arguments.images, Path(folder) / "raw")
        clock = cpu_seconds if arguments.cpu else time.perf_counter
        compare(files, arguments.side, arguments.workers, arguments.repeat, Path(folder), clock)


if __name__ == "__main__":
    main()
