"""The raw images of a search: found by lot and name, opened only below the raw folder, and their thumbnails."""

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
"""Greatest number of bytes of kept thumbnails."""
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def open_below(folder: Path, path: str) -> BinaryIO | None:
    """An open regular file below a folder; None for anything else: links, hidden files, other places.

    Every folder on the way is opened relative to the one before, without following links, so a name that is replaced
    meanwhile is not followed; and the file that is read is the file that was checked.
    """
    # images/airflow/plugins/reports.py has the same code. A plugin can import only modules beside it or in dags/, which
    # are not in this image; and the image of Airflow has neither stages/ nor this folder.
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
            # A FIFO without a writer would block.
            file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
        except (OSError, ValueError):  # absent, a link, too long or not readable; a NUL
            return None
    if stat.S_ISREG(os.fstat(file).st_mode):
        return os.fdopen(file, "rb")
    os.close(file)
    return None


class RawFolder:
    """The raw folder; only its folders are kept in memory, and lot and name of an image lead to its path."""

    def __init__(self, top: Path) -> None:
        """List its folders; an absent raw folder has none."""
        self.top = top
        self._folders = [*_folders(top)]

    def open(self, lot: str, filename: str) -> BinaryIO | None:
        """The open file with this lot and name in stage predict; None if it is gone."""
        for path in self._paths(lot, filename):
            if file := open_below(self.top, path):
                return file
        return None

    def _paths(self, lot: str, filename: str) -> Iterator[str]:
        """Possible paths. The name is a path if the lot has several files of that name."""
        for name in dict.fromkeys((filename, _with_bytes(filename))):
            if "/" in name:
                yield name
                continue
            for folder in self._folders:
                path = f"{folder}/{name}" if folder else name
                if lot_of(as_text(path)) == lot:
                    yield path


def _folders(top: Path) -> Iterator[str]:
    """Folders below `top`, and "" for itself, without links and hidden ones, as in stages/common/images/listing.py."""
    folders = [""]
    while folders:
        folder = folders.pop()
        yield folder
        try:
            with os.scandir(top / folder) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # gone, or not readable
            continue
        folders += [f"{folder}/{name}" if folder else name for name in found if not name.startswith(".")]


def _with_bytes(filename: str) -> str:
    """The original name, before `as_text` escaped bytes that are not text."""
    return os.fsdecode(ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), filename.encode()))


def media_type(start: bytes) -> str:
    """Media type of an image by its first bytes, not by its name; for others, a type that browsers save."""
    known = {PNG: "image/png", JPEG: "image/jpeg"}
    return next((name for magic, name in known.items() if start.startswith(magic)), "application/octet-stream")


class Thumbnails:
    """Thumbnails; the last requested ones are kept."""

    def __init__(self, settings: ImagesSection, most: int = KEPT, at_once: int = 2) -> None:
        """Keep `most` bytes, and make only a few at once, because a large picture takes much memory meanwhile."""
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
