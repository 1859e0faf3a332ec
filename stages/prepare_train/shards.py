"""The shard of one lot, as `stages.common.workers.lot_cache` stores it.

images.npy     uint8 (accepted images, S, S, 3), RGB
images.csv     filename, pixels (digest of the picture; empty if rejected), reason (empty if accepted), and the fields
               of `stages.common.schema.face.Face` if faces are cut out
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.common.images.faces import FACE_BYTES
from stages.common.images.preprocess import prepare
from stages.common.images.settings import Preprocessing
from stages.common.images.sources import Source
from stages.common.schema.face import Face
from stages.common.workers.lot_cache import Recipe

IMAGES = "images.npy"
RECORDS = "images.csv"
CHUNK = 128
"""Images per job; with 64, the main process takes 4 us more per image."""

Outcome = tuple[str, str, str, tuple[int, ...]]
"""Result of an image: SHA-256 of the file as it was read, empty if refused unread; the rest as in `RECORDS`."""


class PrepareJob(NamedTuple):
    """Some images of a lot, and the file for the accepted images, from byte `start` on.

    Only paths: with digests, so that the worker itself checks files for changes, and sends rows as text, 2,000 faces
    took as much of two cores.
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
        faces: filename -> cells of `Face`, of the accepted images; empty if faces are not cut out.
    """

    shard: Path
    accepted: dict[str, str]
    rejected: dict[str, str]
    faces: dict[str, tuple[str, ...]]


def recipe_of(settings: Preprocessing) -> Recipe[PrepareJob, list[Outcome], Piece]:
    """Recipe of the shard of a lot. It does not depend on labels: only index.csv has them."""
    return Recipe(
        stage="prepare_train",
        decides=settings.model_dump(),
        chunk=CHUNK,
        job=partial(_job, settings),
        do=prepare_images,
        write=partial(_write, settings.image_size),
        read=_read,
        burden=FACE_BYTES if settings.crop == "face" else 0,
    )


def _job(settings: Preprocessing, folder: Path, images: Sequence[Source], start: int) -> PrepareJob:
    (shard := folder / IMAGES).touch()
    side = settings.image_size
    paths = [image.path for image in images[start : start + CHUNK]]
    return PrepareJob(paths, settings, shard, len(_header(0, side)) + start * side * side * 3)


def prepare_images(job: PrepareJob) -> list[Outcome]:
    """Prepare some images, in a worker process. It writes them itself: to send one costs 12 us."""
    rows: list[Outcome] = []
    with job.file.open("r+b") as file:
        file.seek(job.start)
        for path in job.paths:
            content, image, pixels, face, reason = prepare(path, job.settings)
            rows.append((content, pixels, reason, face or ()))
            if image is not None:
                file.write(image.data)
    return rows


def _read(folder: Path, _images: Sequence[Source]) -> Piece:
    with (folder / RECORDS).open(encoding="utf-8", newline="") as file:
        _, *records = csv.reader(file)
    return Piece(
        folder / IMAGES,
        {filename: pixels for filename, pixels, reason, *_ in records if not reason},
        {filename: reason for filename, _, reason, *_ in records if reason},
        {filename: tuple(face) for filename, _, reason, *face in records if face and not reason},
    )


def _header(rows: int, side: int) -> bytes:
    """The header of a shard. Its length does not depend on the number of rows: numpy leaves room for growth."""
    shape = (rows, side, side, 3)
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _write(side: int, folder: Path, done: Iterable[tuple[Sequence[Source], list[Outcome]]]) -> None:
    """Complete a shard: jobs write images to their final place if none is rejected; else the later ones move up here.

    Plain writes and no memory map: on a full disk, a write gives a clear error, and a mapped page a SIGBUS.
    """
    first, size = len(_header(0, side)), side * side * 3
    shard, accepted, start = folder / IMAGES, 0, 0
    with (folder / RECORDS).open("w", encoding="utf-8", newline="") as table, shard.open("r+b") as file:
        records = csv.writer(table)
        records.writerow(["filename", "pixels", "reason", *Face._fields])
        for images, rows in done:
            for image, (content, pixels, reason, face) in zip(images, rows, strict=True):
                image.require_unchanged(content)
                records.writerow([image.filename, pixels, reason, *face])
            taken = sum(not reason for _, _, reason, _ in rows)
            if accepted < start:
                file.seek(first + accepted * size)
                file.write(np.fromfile(shard, np.uint8, taken * size, offset=first + start * size).data)
            accepted += taken
            start += len(images)
        file.seek(0)
        file.write(_header(accepted, side))
        file.truncate(first + accepted * size)
