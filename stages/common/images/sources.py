"""Image files as stages find them: told apart by content, and looked at again after they were read."""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages.common.contract.errors import ChangedError


@dataclass(frozen=True)
class Source:
    """One image file.

    Attributes:
        filename: what the stage calls it.
        path: where it lies.
        digest: SHA-256 of its content; empty where it is no regular file.
        size: in bytes; 0 likewise.
    """

    filename: str
    path: Path
    digest: str
    size: int

    def require_unchanged(self, content: str) -> None:
        """Check that what was read is what the digest says.

        Args:
            content: SHA-256 of what was read; empty if the file was refused unread.

        Raises:
            ChangedError: it is not.
        """
        # a file refused by its size was not read, but it is still there
        if content != self.digest if content else is_regular(self.path) != bool(self.digest):
            raise ChangedError(self.path)


def find_source(filename: str, path: Path, digest: Callable[[Path], str]) -> Source:
    """Describe an image file without opening what is no regular file."""
    regular = is_regular(path)
    return Source(filename, path, digest(path) if regular else "", path.stat().st_size if regular else 0)


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file: no link, FIFO, device or folder, and not absent."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
