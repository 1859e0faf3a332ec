"""Image files as stages find them: identified by content, and checked again after they were read."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stages.common.contract.digest_index import BATCH
from stages.common.contract.errors import ChangedError


class Source(NamedTuple):
    """One image file. A tuple of text, for a worker process takes 4 us to receive an object with a `Path`.

    Attributes:
        filename: its name in the stage.
        path: its path.
        digest: SHA-256 of its content; empty if it is not a regular file.
        size: in bytes; 0 if it is not a regular file.
    """

    filename: str
    path: str
    digest: str
    size: int

    def require_unchanged(self, content: str) -> None:
        """Check that the content read has the expected digest.

        Args:
            content: SHA-256 of the content read; empty if the file was refused unread.

        Raises:
            ChangedError: it has another digest.
        """
        # a file refused by its size was not read, but it is still there
        if content != self.digest if content else is_regular(self.path) != bool(self.digest):
            raise ChangedError(Path(self.path))


def find_sources(
    files: Iterable[tuple[str, str]], digests: Callable[[Iterable[str]], Iterator[str]]
) -> Iterator[Source]:
    """Describe image files; only regular files are opened.

    Args:
        files: name in the stage and path of each.
        digests: gives SHA-256 of each of some files, in their order.
    """
    rest = iter(files)
    while batch := list(islice(rest, BATCH)):
        sizes = [_size(path) for _, path in batch]
        found = digests([path for (_, path), size in zip(batch, sizes, strict=True) if size is not None])
        for (filename, path), size in zip(batch, sizes, strict=True):
            yield Source(filename, path, "" if size is None else next(found), size or 0)


def find_source(filename: str, path: Path, digest: Callable[[Path], str]) -> Source:
    """`find_sources` of one file."""
    return next(find_sources([(filename, str(path))], lambda paths: (digest(Path(name)) for name in paths)))


def is_regular(path: str | Path) -> bool:
    """Whether `path` is a regular file: it exists, and is not a link, FIFO, device or folder."""
    return _size(path) is not None


def _size(path: str | Path) -> int | None:
    """Size of a regular file in bytes; None if it is not one."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
