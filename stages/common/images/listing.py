"""The images of a raw folder and the lots they belong to. File names only: no image is opened here."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from stages.common.contract.artifacts import refuse
from stages.common.contract.errors import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
OTHER_NAME = "not a .png or .jpg name"
"""Why a regular file is not read."""


def lot_of(path: PurePosixPath | Path) -> str:
    """The lot of a file: its name up to the first `_`, else the name of its folder, else `all`.

    Args:
        path: relative to the raw folder.
    """
    prefix, underscore, _ = path.name.partition("_")
    return prefix if underscore and prefix else path.parent.name or "all"


def as_text(path: Path) -> Path:
    """A path that a text file can hold: bytes that are not UTF-8 as backslash escapes, which no annotation matches."""
    return Path(os.fsencode(path).decode("utf-8", "backslashreplace"))


@dataclass(frozen=True)
class Listing:
    """What lies in a folder of images.

    Attributes:
        images: regular files with an image's suffix, relative to the folder, sorted; but for links and hidden files.
        ignored: what else lies there, likewise -> why it is not read: links, hidden files and folders, FIFOs and
            devices, other suffixes. Nothing of it is opened or looked into.
    """

    images: list[Path]
    ignored: dict[Path, str]

    def image_table(self) -> pd.DataFrame:
        """One row an image. Columns: `image` (base name), `path` (posix) and `lot`; all as `as_text`."""
        return _table(self.images)

    def ignored_table(self) -> pd.DataFrame:
        """The same of what is ignored, and `reason`."""
        return _table(self.ignored).assign(reason=pd.Series(list(self.ignored.values()), dtype="str"))


def list_folder(raw: Path, annotations: Path | None = None) -> Listing:
    """List a folder of images in one walk.

    Args:
        raw: the folder.
        annotations: file, or folder of files, which are no images but are read; None if there are none.

    Raises:
        OSError: a folder in it cannot be read.
    """
    top, beside = raw.resolve(), annotations and annotations.resolve()
    images: list[Path] = []
    ignored: dict[Path, str] = {}
    for root, folders, files in os.walk(top, onerror=refuse):
        for name in (*folders, *files):
            path, is_folder = Path(root, name), name in folders
            reason = _why_ignored(path, folder=is_folder, annotation=beside is not None and _lies_at(path, beside))
            if reason:
                ignored[path.relative_to(top)] = reason
            elif not is_folder and path.suffix.lower() in SUFFIXES:
                images.append(path.relative_to(top))
        folders[:] = [name for name in folders if not name.startswith(".")]
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
        return str(as_text(Path(link.readlink())))
    except OSError:  # its name is no text
        return "elsewhere"


def _lies_at(path: Path, annotations: Path) -> bool:
    return path == annotations or (path.suffix.lower() in {".csv", ".txt"} and path.is_relative_to(annotations))


def _why_ignored(path: Path, *, folder: bool, annotation: bool) -> str:
    if path.is_symlink():
        return "link"
    if path.name.startswith("."):
        return "hidden"
    if not folder and not path.is_file():
        return "not a regular file"
    return "" if folder or annotation or path.suffix.lower() in SUFFIXES else OTHER_NAME


def _table(paths: Iterable[Path]) -> pd.DataFrame:
    shown = [as_text(path) for path in paths]
    return pd.DataFrame(
        {
            "image": [path.name for path in shown],
            "path": [path.as_posix() for path in shown],
            "lot": [lot_of(path) for path in shown],
        },
        dtype="str",
    )


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
