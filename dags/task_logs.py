"""Removal of old task logs, which Airflow itself never removes."""

import contextlib
import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path


@dataclass
class Logs:
    """The result: kept and removed files with their bytes, and a line for each file that cannot be removed."""

    kept: int = 0
    kept_bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def remove_old(folder: Path, keep: timedelta, *, dry_run: bool = False) -> Logs:
    """Remove files that have not been written to for so long, and folders that are then empty.

    Links are neither followed nor removed.
    """
    found, since = Logs(), time.time() - keep.total_seconds()
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(root, name)
            with contextlib.suppress(FileNotFoundError):  # a run beside us has renamed it
                _settle(path, since, found, dry_run=dry_run)
        # Only an old folder: a task that begins now makes its folder, then its file.
        with contextlib.suppress(OSError):  # it is not empty
            if not dry_run and Path(root) != folder and Path(root).stat().st_mtime < time.time() - 60:
                Path(root).rmdir()
    return found


def _settle(path: Path, since: float, found: Logs, *, dry_run: bool) -> None:
    stat = path.lstat()
    if path.is_symlink() or stat.st_mtime >= since:
        found.kept, found.kept_bytes = found.kept + 1, found.kept_bytes + stat.st_size
        return
    try:
        if not dry_run:
            path.unlink()
    except PermissionError as error:
        found.problems.append(f"{path}: {error.strerror}: let uid {os.getuid()} remove it")
        return
    found.removed, found.removed_bytes = found.removed + 1, found.removed_bytes + stat.st_size
