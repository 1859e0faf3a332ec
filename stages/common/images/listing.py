"""The images of a raw folder and the lots they belong to. File names only: no image is opened here."""

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stages.common.contract.errors import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
OTHER_NAME, HIDDEN = "not a .png or .jpg name", "hidden"
"""Why a regular file is not read."""


def lot_of(path: str) -> str:
    """The lot of a file: its name up to the first `_`, else the name of its folder, else `all`.

    Args:
        path: relative to the raw folder.
    """
    folder, _, name = path.rpartition("/")
    prefix, underscore, _ = name.partition("_")
    # each name is in memory once, for any number of images in the lot
    return sys.intern(prefix if underscore and prefix else name_of(folder) or "all")


def as_text(path: str | Path) -> str:
    """A path for a text file: bytes that are not UTF-8 become backslash escapes, which no annotation matches."""
    text = str(path)
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


def name_of(path: str) -> str:
    """The last part of a path."""
    return path.rpartition("/")[2]


def suffix_of(path: str) -> str:
    """The suffix of a file's name, from the last point on, in lower case."""
    stem, _, end = name_of(path).rpartition(".")
    return f".{end}".lower() if stem else ""


@dataclass(frozen=True)
class Listing:
    """The files below a folder of images.

    Attributes:
        images: regular files with an image's suffix, relative to the folder, sorted, without links and hidden files.
            As text: a million take 80 MB, and 400 MB as `Path`.
        ignored: other entries -> the reason why they are not read: links, hidden files and folders, FIFOs and devices,
            other suffixes. None of them is opened.
    """

    images: list[str]
    ignored: dict[str, str]


def list_folder(raw: Path, annotations: Path | None = None) -> Listing:
    """List a folder of images in one walk.

    Args:
        raw: the folder.
        annotations: file, or folder of files, that lie there but are not listed; None if there are none.

    Raises:
        OSError: a folder in it cannot be read.
    """
    top, beside = raw.resolve(), annotations and str(annotations.resolve())
    images: list[str] = []
    ignored: dict[str, str] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(top / folder) as entries:
            for entry in entries:  # they know their kind: a stat of each takes four times as long
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink():
                    ignored[path] = "link"
                elif entry.name.startswith("."):
                    ignored[path] = HIDDEN
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif not entry.is_file(follow_symlinks=False):
                    ignored[path] = "not a regular file"
                elif suffix_of(path) in SUFFIXES:
                    images.append(path)
                elif not (beside and _lies_at(entry.path, beside)):
                    ignored[path] = OTHER_NAME
    return Listing(sorted(images), dict(sorted(ignored.items())))


def about_links(raw: Path, listing: Listing) -> str:
    """One line about links among the images of a raw folder, "" if there are none: they are not read."""
    links = [path for path, reason in listing.ignored.items() if reason == "link" and _may_hold_images(raw / path)]
    if not links:
        return ""
    targets = [_target(raw / path) for path in links]
    cached = sum("/.dvc/" in target or "/files/md5/" in target for target in targets)
    line = f"{len(links)} links are not read, such as {as_text(links[0])} to {targets[0]}: "
    if cached:
        line += f"{cached} lead into DVC's cache: `dvc config cache.type hardlink,copy`, then `dvc checkout --relink`"
    if cached < len(links):
        line += "; " if cached else ""
        line += "put the files themselves there (`cp -rL`), for a stage may see nothing outside the folder"
    return line


def _may_hold_images(link: Path) -> bool:
    return link.suffix.lower() in SUFFIXES or link.is_dir() or not link.suffix


def _target(link: Path) -> str:
    try:
        return as_text(link.readlink())
    except OSError:  # its name is not text
        return "elsewhere"


def _lies_at(path: str, annotations: str) -> bool:
    return path == annotations or (suffix_of(path) in {".csv", ".txt", ".json"} and path.startswith(f"{annotations}/"))


def require_lots(wanted: Collection[str], present: Collection[str], setting: str) -> None:
    """Refuse a selection that names a lot without images; `setting` is the parameter's name.

    Raises:
        UsageError: naming the absent lots and those that exist.
    """
    absent = sorted(set(wanted) - set(present))
    if absent:
        raise UsageError(
            f"{setting}: no images of lot {', '.join(absent)}; lots that exist: {', '.join(sorted(set(present)))}"
        )
