"""The images of a raw folder and the lots they belong to. File names only: no image is opened here."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

import pandas as pd

from stages.common.contract.artifacts import walk_files
from stages.common.contract.errors import UsageError

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
    return _listing(image_files(raw))


def list_ignored(raw: Path, annotations: Path | None = None) -> pd.DataFrame:
    """List what is not read in a raw folder: links, hidden files and folders, FIFOs and devices, other suffixes.

    Nothing of it is opened or looked into.

    Args:
        raw: the folder.
        annotations: file, or folder of files, which are no images but are read; None if there are none.

    Returns:
        The columns of `list_images`, and `reason`.
    """
    top, beside = raw.resolve(), annotations and annotations.resolve()
    found: dict[Path, str] = {}
    for root, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(root, name)
            reason = _why_ignored(
                path, folder=name in folders, annotation=beside is not None and _lies_at(path, beside)
            )
            if reason:
                found[path.relative_to(top)] = reason
        folders[:] = [name for name in folders if not name.startswith(".")]
    paths = sorted(found)
    return _listing(paths).assign(reason=pd.Series([found[path] for path in paths], dtype="str"))


def about_links(raw: Path, ignored: pd.DataFrame) -> str:
    """One line about links among the images of a raw folder, "" if there are none: they are not read.

    Args:
        raw: the folder.
        ignored: `list_ignored` of it.
    """
    links = [path for path in ignored.loc[ignored["reason"] == "link", "path"] if _may_hold_images(raw / path)]
    if not links:
        return ""
    targets = [_target(raw / path) for path in links]
    cached = sum("/.dvc/" in target or "/files/md5/" in target for target in targets)
    line = f"{len(links)} links are not read, such as {links[0]} to {targets[0]}: "
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
    return "" if folder or annotation or path.suffix.lower() in SUFFIXES else "not a .png or .jpg name"


def _listing(paths: Iterable[Path]) -> pd.DataFrame:
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
