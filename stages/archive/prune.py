"""Clean-up of the artifact store: unused artifacts are removed, and the reason is reported for those that stay.

These stay ("alive"):
    artifacts used within the time to keep: the lock file of an artifact says when a run last used it, and which
    artifacts that run read;
    the newest artifact of each stage;
    the archives of registered versions, to which releases and reports link (the registry itself is not changed);
    artifacts whose lock is held, and those that the holder reads;
    the piece of a lot, as long as an artifact is alive that may have been made from it.

The inputs of an artifact do not stay because of it: it is complete without them, and its manifest names them.

A folder is renamed before its removal, under its lock, so that no run finds half of it; the next pass removes the
rest of a killed one. Links are never followed, and only folders with the names and the form of stages are touched.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from stages.archive.versions_page import write_versions
from stages.common.contract.artifacts import MANIFEST, lock_of, locked, read_by, written
from stages.common.contract.digest_index import DIGESTS, DigestIndex
from stages.common.contract.errors import StageError, UsageError
from stages.common.registry.registry import Registry

REGISTRY, RUNS, PASSES = "registry", "run", "clean_up"
"""Folders of the store that belong to no stage: the registry, a page per run, a page per clean-up."""
CACHE = ".cache"

_HOME = re.compile("[a-z][a-z0-9_]*")
_KEY = "[0-9a-f]{64}"
_PARTS = re.compile(
    rf"(?P<key>{_KEY})|\.lock-(?P<lock>{_KEY})|\.state-(?P<state>{_KEY})|\.partial-(?P<partial>{_KEY})(\..+)?"
    r"|failed-(?P<failed>[0-9a-f]{12})"
)
_ASIDE = ".removed-"
_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}

HELD, READ, VERSION, NEWEST, PIECE, LINKED = (
    "held by a run", "read by a run", "registered", "newest", "of a living artifact", "page of a version",
)  # fmt: skip


def seconds_of(keep: str) -> int:
    """Seconds of a text such as 12h, 30d or 2w.

    Raises:
        UsageError: it is not such a text.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", keep)
    if not found:
        raise UsageError(f"--keep {keep!r} is not a time: give hours, days or weeks, such as 12h, 30d or 2w")
    return int(found[1]) * _UNITS[found[2]]


@dataclass
class Slot:
    """All files of one key in a folder: the artifact, its lock, and the rest of failed and killed runs.

    Attributes:
        home: the folder.
        key: 64 hex digits; 12 for a failed run without any other file.
        artifact: whether there is a finished artifact.
        used: last use by a run, in seconds since the epoch.
        parts: its files and folders, without the lock.
        reasons: reasons why it stays.
    """

    home: Path
    key: str
    artifact: bool = False
    used: float = 0.0
    parts: list[Path] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def lock(self) -> Path:
        """The file that a run locks while it makes or uses the artifact."""
        return lock_of(self.home / self.key)

    @property
    def what(self) -> str:
        """The kind under which it is counted."""
        name = f"{self.home.parent.name}, lots" if self.home.name == CACHE else self.home.name
        return name if self.artifact else f"{name}, unfinished"

    def manifest(self) -> Mapping[str, Any]:
        """Manifest of the artifact; {} if it cannot be read."""
        try:
            found = json.loads((self.home / self.key / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass
class Count:
    """Counts of one kind: how many stay and why, how many are removed, and their bytes on the disk."""

    kept: int = 0
    kept_bytes: int = 0
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    removed: int = 0
    removed_bytes: int = 0

    @property
    def why(self) -> str:
        """The reasons, the most frequent first."""
        frequent = sorted(self.reasons.items(), key=lambda item: (-item[1], item))
        return ", ".join(f"{count} {reason}" for reason, count in frequent)


@dataclass
class Found:
    """The result of a pass.

    Attributes:
        keep: the time to keep, as given.
        dry_run: whether nothing was removed.
        counts: kind -> its count.
        gone: removed entries: kind, name, last use, bytes.
        problems: a line for each entry that could not be removed.
    """

    keep: str
    dry_run: bool
    counts: dict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    gone: list[tuple[str, str, float, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def kept_bytes(self) -> int:
        """Bytes kept, of all kinds."""
        return sum(count.kept_bytes for count in self.counts.values())

    @property
    def removed_bytes(self) -> int:
        """Bytes removed, of all kinds."""
        return sum(count.removed_bytes for count in self.counts.values())

    @property
    def removed(self) -> int:
        """Number of removed entries, of all kinds."""
        return sum(count.removed for count in self.counts.values())


class Sizes:
    """Bytes on the disk. A file with several names is kept once, and freed with its last name."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._kept: set[tuple[int, int]] = set()
        self._names: dict[tuple[int, int], int] = {}

    def kept(self, path: Path) -> int:
        """Bytes of a file that stays, or of a folder; call it before `freed`."""
        total = 0
        for stat in _stats(path):
            if (known := (stat.st_dev, stat.st_ino)) not in self._kept:
                self._kept.add(known)
                total += stat.st_blocks * 512
        return total

    def freed(self, path: Path) -> int:
        """Bytes of a file or folder that is removed."""
        total = 0
        for stat in _stats(path):
            known = (stat.st_dev, stat.st_ino)
            names = 1 if S_ISDIR(stat.st_mode) else stat.st_nlink
            self._names[known] = self._names.get(known, names) - 1
            if known not in self._kept and not self._names[known]:
                total += stat.st_blocks * 512
        return total


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Stats of a file, or of a folder and its contents, without following links; unreadable files are left out."""
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                yield Path(root, name).lstat()
    with contextlib.suppress(OSError):
        yield path.lstat()


def prune(store: Path, keep: str, *, dry_run: bool = False, registry: Path | None = None) -> Found:
    """Remove everything that is not alive.

    Args:
        store: the artifact store.
        keep: how long an unused artifact stays, such as 30d.
        dry_run: only report the entries that would be removed.
        registry: its folder; by default in the store.

    Raises:
        UsageError: there is no such store, or `keep` is not a time.
        DataError, UnavailableError: the registry cannot be read, so registered versions are unknown.
    """
    found = Found(keep, dry_run)
    since = time.time() - seconds_of(keep)
    if not store.is_dir():
        raise UsageError(f"--store {store} is not a folder: name the artifact store")
    if registry and not registry.is_dir():
        raise UsageError(f"--registry {registry} is not a folder: name that of the versions, which must stay")
    of_versions = Registry(registry or store / REGISTRY)
    versions = {version.archive for version in of_versions.versions()}
    alone = contextlib.nullcontext() if dry_run else locked(lock_of(store / PASSES), "another clean-up is running")
    with alone:
        homes = _homes(store, found)
        slots = {home: _slots(home, found) for home in homes}
        _keep_used([slot for of_home in slots.values() for slot in of_home], versions, since, keep)
        for home in homes:
            if (cache := home / CACHE).is_dir() and not cache.is_symlink():
                slots[cache] = _keep_used_pieces(_slots(cache, found), slots[home], since, keep)
        sizes = Sizes()
        all_slots = [slot for of_home in slots.values() for slot in of_home]
        for slot in all_slots:
            if slot.reasons:
                _keep(slot, slot.reasons[0], sizes, found)
        for slot in all_slots:
            if not slot.reasons:
                _settle(slot, sizes, found)
        for home in slots:
            _clear_asides(home, sizes, found)
        _sweep(of_versions, len(versions), store / RUNS, found)
        _forget_raw_files(store, found)
    return found


def _homes(store: Path, found: Found) -> list[Path]:
    """Folders that hold artifacts, by their form."""
    homes = []
    for entry in _entries(store, found):
        if not _HOME.fullmatch(entry.name) or entry.name == REGISTRY:
            continue
        if entry.is_symlink():
            found.problems.append(f"{entry.path} is a link, which is not followed: clean up where it leads to")
        elif entry.is_dir(follow_symlinks=False):
            homes.append(Path(entry.path))
    return homes


def _entries(folder: Path, found: Found) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found.problems.append(f"{folder} cannot be read: {error.strerror}: let uid {os.getuid()} use it")
        return []


def _slots(home: Path, found: Found) -> list[Slot]:
    """The entries of a folder, by key."""
    slots: dict[str, Slot] = {}
    failed: list[os.DirEntry[str]] = []

    def put(key: str, entry: os.DirEntry[str], *, used: Path | None = None, part: bool = True) -> Slot:
        slot = slots.setdefault(key, Slot(home, key))
        slot.used = max(slot.used, written(used or Path(entry.path)))
        slot.parts += [Path(entry.path)] if part else []
        return slot

    for entry in _entries(home, found):
        name = _PARTS.fullmatch(entry.name)
        if not name:
            continue
        if name["lock"] and entry.is_file(follow_symlinks=False):
            put(name["lock"], entry, part=False)
        elif entry.is_symlink():
            found.problems.append(f"{entry.path} is a link, which is not followed: remove it")
        elif not entry.is_dir(follow_symlinks=False):
            continue  # not a name of ours
        elif name["failed"]:
            failed.append(entry)
        elif name["key"] and not (manifest := Path(entry.path, MANIFEST)).is_file():
            continue  # not an artifact, so it is not ours
        elif name["key"]:
            put(name["key"], entry, used=manifest).artifact = True
        else:
            put(name["state"] or name["partial"], entry)
    for entry in failed:
        digits = entry.name.removeprefix("failed-")
        put(next((key for key in slots if key.startswith(digits)), digits), entry)
    return list(slots.values())


def _keep_used(slots: list[Slot], versions: set[str], since: float, keep: str) -> None:
    """Give each slot the reasons why it stays."""
    by_place = {(slot.home.name, slot.key): slot for slot in slots}
    for slot in slots:
        held = _is_held(slot.lock)
        if held:
            slot.reasons.append(HELD)
        with contextlib.suppress(OSError):
            asked = slot.lock.stat().st_mtime
            for path in read_by(slot.lock):
                if read := by_place.get((path.parent.name, path.name)):
                    read.used = max(read.used, asked)
                    read.reasons += [READ] if held else []
    pages: dict[str, Slot] = {}
    newest: dict[Path, Slot] = {}
    for slot in sorted((slot for slot in slots if slot.artifact), key=lambda slot: slot.used):
        newest[slot.home] = slot
        if slot.home.name == RUNS:
            pages[_archive_of(slot)] = slot
    for slot in slots:
        if slot.used >= since:
            slot.reasons.append(f"used within {keep}")
        if newest.get(slot.home) is slot:
            slot.reasons.append(NEWEST)
        if slot.home.name == "archive" and slot.key in versions:
            slot.reasons.append(VERSION)
    for key, page in pages.items():
        if key in versions:
            page.reasons.append(LINKED)
    for slot in slots:  # a page links to the archive of its run
        archive = by_place.get(("archive", _archive_of(slot))) if slot.home.name == RUNS and slot.reasons else None
        if archive and not archive.reasons:
            archive.reasons.append("a page links to it")


def _archive_of(page: Slot) -> str:
    """Key of the archive to which the page of a run links."""
    try:
        return str(page.manifest()["inputs"]["archive"]["key"])
    except (KeyError, TypeError):
        return ""


def _keep_used_pieces(pieces: list[Slot], artifacts: list[Slot], since: float, keep: str) -> list[Slot]:
    """Give the pieces of lots the reasons why they stay.

    A piece last used before the oldest living artifact of the stage was begun belongs to no living artifact. A run may
    have read its pieces already and join them later, so the beginning counts.
    """
    living = [_begun(slot) for slot in artifacts if slot.artifact and slot.reasons]
    oldest = min(living, default=since)
    busy = any(HELD in slot.reasons for slot in artifacts)
    for piece in pieces:
        if _is_held(piece.lock):
            piece.reasons.append(HELD)
        elif busy:
            piece.reasons.append(READ)
        if piece.used >= since:
            piece.reasons.append(f"used within {keep}")
        if piece.artifact and piece.used >= oldest:
            piece.reasons.append(PIECE)
    return pieces


def _begun(artifact: Slot) -> float:
    """Beginning of the run that made it, in seconds since the epoch, by the clock of the file system."""
    manifest, path = artifact.manifest(), artifact.home / artifact.key / MANIFEST
    seconds = manifest.get("seconds")
    with contextlib.suppress(OSError):
        return path.stat().st_mtime - (seconds if isinstance(seconds, int | float) else 0) - 2
    return 0.0


def _is_held(lock: Path) -> bool:
    """Whether a run holds a lock."""
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it is absent, or not readable: then nothing is removed that needs it
        return False
    return False


def _keep(slot: Slot, reason: str, sizes: Sizes, found: Found) -> None:
    if not slot.parts:  # a lock alone
        return
    count = found.counts[slot.what]
    count.kept += 1
    count.kept_bytes += sum(map(sizes.kept, slot.parts))
    count.reasons[reason] += 1


def _settle(slot: Slot, sizes: Sizes, found: Found) -> None:
    """Remove a slot without a reason to stay, and count it."""
    size = sum(map(sizes.freed, slot.parts))
    try:
        if not found.dry_run and not _remove(slot):
            return _keep(slot, HELD, sizes, found)
    except OSError as error:
        found.problems.append(_cannot(error, slot.parts[0] if slot.parts else slot.lock))
        return _keep(slot, "cannot be removed", sizes, found)
    if slot.parts:
        found.gone.append((slot.what, slot.key[:12], slot.used, size))
        count = found.counts[slot.what]
        count.removed += 1
        count.removed_bytes += size
    return None


def _cannot(error: OSError, path: Path) -> str:
    """The message for something that cannot be removed."""
    remedy = f"let uid {os.getuid()} do it, or remove it by hand"
    return f"{error.filename or path} cannot be removed ({error.strerror}): {remedy}"


def _remove(slot: Slot) -> bool:
    """Remove the files of a key; False if a run uses it meanwhile.

    Raises:
        OSError: it cannot be removed: it stays as it is, or the next pass removes the rest.
    """
    with _taking(slot) as taken:
        if not taken:
            return False
        for part in slot.parts:
            _require_removable(part)
        aside = [part.rename(part.with_name(f"{_ASIDE}{part.name}.{uuid.uuid4().hex}")) for part in slot.parts]
        slot.lock.unlink(missing_ok=True)  # a waiting run makes a new one
    for part in aside:
        _clear(part)
    return True


def _clear(folder: Path) -> None:
    """Remove a folder. NFS keeps a name of a file that is open on this machine; the next pass removes it.

    Raises:
        OSError: something in it cannot be removed.
    """

    def pass_over(_function: Any, _path: str, raised: tuple[Any, BaseException, Any]) -> None:
        if not (isinstance(raised[1], OSError) and raised[1].errno in {errno.ENOTEMPTY, errno.EBUSY}):
            raise raised[1]

    shutil.rmtree(folder, onerror=pass_over)


@contextlib.contextmanager
def _taking(slot: Slot) -> Iterator[bool]:
    """Hold the lock of a key; False if a run holds it, or has used the key since we listed it."""
    if slot.home.name in {RUNS, PASSES} or len(slot.key) < 64:
        yield True  # entries of this kind are not made or used under a lock
        return
    known = slot.lock.exists()
    with slot.lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        taken = os.fstat(file.fileno()).st_mtime if known else 0.0
        yield max(taken, written(slot.home / slot.key / MANIFEST)) <= slot.used


def _require_removable(folder: Path) -> None:
    """Check that a folder can be removed with all its contents, so that none is removed in part.

    Raises:
        OSError: we may not write to one of its folders.
    """
    for root, _, _ in os.walk(folder):
        if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), root)


def _clear_asides(home: Path, sizes: Sizes, found: Found) -> None:
    """Remove the folders that a killed pass has renamed."""
    for entry in _entries(home, found):
        if not entry.name.startswith(_ASIDE) or not entry.is_dir(follow_symlinks=False):
            continue
        size = sizes.freed(Path(entry.path))
        try:
            if not found.dry_run:
                _clear(Path(entry.path))
        except OSError as error:
            found.problems.append(_cannot(error, Path(entry.path)))
            continue
        count = found.counts["left by a killed clean-up"]
        count.removed += 1
        count.removed_bytes += size


def _sweep(registry: Registry, versions: int, runs: Path, found: Found) -> None:
    """Count the files of the registry, and remove the rest of killed runs and unused pictures of its page."""
    if not versions:
        return
    before = after = Sizes().kept(registry.home)
    if not found.dry_run:
        try:
            with registry.locked():
                registry.sweep()
                write_versions(registry, runs)
        except StageError as error:
            found.problems.append(str(error))
        after = Sizes().kept(registry.home)
    found.counts[REGISTRY] = count = Count(versions, after, removed_bytes=max(0, before - after))
    count.reasons[VERSION] = versions


def _forget_raw_files(store: Path, found: Found) -> None:
    """Drop the known digests of raw files that are gone."""
    if (path := store / DIGESTS).is_file() and not path.is_symlink():
        index = DigestIndex(path)
        kept, gone = index.forget_gone(dry_run=found.dry_run)
        found.counts["raw files known"] = count = Count(kept, path.stat().st_blocks * 512, removed=gone)
        count.reasons |= {"there": kept} if kept else {}
