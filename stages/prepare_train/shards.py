"""The shard of one lot: made once, kept in the stage's cache under a key of all that decides it, and taken from there.

A cached piece is `<cache>/<key>/` with
    images.npy     uint8 (accepted images, S, S, 3), RGB
    images.csv     filename, pixels (digest of the cropped picture; empty if rejected), reason (empty if accepted)
    manifest.json  digests of both
"""

import csv
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common import artifacts
from stages.common.decode import ImageError, decode, read_image_file
from stages.common.errors import DataError
from stages.common.image_settings import Preprocessing
from stages.common.logs import Progress, log
from stages.common.pool import WorkerPool
from stages.common.preprocess import crop, fit, pixels_digest
from stages.common.sources import Source

IMAGES = "images.npy"
RECORDS = "images.csv"
CHUNK = 64
"""Images a job: 64 of 64x64 are 800 kB to send back; jobs of 16 cost 15 % of the rate."""


class Job(NamedTuple):
    """Some images of a lot, and the file that takes the accepted ones, from byte `start` on."""

    sources: Sequence[Source]
    settings: Preprocessing
    file: Path
    start: int


@dataclass(frozen=True)
class Piece:
    """The cached piece of one lot.

    Attributes:
        shard: file with uint8 (accepted images, S, S, 3).
        accepted: filename -> digest of the cropped picture, in the order of the shard's rows.
        rejected: filename -> reason.
    """

    shard: Path
    accepted: dict[str, str]
    rejected: dict[str, str]


def piece_key(version: str, settings: Preprocessing, sources: Sequence[Source]) -> str:
    """The key (64 hex digits) of a lot's piece. Labels are no part of it: they stand in index.csv alone."""
    images = [[source.filename, source.digest] for source in sources]
    return artifacts.json_digest({"version": version, "preprocessing": settings.model_dump(), "images": images})


def prepare_images(job: Job) -> list[tuple[str, str, str]]:
    """Prepare some images; this is what a worker process runs. It writes them itself: sending one costs 12 us.

    Returns:
        The rows of `RECORDS`: filename, digest of the picture or "", reason or "".

    Raises:
        TryAgainError: a file changed while it was being read.
    """
    prepared = [_prepare(source, job.settings) for source in job.sources]
    with job.file.open("r+b") as file:
        file.seek(job.start)
        file.writelines(image.data for _, image in prepared if image is not None)
    return [row for row, _ in prepared]


def _prepare(source: Source, settings: Preprocessing) -> tuple[tuple[str, str, str], npt.NDArray[np.uint8] | None]:
    """The row of an image, and what the network gets of it. Its picture is gone before the next is decoded.

    Of two, the C library returns memory to the system after each file, and getting it back takes time.
    """
    content = pixels = reason = ""
    image = None
    try:
        data = read_image_file(source.path, settings)
        content = hashlib.sha256(data).hexdigest()
        picture = crop(decode(data, settings), settings)
        pixels, image = pixels_digest(picture), fit(picture, settings)
    except ImageError as error:
        reason = str(error)
    source.require_unchanged(content)
    return (source.filename, pixels, reason), image


def read_piece(folder: Path) -> Piece | None:
    """Read a cached piece; None if there is none, or if it is damaged, which is said."""
    if not folder.exists():
        return None
    try:
        artifacts.read_manifest(folder)
    except DataError as error:
        log.warning("a cached shard cannot be used and is made again: %s", error)
        return None
    return _read_records(folder)


def _read_records(folder: Path) -> Piece:
    with (folder / RECORDS).open(encoding="utf-8", newline="") as file:
        _, *records = csv.reader(file)
    return Piece(
        folder / IMAGES,
        {filename: pixels for filename, pixels, reason in records if not reason},
        {filename: reason for filename, _, reason in records if reason},
    )


def make_piece(
    folder: Path, sources: Sequence[Source], settings: Preprocessing, pool: WorkerPool, progress: Progress
) -> Piece:
    """Prepare the images of a lot into `folder`, which appears whole or not at all.

    Two runs that need the same piece at the same time compute it once: the second waits and takes it.

    Raises:
        TryAgainError: a file changed while it was being read.
    """
    with artifacts.locked(folder.with_name(f".lock-{folder.name}")):
        if piece := read_piece(folder):
            progress.advance(len(sources))
            return piece
        partial = folder.with_name(f".partial-{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _write_piece(partial, sources, settings, pool, progress)
            manifest = {"stage": "prepare_train", "key": folder.name, "files": artifacts.list_files(partial)}
            artifacts.write_json(partial / artifacts.MANIFEST, manifest)
            artifacts.publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return _read_records(folder)


def _write_piece(
    folder: Path, sources: Sequence[Source], settings: Preprocessing, pool: WorkerPool, progress: Progress
) -> None:
    """Have job after job write its images to where they lie if none is rejected; else they move up here.

    Plain writes and no memory map: on a full disk a write is an honest error, a mapped page is a SIGBUS.
    """
    side, accepted = settings.image_size, 0
    size = side * side * 3

    def header() -> None:  # its length does not depend on the number of rows: numpy leaves room for it to grow
        shape = (accepted, side, side, 3)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})

    shard = folder / IMAGES
    with (
        shard.open("wb") as file,
        (folder / RECORDS).open("w", encoding="utf-8", newline="") as table,
    ):
        records = csv.writer(table)
        records.writerow(["filename", "pixels", "reason"])
        header()
        first = file.tell()
        jobs = [
            Job(sources[row : row + CHUNK], settings, shard, first + row * size)
            for row in range(0, len(sources), CHUNK)
        ]
        for job, rows in zip(jobs, pool.map(prepare_images, jobs), strict=True):
            records.writerows(rows)
            here, taken = first + accepted * size, sum(not reason for _, _, reason in rows)
            if here < job.start:
                file.seek(here)
                file.write(np.fromfile(shard, np.uint8, taken * size, offset=job.start).data)
            accepted += taken
            progress.advance(len(rows))
        file.seek(0)
        header()
        file.truncate(first + accepted * size)
