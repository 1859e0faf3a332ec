"""Inspect an image file: whether it can be used, and its properties for the suite `images`.

Worker processes run this module; they start faster without pandas, so nothing here imports it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stages.common.images.content import crop_to_content
from stages.common.images.decode import ImageError, decode_file, pixels_digest, read_image_file
from stages.common.images.settings import ImagesSection
from stages.common.images.sources import Source
from stages.validate.perceptual import cells_of, hashes_of


class Look(NamedTuple):
    """The properties of one image file.

    Attributes:
        digest: SHA-256 of the file as it was read (64 hex digits); empty if it was refused unread.
        problem: why `prepare_train` could not use it; empty if it can. With a problem, the rest is empty or 0.
        format: PNG, JPEG or MPO, by content.
        mode: the file's colour mode, by Pillow's name.
        width: pixels, of the upright picture.
        height: likewise.
        pixels: digest (32 hex digits) that identifies the image, see `stages.common.images.decode.Decoded`.
        cropped: digest (32 hex digits) of the picture cropped to its content, equal for equal pixels.
        hash: perceptual hash of the whole picture (64 hex digits).
    """

    digest: str
    problem: str
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    pixels: str = ""
    cropped: str = ""
    hash: str = ""


LookJob = tuple[Sequence[Source], ImagesSection]
"""The job of a worker process."""


def look_at_sources(job: LookJob) -> str:
    """`look_at` the files of some sources, as JSON: to send the tuples themselves costs 10 us each.

    Raises:
        TryAgainError: a file changed while it was being read.
    """
    sources, settings = job
    looks = look_at(([source.path for source in sources], settings))
    for source, look in zip(sources, looks, strict=True):
        source.require_unchanged(look.digest)
    return json.dumps(looks)


def look_at(job: tuple[Sequence[str | Path], ImagesSection]) -> list[Look]:
    """Inspect some image files, one at a time in memory."""
    paths, settings = job
    looks = [_look_at(path, settings) for path in paths]
    hashes = iter(hashes_of(b"".join(cells for _, cells in looks)))
    return [look if look.problem else look._replace(hash=next(hashes).tobytes().hex()) for look, _ in looks]


def _look_at(path: str | Path, settings: ImagesSection) -> tuple[Look, bytes]:
    """Inspect one file.

    In its own function, so that its picture is freed before the next is decoded: with two in memory, the C library
    returns memory to the system after each file, and getting it back takes a tenth of the time for a JPEG of 500x500.

    Returns:
        The properties without the hash, and the `cells_of` for `hashes_of`, empty if there is a problem.
    """
    digest = ""
    try:
        data = read_image_file(path, settings)
        digest = hashlib.sha256(data).hexdigest()
        picture, pixels, kind, mode, (width, height), _ = decode_file(data, settings)
        cropped = pixels_digest(crop_to_content(picture, settings))
        return Look(digest, "", kind, mode, width, height, pixels, cropped), cells_of(picture)
    except ImageError as error:
        return Look(digest, str(error)), b""
