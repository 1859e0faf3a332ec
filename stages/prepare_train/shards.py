"""The shard of one lot: made once, kept in the stage's cache under a key of all that decides it, and taken from there.

A cached piece is `<cache>/<key>/` with
    images.npy     uint8 (accepted images, S, S, 3), RGB
    images.csv     filename, pixels (digest of the picture; empty if rejected), reason (empty if accepted)
    manifest.json  digests of both
"""

import contextlib
import csv
import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.contract import artifacts
from stages.common.contract.errors import DataError
from stages.common.contract.logs import Progress, log
from stages.common.images.decode import ImageError, read_image_file
from stages.common.images.preprocess import content_of, fit
from stages.common.images.settings import Preprocessing
from stages.common.images.sources import Source
from stages.common.workers.pool import WorkerPool

IMAGES = "images.npy"
RECORDS = "images.csv"
CHUNK = 128
"""Images a job; of 64, the main process takes 4 us an image more."""

Row = tuple[str, str, str]
"""What became of an image: SHA-256 of the file as it was read, empty if refused unread; the rest as in `RECORDS`."""


class Job(NamedTuple):
    """Some images of a lot, and the file that takes the accepted ones, from byte `start` on.

    Paths are text: a worker process takes 3 to 5 us to receive a `Source` with its `Path`.
    """

    paths: Sequence[str]
    settings: Preprocessing
    file: Path
    start: int


@dataclass(frozen=True)
class Piece:
    """The cached piece of one lot.

    Attributes:
        shard: file with uint8 (accepted images, S, S, 3).
        accepted: filename -> digest of the picture, in the order of the shard's rows.
        rejected: filename -> reason.
    """

    shard: Path
    accepted: dict[str, str]
    rejected: dict[str, str]


def piece_key(version: str, settings: Preprocessing, sources: Sequence[Source]) -> str:
    """The key (64 hex digits) of a lot's piece. Labels are no part of it: they stand in index.csv alone."""
    images = [[source.filename, source.digest] for source in sources]
    return artifacts.json_digest({"version": version, "preprocessing": settings.model_dump(), "images": images})


def prepare_images(job: Job) -> list[Row]:
    """Prepare some images; this is what a worker process runs. It writes them itself: sending one costs 12 us."""
    rows = []
    with job.file.open("r+b") as file:
        file.seek(job.start)
        for path in job.paths:
            row, image = _prepare(path, job.settings)
            rows.append(row)
            if image is not None:
                file.write(image.data)
    return rows


def _prepare(path: str, settings: Preprocessing) -> tuple[Row, npt.NDArray[np.uint8] | None]:
    """The row of an image, and what the network gets of it. Its picture is gone before the next is decoded.

    Of two, the C library returns memory to the system after each file, and getting it back takes time.
    """
    content = ""
    try:
        data = read_image_file(path, settings)
        content = hashlib.sha256(data).hexdigest()
        picture, pixels = content_of(data, settings)
        return (content, pixels, ""), fit(picture, settings)
    except ImageError as error:
        return (content, "", str(error)), None


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


def make_pieces(
    lots: Mapping[Path, Sequence[Source]], settings: Preprocessing, pool: WorkerPool, progress: Progress
) -> dict[Path, Piece]:
    """Prepare the images of lots, each into its folder, which appears whole or not at all.

    The workers go on with the next lot while one is hashed and synced. Two runs that need the same piece at the same
    time compute it once: the second waits and takes it. They begin lots in the order of the folders' names, so neither
    can hold what the other waits for.

    Raises:
        TryAgainError: a file changed while it was being read.
    """
    begun = deque[_Making]()

    def jobs() -> Iterator[Job]:
        for folder, sources in sorted(lots.items()):
            making = _make_piece(folder, sources, settings)
            if its_jobs := next(making, None):
                begun.append(making)
                yield from its_jobs
            else:  # another run has made it meanwhile
                progress.advance(len(sources))

    done = pool.map(prepare_images, jobs())
    try:
        for rows in done:
            with contextlib.suppress(StopIteration):  # it is whole
                begun.popleft().send(_counted(chain([rows], done), progress))
    finally:
        for making in begun:
            making.close()
    return {folder: _read_records(folder) for folder in lots}


def _counted(done: Iterable[list[Row]], progress: Progress) -> Iterator[list[Row]]:
    for rows in done:
        progress.advance(len(rows))
        yield rows


def _make_piece(folder: Path, sources: Sequence[Source], settings: Preprocessing) -> "_Making":
    """Make one piece, unless it is there: yields its jobs, is sent what they return, in their order, and finishes."""
    with artifacts.locked(folder.with_name(f".lock-{folder.name}"), "another run is preparing the same lot") as lock:
        if read_piece(folder):
            return
        with artifacts.making(folder, lock) as partial:
            yield from _write_piece(partial, sources, settings)
            artifacts.write_manifest(partial, stage="prepare_train", key=folder.name)
            artifacts.publish(partial, folder, lock)


def _write_piece(folder: Path, sources: Sequence[Source], settings: Preprocessing) -> "_Making":
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
        chunks = [sources[row : row + CHUNK] for row in range(0, len(sources), CHUNK)]
        jobs = [
            Job([str(source.path) for source in chunk], settings, shard, first + number * CHUNK * size)
            for number, chunk in enumerate(chunks)
        ]
        done = yield jobs
        for job, chunk, rows in zip(jobs, chunks, done, strict=False):  # what is done after these is another lot's
            for source, (content, pixels, reason) in zip(chunk, rows, strict=True):
                source.require_unchanged(content)
                records.writerow([source.filename, pixels, reason])
            here, taken = first + accepted * size, sum(not reason for _, _, reason in rows)
            if here < job.start:
                file.seek(here)
                file.write(np.fromfile(shard, np.uint8, taken * size, offset=job.start).data)
            accepted += taken
        file.seek(0)
        header()
        file.truncate(first + accepted * size)


_Making = Generator[list[Job], Iterator[list[Row]], None]
