"""Artifacts: directories with a manifest and a content-addressed key, published whole or not at all.

An artifact is `<store>/<stage>/<key>/` (or any directory given as `--out`) plus `manifest.json`, which lists every
file with size and SHA-256, the inputs by key, and the parameters: the chain of manifests leads back to the raw files.
"""

import contextlib
import copy
import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NoReturn

from stages.common.contract.digest_index import DigestIndex
from stages.common.contract.errors import DataError, StageError, TryAgainError
from stages.common.contract.logs import INTERVAL_S, log

MANIFEST = "manifest.json"
BRIEF_S = 0.05
"""Seconds until the first new try to get a lock: a clean-up holds it for no longer."""


def json_digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON-like value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON to `path` so that a reader sees the old content or the new, never half of it."""
    # Not the process id: containers that share a volume have process ids of their own, which are often the same.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def artifact_key(told: Mapping[str, Any]) -> str:
    """The key of an artifact: SHA-256 (64 hex digits) over all that decides its content.

    Args:
        told: as in its manifest: `stage`; `version`, its `stage_version`; `params`; `not_in_key`, the names of
            parameters that change no result; `inputs`, name -> `{"content": ...}` of an artifact or `{"digest": ...}`
            of raw files.
    """
    params = copy.deepcopy(told["params"])
    for name in told["not_in_key"]:
        *sections, last = name.split(".")
        del reduce(getitem, sections, params)[last]
    digests = {name: value.get("content") or value["digest"] for name, value in told["inputs"].items()}
    return json_digest({"stage": told["stage"], "version": told["version"], "params": params, "inputs": digests})


def refuse(error: OSError) -> NoReturn:
    """Tell `os.walk` to raise: files in a folder that cannot be read must not vanish in silence."""
    raise error


def walk_files(folder: Path) -> list[Path]:
    """Regular files below `folder`, relative to it and sorted. Links, FIFOs and hidden files are left out.

    Raises:
        OSError: a folder cannot be read.
    """
    found = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(root, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                found.append(path.relative_to(folder))
    return sorted(found)


def files_digest(folder: Path, files: Iterable[str | Path], index: DigestIndex) -> str:
    """SHA-256 (64 hex digits) over names, contents and order of `files`, which are relative to `folder`."""
    names = list(dict.fromkeys(files))
    digest = hashlib.sha256()
    for name, content in zip(names, index.digests(f"{folder}/{os.fspath(name)}" for name in names), strict=True):
        digest.update(os.fsencode(name) + b"\0" + content.encode() + b"\n")
    return digest.hexdigest()


def list_files(folder: Path) -> list[dict[str, Any]]:
    """Path, size in bytes and SHA-256 of every file of an artifact but its manifest."""
    return [
        {
            "path": path.as_posix(),
            "size": (folder / path).stat().st_size,
            "sha256": file_digest(folder / path),
        }
        for path in walk_files(folder)
        if path.as_posix() != MANIFEST
    ]


def content_digest(files: Iterable[Mapping[str, Any]], content: Collection[str]) -> str:
    """SHA-256 (64 hex digits) over paths and digests of the files of an artifact that later stages read.

    Args:
        files: `list_files` of the artifact.
        content: files and folders in it; none means all of it.
    """
    read = [
        [file["path"], file["sha256"]]
        for file in files
        if not content or any(file["path"] == name or file["path"].startswith(f"{name}/") for name in content)
    ]
    return json_digest(sorted(read))


def write_manifest(
    folder: Path, *, stage: str, key: str, content: Collection[str] = (), **known: Any
) -> dict[str, Any]:
    """Write the manifest of a folder that holds all its other files, and return it.

    Args:
        folder: of an artifact, or of a piece of one.
        stage: that made it.
        key: its key.
        content: as in `content_digest`.
        known: further keys of the manifest, JSON-like.
    """
    files = list_files(folder)
    told = {"stage": stage, "key": key, **known, "content": content_digest(files, content), "files": files}
    manifest: dict[str, Any] = json.loads(json.dumps(told))  # as it will be read
    manifest["digest"] = json_digest(manifest)
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(artifact: Path) -> dict[str, Any]:
    """The manifest of a whole artifact, as `write_manifest` has written it.

    Raises:
        DataError: there is no manifest; or the manifest or a file is cut short, or differs from its digest; or a file
            is missing; or the key does not belong to the parameters and inputs in the manifest.
    """
    try:
        manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
        digest = manifest.pop("digest", "none")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{artifact} is not a finished artifact (no readable {MANIFEST}): run the stage that makes it"
        ) from error
    if (found := json_digest(manifest)) != digest:
        raise DataError(
            f"{artifact / MANIFEST} is damaged, or of an earlier version (digest expected {str(digest)[:12]}, found "
            f"{found[:12]}): remove {artifact} and run the stage that makes it again"
        )
    if "not_in_key" in manifest and (found := artifact_key(manifest)) != manifest["key"]:
        raise DataError(
            f"{artifact / MANIFEST} was changed after it was written (its parameters and inputs have the key "
            f"{found[:12]}, it says {manifest['key'][:12]}): remove {artifact} and run stage {manifest['stage']} again"
        )
    for entry in manifest["files"]:
        path = artifact / entry["path"]
        try:
            found = file_digest(path) if path.stat().st_size == entry["size"] else "another size"
        except OSError:
            found = "no such file"
        if found != entry["sha256"]:
            raise DataError(
                f"{path} is damaged (digest expected {entry['sha256'][:12]}, found {found[:12]}): "
                f"remove {artifact} and run stage {manifest['stage']} again"
            )
    return dict(manifest)


def used_and_given(manifests: Mapping[str, Mapping[str, Any]], stage: str, source: str) -> tuple[str, str] | None:
    """Two contents (first digits): that from which an artifact was made, and that which is given; None if equal.

    Args:
        manifests: stage -> manifest of the artifact that is given.
        stage: of the artifact that was made from another artifact.
        source: the stage that made that other artifact.
    """
    used, given = manifests[stage]["inputs"][source]["content"], manifests[source]["content"]
    return None if used == given else (used[:12], given[:12])


@contextlib.contextmanager
def reading(path: Path, stage: str = "") -> Iterator[None]:
    """Name the stage to run again where a file cannot be read or has another form than that stage writes.

    Args:
        path: a file of an artifact.
        stage: that writes it; "" if several do.

    Raises:
        DataError: reading failed.
    """
    try:
        yield
    except (StageError, MemoryError):
        raise
    except Exception as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        cause = f"no {said}" if isinstance(error, KeyError) else " ".join(str(said or type(error).__name__).split())
        again = f"run stage {stage} again" if stage else "run the stage that makes it again"
        raise DataError(f"cannot read {path} ({cause}): {again}") from error


def read_json(path: Path, stage: str = "") -> Any:
    """The content of a JSON file of an artifact; arguments and errors as of `reading`."""
    with reading(path, stage):
        return json.loads(path.read_text(encoding="utf-8"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories in one step: renameat2(2) with RENAME_EXCHANGE (2); -100 is AT_FDCWD."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one))


@contextlib.contextmanager
def making(final: Path, lock: "Lock | None" = None) -> Iterator[Path]:
    """An empty folder beside `final` in which to make it; the folder is removed at the end.

    Every attempt has a folder of its own: an attempt that pauses may lose its lock to another, and both must not write
    to the same files. The holder of `lock` removes the folders of earlier attempts: these died, or lost the lock and
    can no longer publish.
    """
    for earlier in final.parent.glob(f".partial-{glob.escape(final.name)}.*") if lock else ():
        shutil.rmtree(earlier, ignore_errors=True)
    partial = final.with_name(f".partial-{final.name}.{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, final: Path, lock: "Lock | None" = None) -> None:
    """Make the finished directory `partial` appear as `final`: all of it or nothing, also when killed at any moment.

    An earlier artifact at `final` is replaced in one step. On a file system without such a step (NFS) it takes two:
    a kill between them leaves no artifact, and the next run makes it again.

    Raises:
        TryAgainError: `lock` is no longer held; nothing was published.
    """
    for root, folders, files in os.walk(partial):
        for name in [*files, *folders]:
            _sync(Path(root, name))
    _sync(partial)
    if lock:
        lock.require_held()
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        try:
            _exchange(partial, final)
        except OSError as cannot:
            if cannot.errno not in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
                raise
            old = final.with_name(f".partial-{final.name}.{uuid.uuid4().hex}")
            final.rename(old)
            partial.rename(final)
            partial = old
        shutil.rmtree(partial, ignore_errors=True)  # NFS keeps a name of an open file; a later run removes it
    _sync(final.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give an artifact its own name for a cached file: a hard link, which costs no space, or else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a folder, like `walk_files`, into another folder, which may exist.

    `shutil.copytree` joins all errors into one without the number of the cause, so a full disk would not be reported.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in walk_files(source):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / path)


@dataclass(frozen=True)
class Lock:
    """An exclusive lock on a file, held from `locked` on.

    Attributes:
        path: of the file.
        descriptor: of the open file.
    """

    path: Path
    descriptor: int

    def is_held(self) -> bool:
        """Whether it is still held: the file is the same, and no other process has the lock (NFS may lose a lease)."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except OSError:
            return False

    def require_held(self) -> None:
        """Refuse to go on without the lock.

        Raises:
            TryAgainError: the lock was lost, so another process may do the same work.
        """
        if not self.is_held():
            raise TryAgainError(f"the lock {self.path} was lost, and another run may have taken over: try again")


@contextlib.contextmanager
def locked(
    path: Path, other: str = "another run is computing the same artifact", reads: Iterable[Path] = ()
) -> Iterator[Lock]:
    """Hold an exclusive lock on `path`; the kernel frees it when the holder dies, however it dies.

    On NFS from version 4 on, it holds among machines; when a machine dies, the server frees its locks after their lease
    (90 s). The file stays. Its time says when the lock was last taken, and its content what the holder read
    (`read_by`).

    Args:
        path: the file to lock, made where it is missing.
        other: the other possible holder, for the log of a run that waits.
        reads: artifacts that must stay while it is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pause = BRIEF_S
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if pause in (BRIEF_S, INTERVAL_S):
                    log.info("%s: waiting for it (%s)", other, path)
                time.sleep(pause)
                pause = min(2 * pause, INTERVAL_S)
                continue
            lock = Lock(path, file.fileno())
            if lock.is_held():  # else the file was removed before we locked it, and others lock a new file
                with contextlib.suppress(OSError):  # what is there already is delivered from a full disk, too
                    os.truncate(file.fileno(), 0)
                    os.utime(file.fileno())
                    os.write(file.fileno(), "".join(f"{path.absolute()}\n" for path in reads).encode())
                    os.fsync(file.fileno())  # else NFS keeps it here until the lock is free, and no clean-up sees it
                yield lock
                return


def lock_of(place: Path) -> Path:
    """The lock of an artifact, a cached lot or a file: a hidden file beside it, written whenever the lock is taken."""
    return place.with_name(f".lock-{place.name}")


def written(path: Path) -> float:
    """When a file was written, in seconds since the epoch; 0 if it is not there."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def read_by(lock: Path) -> list[Path]:
    """The artifacts that the last holder of a lock has named."""
    return [Path(line) for line in lock.read_text(encoding="utf-8", errors="replace").splitlines()]


def remove_leftovers(folder: Path) -> None:
    """Remove half-made directories of killed runs: those `.partial-*` whose lock nobody holds."""
    for partial in folder.glob(".partial-*"):
        name = partial.name.removeprefix(".partial-")
        lock = lock_of(folder / (name.rpartition(".")[0] or name))
        if not lock.exists():
            continue  # not ours
        with lock.open("a") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.info("removing what a killed run left behind: %s", partial)
            shutil.rmtree(partial, ignore_errors=True)
