"""Time that each part of the work on a small image file takes, in validate, prepare_train and predict.

    python -m bench.small_files [--data FOLDER] [--images N] [--repeat N] [--model DIR] [--enlarged png|jpeg | --drawn]

One process calls the stages' own functions, file by file, and reads its CPU time between them, which other programs
hardly change; a figure is the median over all files and turns. Work that is done once per job is divided by its images,
and is the fastest of the turns. Further rows are the worker's whole function, which has these parts, the time to hand a
job and its result over to another process, and the decoders of `bench.decoders`, which only decode.
With DIR, the artifact of train, predict is measured too. With --enlarged, the files are FOLDER's images enlarged to
500x500 on white, as RGB PNG or as JPEG of quality 90; with --drawn, they are the pictures of 64x64 of `bench.scale`.
"""

import argparse
import csv
import hashlib
import io
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.decoders import OURS, SETTINGS, copies, decoders_for
from bench.machine import table
from bench.prepare_train import enlarged
from bench.scale import write_data
from stages.common.contract.artifacts import file_digest
from stages.common.contract.version import ROOT
from stages.common.images.content import crop_to_content
from stages.common.images.decode import decode_file, pixels_digest, read_image_file
from stages.common.images.preprocess import content_of, fit_square
from stages.common.images.settings import Preprocessing
from stages.common.images.sources import Source, find_source
from stages.common.images.statistics import CHUNK as TOGETHER
from stages.common.images.statistics import image_statistics
from stages.common.inference.onnx_model import load
from stages.predict.pieces import AnswerJob, answer_images
from stages.prepare_train.shards import PrepareJob, prepare_images
from stages.validate.look import look_at_sources
from stages.validate.perceptual import cells_of, hashes_of

READ, SHA, DECODE, XXH = "open, read, close", "SHA-256 of the file", "decode, all checks", "XXH3 of the pixels"
CROP, CROPPED, CELLS, HASH = "find the box, crop", "XXH3 of the crop", "grey cells", "perceptual hash"
ENOUGH = "decode, crop: what the network needs"
SQUARE, WRITE, ROW = "resize, put on a square", "write to the shard", "row of the index"
STATISTICS, NETWORK = "statistics", "network"
PARTS: Mapping[str, Sequence[str]] = {
    "validate": (READ, SHA, DECODE, XXH, CROP, CROPPED, CELLS, HASH),
    "prepare_train": (READ, SHA, ENOUGH, SQUARE, WRITE, ROW),
    "predict": (READ, SHA, ENOUGH, SQUARE, STATISTICS, NETWORK),
}
LOOK_NS = statistics.median(-time.thread_time_ns() + time.thread_time_ns() for _ in range(1001))
"""Time of one reading of the clock."""
JOB = 128
"""Images a job."""


def parts_of(sources: Sequence[Source], settings: Preprocessing, model: Path | None) -> dict[str, list[float]]:
    """Part -> microseconds of each file, or per image for parts that take several files at once."""
    found: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[..., Any], *arguments: Any, images: int = 1) -> Any:
        start = time.thread_time_ns()
        result = work(*arguments)
        found.setdefault(name, []).append((time.thread_time_ns() - start - LOOK_NS) / 1000 / images)
        return result

    loaded = load(model, threads=1) if model else None
    images, record = [], csv.writer(io.StringIO()).writerow
    with tempfile.TemporaryFile() as shard:
        for source in sources:
            data = clock(READ, read_image_file, source.path, settings)
            clock(SHA, hashlib.sha256, data)
            decoded = clock(DECODE, decode_file, data, settings)
            if decoded.format == "PNG":
                clock(XXH, pixels_digest, decoded.picture)
                found[DECODE][-1] -= found[XXH][-1]  # which is part of it
            picture = clock(CROP, crop_to_content, decoded.picture, settings)
            clock(CROPPED, pixels_digest, picture)
            cells = clock(CELLS, cells_of, decoded.picture)
            clock(HASH, hashes_of, cells * TOGETHER, images=TOGETHER)
            enough = clock(ENOUGH, content_of, data, settings)
            image = clock(SQUARE, fit_square, enough.picture, settings)
            clock(WRITE, shard.write, image.data)
            clock(ROW, record, [source.filename, decoded.pixels, ""])
            images.append(image)
    for start in range(0, len(images) - TOGETHER, TOGETHER):
        together = np.stack(images[start : start + TOGETHER])
        clock(STATISTICS, image_statistics, together, images=TOGETHER)
        if loaded:
            clock(NETWORK, loaded.predict_and_embed, together, images=TOGETHER)
    return found


def job_of(do: Callable[[Any], Any], job: Any, repeat: int) -> tuple[float, float]:
    """Microseconds of a job with `JOB` images, each: of the function, and of handing job and result over (pickle)."""
    doing, handing = [], []
    for _ in range(repeat):
        start = time.process_time_ns()
        sent = pickle.loads(pickle.dumps(job))  # noqa: S301 - our own
        received = time.process_time_ns()
        result = do(sent)
        done = time.process_time_ns()
        pickle.loads(pickle.dumps(result))  # noqa: S301 - likewise
        handing.append(received - start + time.process_time_ns() - done)
        doing.append(done - received)
    return min(doing) / 1000 / JOB, min(handing) / 1000 / JOB


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/raw", help="folder of images (default: the samples)")
    parser.add_argument("--images", type=int, default=1000, help="images (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="pixels without a model (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="artifact of train")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--enlarged", choices=["png", "jpeg"], help="images of 500x500")
    kinds.add_argument("--drawn", action="store_true", help="pictures of 64x64")
    arguments = parser.parse_args()
    model = arguments.model and arguments.model / "model.onnx"
    count = max(JOB, arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if arguments.enlarged:
            data = enlarged(data, arguments.enlarged, Path(folder, "enlarged"))
        elif arguments.drawn:
            write_data(Path(folder, "drawn"), count, count)
            data = Path(folder, "drawn", "raw")
        files = copies(data, count, Path(folder, "raw"), link=True)
        sources = [find_source(path.name, path, file_digest) for path in files]
        settings = Preprocessing(**SETTINGS.model_dump(), image_size=arguments.side)
        if model:
            settings = load(model).preprocessing
        found: dict[str, list[float]] = {}
        for _ in range(arguments.repeat):
            for name, values in parts_of(sources, settings, model).items():
                found.setdefault(name, []).extend(values)
        parts = {name: statistics.median(values) for name, values in found.items()}
        (shard := Path(folder, "shard")).touch()
        jobs: dict[str, tuple[Callable[[Any], Any], Any]] = {
            "validate": (look_at_sources, (sources[:JOB], settings)),
            "prepare_train": (
                prepare_images,
                PrepareJob([source.path for source in sources[:JOB]], settings, shard, 0),
            ),
        }
        if model:
            names = frozenset[str]()
            jobs["predict"] = answer_images, AnswerJob(model, "", SETTINGS.max_megapixels, sources[:JOB], names)
        whole = {name: job_of(do, job, arguments.repeat) for name, (do, job) in jobs.items()}
        rows = [[part, *(f"{us:.1f}" if part in PARTS[stage] else "" for stage in jobs)] for part, us in parts.items()]
        rows.append(["these together", *(f"{sum(parts.get(part, 0) for part in PARTS[stage]):.1f}" for stage in jobs)])
        rows.append(["the worker's function", *(f"{whole[stage][0]:.1f}" for stage in jobs)])
        rows.append(["job and result, pickled", *(f"{whole[stage][1]:.1f}" for stage in jobs)])
        print(table(["microseconds an image", *jobs], rows))
        alone = {}
        for name, way in decoders_for(files).items():
            turns = []
            for _ in range(arguments.repeat):
                start = time.process_time_ns()
                way(files[:JOB])
                turns.append(time.process_time_ns() - start)
            alone[name] = min(turns) / 1000 / JOB
        fastest = min(us for name, us in alone.items())
        rows = [[name, f"{us:.1f}", *(f"{us / whole[stage][0]:.2f}" for stage in jobs)] for name, us in alone.items()]
        print(f"\nRead and decode, nothing else ({OURS}: with all checks and XXH3); the fastest takes {fastest:.1f}\n")
        print(table(["decoder", "microseconds", *(f"it : {stage}" for stage in jobs)], rows))


if __name__ == "__main__":
    main()
