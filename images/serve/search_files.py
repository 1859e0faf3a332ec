"""The raw images of a search: found by lot and name, opened below the raw folder and nowhere else, and made small."""

import io
import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from stages.common.images import room
from stages.common.images.decode import JPEG, PNG, ImageError, as_image, decode_file
from stages.common.images.listing import as_text, lot_of
from stages.common.images.settings import ImagesSection

SIDE = 224
"""Pixels of the longer side of a thumbnail: sharp at half the size on a screen of a phone; some 8 kB."""
KEPT = 32 * 2**20
"""Bytes of thumbnails that are kept at most."""
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def open_below(folder: Path, path: str) -> BinaryIO | None:
    """A regular file below a folder, open; None for whatever else there is: links, hidden files, other places.

    Every folder on the way is opened in the one before and no link is followed, so what somebody puts in the place of a
    name in the meantime is not reached; and what is read is the file that was looked at.
    """
    # images/airflow/plugins/reports.py has the same. What a plugin imports stands beside it or in dags/, and this image
    # holds neither; the image of Airflow holds nothing of stages/ or of this folder.
    parts = path.split("/")
    if any(part[:1] in {"", "."} for part in parts):
        return None
    with ExitStack() as opened:
        try:
            place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
            opened.callback(os.close, place)
            for name in parts[:-1]:
                place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
                opened.callback(os.close, place)
            # A FIFO without a writer would keep us waiting.
            file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
        except (OSError, ValueError):  # absent, a link, too long or shut; a NUL
            return None
    if stat.S_ISREG(os.fstat(file).st_mode):
        return os.fdopen(file, "rb")
    os.close(file)
    return None


class RawFolder:
    """The raw folder, of which only the folders are remembered: where an image lies follows from its lot and name."""

    def __init__(self, top: Path) -> None:
        """Look for folders in it; one that is not there has none."""
        self.top = top
        self._folders = [*_folders(top)]

    def open(self, lot: str, filename: str) -> BinaryIO | None:
        """The file that stage predict calls so, open; None if it is not there any more."""
        for path in self._paths(lot, filename):
            if file := open_below(self.top, path):
                return file
        return None

    def _paths(self, lot: str, filename: str) -> Iterator[str]:
        """Where it may lie. It is called by its path where its lot has several of its name."""
        for name in dict.fromkeys((filename, _with_bytes(filename))):
            if "/" in name:
                yield name
                continue
            for folder in self._folders:
                path = f"{folder}/{name}" if folder else name
                if lot_of(as_text(path)) == lot:
                    yield path


def _folders(top: Path) -> Iterator[str]:
    """All folders below one, and "" for itself, but for links and hidden ones, like stages/common/images/listing.py."""
    folders = [""]
    while folders:
        folder = folders.pop()
        yield folder
        try:
            with os.scandir(top / folder) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # gone, or shut
            continue
        folders += [f"{folder}/{name}" if folder else name for name in found if not name.startswith(".")]


def _with_bytes(filename: str) -> str:
    """The name whose bytes, where they are no text, `as_text` has escaped."""
    return os.fsdecode(ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), filename.encode()))


def media_type(start: bytes) -> str:
    """The type of an image by its first bytes, whatever its name says; something to keep, not to show, for others."""
    known = {PNG: "image/png", JPEG: "image/jpeg"}
    return next((name for magic, name in known.items() if start.startswith(magic)), "application/octet-stream")


class Thumbnails:
    """Thumbnails, of which the ones that were asked for last are kept."""

    def __init__(self, settings: ImagesSection, most: int = KEPT, at_once: int = 2) -> None:
        """Keep `most` bytes, and make a few at once, for a large picture takes much memory while it is made small."""
        self._settings = settings
        self._most = most
        self._kept: OrderedDict[tuple[int, ...], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._making = threading.Semaphore(at_once)

    @property
    def held(self) -> int:
        """Bytes that are kept."""
        return self._size

    def make(self, file: BinaryIO) -> bytes:
        """The thumbnail of an open file, as a JPEG.

        Raises:
            ImageError: it is not a picture that can be used.
        """
        told = os.fstat(file.fileno())
        key = (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._making:
            # 16-bit RGBA without compression takes 8 bytes a pixel
            if told.st_size > self._settings.max_megapixels * 8e6 + 1e6:
                raise ImageError(f"too large: {told.st_size / 1e6:.0f} MB")
            made = self._shrunk(file.read(told.st_size))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._size += len(made)
            while self._size > self._most:
                _, gone = self._kept.popitem(last=False)
                self._size -= len(gone)
        return made

    def _shrunk(self, content: bytes) -> bytes:
        try:
            small = as_image(decode_file(content, self._settings, SIDE).picture)
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2)
        finally:
            room.claim(0)
        written = io.BytesIO()
        small.save(written, "JPEG", quality=82)
        return written.getvalue()
