"""The images of a raw folder and the lots they belong to. File names only: no image is opened here."""

import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import pandas as pd

from stages.common.artifacts import walk_files
from stages.common.errors import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def lot_of(path: PurePosixPath | Path) -> str:
    """The lot of a file: its name up to the first `_`, else the name of its folder, else `all`.

    Args:
        path: relative to the raw folder.
    """
    prefix, underscore, _ = path.name.partition("_")
    return prefix if underscore and prefix else path.parent.name or "all"


def image_files(raw: Path) -> list[Path]:
    """Regular files with an image's suffix, relative to `raw`, sorted. Links and hidden files are left out."""
    return [path for path in walk_files(raw) if path.suffix.lower() in SUFFIXES]


def as_text(path: Path) -> Path:
    """A path that a text file can hold: bytes that are not UTF-8 as backslash escapes, which no annotation matches."""
    return Path(os.fsencode(path).decode("utf-8", "backslashreplace"))


def list_images(raw: Path) -> pd.DataFrame:
    """List the images of a raw folder.

    Returns:
        One row an image, sorted by path. Columns: `image` (base name), `path` (relative to `raw`, posix) and `lot`;
        all as `as_text`.
    """
    paths = [as_text(path) for path in image_files(raw)]
    return pd.DataFrame(
        {
            "image": [path.name for path in paths],
            "path": [path.as_posix() for path in paths],
            "lot": [lot_of(path) for path in paths],
        },
        dtype="str",
    )


def require_lots(wanted: Collection[str], present: Collection[str]) -> None:
    """Refuse a selection that names a lot without images.

    Raises:
        UsageError: naming the absent lots and those that exist.
    """
    absent = sorted(set(wanted) - set(present))
    if absent:
        raise UsageError(
            f"validate.lots: no images of lot {', '.join(absent)}; lots that exist: {', '.join(sorted(set(present)))}"
        )
