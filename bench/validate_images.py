"""How fast `validate` looks at images, beside how fast the same processes decode them, and in how much memory.

    python -m bench.validate_images --data FOLDER [--images N] [--repeat N] [--workers N]

Three ways take turns on the same files, in the same number of processes: Pillow alone (read, decode, convert to RGB),
the pipeline's own decoding (with checksums and white behind what is transparent), and the look that `validate` takes.
Compare the ratios: rates are those of the machine at that moment. The copies of FOLDER's images that make N lie in a
temporary folder.
"""

import argparse
import io
import itertools
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stages.common.artifacts import walk_files
from stages.common.cpus import available_cpus
from stages.common.pool import WorkerPool
from stages.common.preprocess import ImagesSection, decode, read_image_file
from stages.validate.inspection import CHUNK
from stages.validate.look import look_at

SETTINGS = ImagesSection(near_white=245, max_megapixels=50)


def decode_by_pillow(job: tuple[Sequence[Path], ImagesSection]) -> int:
    """Read, decode and convert to RGB, and nothing else."""
    paths, _ = job
    for path in paths:
        with path.open("rb") as file:
            Image.open(io.BytesIO(file.read())).convert("RGB")
    return len(paths)


def decode_by_pipeline(job: tuple[Sequence[Path], ImagesSection]) -> int:
    """`decode`, as stage prepare_train calls it."""
    paths, settings = job
    for path in paths:
        decode(read_image_file(path, settings), settings)
    return len(paths)


WAYS: dict[str, Callable[[Any], Any]] = {
    "Pillow to RGB": decode_by_pillow,
    "pipeline's decode": decode_by_pipeline,
    "validate's look": look_at,
}


def copies(folder: Path, count: int, into: Path) -> list[Path]:
    """Copy the images of `folder` under other names until there are `count` of them."""
    sources = [folder / path for path in walk_files(folder) if path.suffix.lower() in {".png", ".jpg", ".jpeg"}]
    paths = []
    for number, source in enumerate(itertools.islice(itertools.cycle(sources), count)):
        paths.append(into / f"{number:06d}{source.suffix}")
        shutil.copyfile(source, paths[-1])
    return paths


def rate(pool: WorkerPool, way: Callable[[Any], Any], paths: Sequence[Path]) -> float:
    """Images a second."""
    jobs = ((paths[start : start + CHUNK], SETTINGS) for start in range(0, len(paths), CHUNK))
    start = time.perf_counter()
    for _ in pool.map(way, jobs):
        pass
    return len(paths) / (time.perf_counter() - start)


def compare(paths: Sequence[Path], workers: int, repeat: int) -> None:
    """Print the median rate of each way, and the ratio to the others, of rates measured in turns."""
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    with WorkerPool(workers, "--workers") as pool:
        for way in WAYS.values():
            rate(pool, way, paths[: 4 * CHUNK * workers])  # start the processes, fill the page cache
        for _ in range(repeat):
            for name, way in WAYS.items():
                rates[name].append(rate(pool, way, paths))
    for name, values in rates.items():
        print(f"{name:<20} {statistics.median(values):9.0f} images/s")
    for name in list(WAYS)[:2]:
        ratios = [look / other for look, other in zip(rates["validate's look"], rates[name], strict=True)]
        print(f"look at / {name:<18} {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


def peak_memory(paths: Sequence[Path]) -> None:
    """Look at images in this process alone, and print its peak memory."""
    with WorkerPool(1, "--workers") as pool:
        rate(pool, look_at, paths)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most after {len(paths)} images")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--images", type=int, default=2000, help="images to compare with (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cpus(), help="processes (default: %(default)s)")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory_of:
            peak_memory(copies(arguments.data, arguments.memory_of, Path(folder)))
            return
        print(f"{arguments.images} images of {arguments.data}, {arguments.workers} processes, {arguments.repeat} turns")
        compare(copies(arguments.data, arguments.images, Path(folder)), arguments.workers, arguments.repeat)
    for count in (arguments.images // 10, arguments.images):
        # a process of its own, for a peak never falls
        command = [sys.executable, "-m", "bench.validate_images", "--data", arguments.data, "--memory-of", str(count)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
