"""The registry: every version of the model as a commit and tag of a git repository with DVC; releases are tags, too.

    <registry>/git/     bare repository: `git clone` it, then `dvc pull`, `dvc metrics diff v3 v4` and the like
    <registry>/remote/  DVC's storage, unless another remote is named

Tags `v1`, `v2`, ... are the versions, in the order of their registration. Tags `champion-0001`, ... are the releases:
the newest one points to the champion. Messages of both kinds of tags are JSON objects. Nothing is ever moved or
overwritten: a version appears by one atomic push, after DVC has stored its files, and a release by one new tag. So a
kill at any moment leaves the registry as it was, and a rerun completes the work. Whatever is reported as done is on the
disk: DVC's files before the push, and all files of git at its end.

A model is known by its bytes: the digest of its model.onnx is part of its version, and whoever fetches it compares.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from stages.common.contract.artifacts import copy_folder, file_digest, locked
from stages.common.contract.errors import DataError, UnavailableError, UsageError
from stages.common.contract.logs import log
from stages.common.contract.params import NOT_IN_KEY, Section

_SCHEMES = ("s3", "gs", "azure", "gdrive", "oss", "hdfs", "webhdfs", "ssh", "http", "https", "webdav", "webdavs")
"""Schemes of remotes that DVC supports."""


def _known_remote(remote: str) -> str:
    """Refuse a text that DVC or git could read as an option, as a command, or as several settings."""
    scheme, _, rest = remote.partition("://")
    place = rest if scheme in _SCHEMES else remote if remote.startswith("/") else ""
    harmless = remote.isprintable() and not set(remote) & set("#,'\"") and not place.startswith("-")
    if remote and not (place and harmless and ".." not in place.split("/")):
        raise ValueError(
            "expected an absolute folder such as /models, or a URL such as s3://bucket/models of one of "
            f"{', '.join(_SCHEMES)}, without '..', quotes, commas and #"
        )
    return remote


class RegistrySection(Section):
    """Section `registry`.

    Attributes:
        remote: URL of the DVC remote for versions, or an absolute folder; "" for a folder in the registry.
    """

    remote: Annotated[str, NOT_IN_KEY, AfterValidator(_known_remote)]


DVC_FOLDERS = ("model", "plots", "reference", "report")
"""Folders of a version that DVC keeps; all else is text, which git keeps."""

MODEL = Path("model", "model.onnx")
"""The file of a version that is its model."""

PAGE = Path("page", "versions.html")
"""The page of all versions, below the registry; stage archive writes it."""

LINEAGE = "lineage.json"
"""The file of a version with its inputs and its cost."""

_GIT_CONFIG = Path(__file__).with_name("registry.gitconfig")
_LOOSE_OBJECTS = 500
"""Loose objects of git, some 70 a version: if there are more, git packs them into one file."""
_LITTLE = 2**24
"""Bytes: if less is free, a failure was probably caused by that."""


@dataclass(frozen=True)
class Version:
    """One version of the model.

    Attributes:
        name: for example "v3".
        model_digest: SHA-256 of its model.onnx, which identifies the model, so the same model is registered once. ""
            for versions of earlier code, which used the key of the train artifact; such a version equals no candidate.
        archive: key of its archive artifact.
        mean_accuracy: on its test split.
        mean_balanced_accuracy: likewise; None if earlier code has registered it, or if no attribute has one.
        metric: of the gate, `evaluate.metric`.
        champion: the version that it was compared with, "" if there was none.
        best: the best released version after the release of this version; later versions are compared with it as well.
            It is this version, or an earlier version if this one is not significantly better.
        fit: whether it has passed the release gate.
        reasons: the gate's reasons.
        lots: the lots on which it was trained or measured.
        created: UTC, ISO 8601.
    """

    name: str
    model_digest: str
    archive: str
    mean_accuracy: float
    champion: str
    best: str
    fit: bool
    reasons: Sequence[str]
    lots: Sequence[str]
    created: str
    mean_balanced_accuracy: float | None = None
    metric: str = "accuracy"

    @property
    def means(self) -> str:
        """Its accuracy on its test split, in a few words."""
        balanced = self.mean_balanced_accuracy
        told = f"mean accuracy {self.mean_accuracy:.4f}"
        return told if balanced is None else f"{told}, balanced {balanced:.4f}"

    @property
    def gate_verdict(self) -> str:
        """The verdict of the release gate, in a line."""
        return f"{'fit' if self.fit else 'not fit'}: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Release:
    """A release: a version became the champion.

    Attributes:
        version: its name.
        action: promote, or rollback to the champion before.
        reason: reason, for people.
        time: UTC, ISO 8601.
        by: the person who decided; "" for the release gate, and in releases of earlier code.
        run: the run of Airflow in which a person decided; "" for any other release.
    """

    version: str
    action: Literal["promote", "rollback"]
    reason: str
    time: str
    by: str = ""
    run: str = ""

    @property
    def done(self) -> str:
        """The action, and the person who decided, if any."""
        return f"{self.action} by {self.by}" if self.by else self.action

    @property
    def told(self) -> str:
        """The same, and why, in a line."""
        return f"{self.done}: {self.reason}"


def _done(releases: Sequence[Release], run: str) -> Release | None:
    """The release that a run has made already."""
    return next((release for release in releases if run and release.run == run), None)


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Registry:
    """Versions and releases in a folder, which may be empty or absent."""

    def __init__(self, home: Path, remote: str = "") -> None:
        """Open a registry.

        Args:
            home: its folder.
            remote: URL of the DVC remote for new versions; "" for a folder in the registry.
        """
        self.home = home.absolute()  # git and DVC work in folders of their own
        self.repository = self.home / "git"
        self.remote = remote or str(self.home / "remote")

    # ---- read ----

    def versions(self) -> list[Version]:
        """All versions, the oldest first."""
        known = [field.name for field in fields(Version)]
        return [
            # defaults for keys that earlier code did not write
            Version(**{"model_digest": "", "best": tag} | {name: told[name] for name in known if name in told})
            for tag, told in self._messages("v[0-9]*").items()
        ]

    def version(self, name: str) -> Version:
        """A version by its name.

        Raises:
            UsageError: there is no version of that name.
        """
        versions = self.versions()
        for version in versions:
            if version.name == name:
                return version
        names = " to ".join(dict.fromkeys((versions[0].name, versions[-1].name))) if versions else "none yet"
        raise UsageError(f"no version {name} in {self.home}, which has {names}")

    def find(self, model_digest: str) -> Version | None:
        """The version of a model, by the digest of its model.onnx."""
        return next((version for version in self.versions() if version.model_digest == model_digest), None)

    def releases(self) -> list[Release]:
        """Every release, the oldest first."""
        return [Release(**message) for message in self._messages("champion-[0-9]*").values()]

    def champion(self) -> Version | None:
        """The version of the last release."""
        releases = self.releases()
        return self.version(releases[-1].version) if releases else None

    def text(self, version: str, path: str) -> str:
        """A text file of a version, for example `LINEAGE`."""
        return self._git("show", f"{version}:{path}")

    def texts(self, path: str) -> dict[str, str]:
        """A text file of all versions that have it: name of the version -> its text, which must be ASCII."""
        names = list(self._messages("v[0-9]*"))
        asked = "".join(f"{name}:{path}\n" for name in names)
        told = self._git("cat-file", "--batch=%(objecttype) %(objectsize)", stdin=asked) if names else ""
        found, at = {}, 0
        for name in names:
            end = told.index("\n", at)
            kind, size = told[at:end].rsplit(" ", 1)
            at = end + 1
            if kind == "blob":
                found[name] = told[at : at + int(size)]
                at += int(size) + 1
        return found

    # ---- change ----

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the registry: nobody else changes it."""
        with locked(self.home / ".lock", "another run or `archive promote` is changing the registry"):
            # git's own locks, too: nobody else writes here
            for left in (*self.home.glob(".adding-*"), *self.repository.rglob("*.lock")):
                log.info("removing what a killed run left behind: %s", left)
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
            yield

    def register(self, content: Path, version: Version) -> None:
        """Add a version, while the registry is locked.

        Args:
            content: its files: `DVC_FOLDERS` go to DVC, all else to git.
            version: its description; its name must be the next one, see `next_name`.

        Raises:
            UnavailableError: git or DVC failed, for example because the remote cannot be reached.
        """
        self._create()
        with self._clone() as clone:
            for path in clone.iterdir():
                if path.name != ".git":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            copy_folder(content, clone)
            self._configure_dvc(clone)
            folders = [name for name in DVC_FOLDERS if (clone / name).is_dir()]
            _dvc(clone, "add", *folders)
            _dvc(clone, "push")
            if self.remote.startswith("/"):
                sync_file_system(Path(self.remote))
            self._git("add", "--all", inside=clone)
            title = f"{version.name}: {version.means}"
            self._git("commit", "--quiet", "--message", title, inside=clone)
            self._tag(version.name, "HEAD", asdict(version), inside=clone)
            self._git("push", "--quiet", "--atomic", "origin", "HEAD:main", version.name, inside=clone)
        sync_file_system(self.repository)
        try:
            self._git("-c", f"gc.auto={_LOOSE_OBJECTS}", "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet")
        except UnavailableError as error:  # the version is there all the same
            log.warning("%s; the next version tries it again", error)

    @contextlib.contextmanager
    def _clone(self) -> Iterator[Path]:
        """A clone in the registry, for a while."""
        clone = self.home / f".adding-{uuid.uuid4().hex}"
        try:
            self._git("clone", "--quiet", "--no-hardlinks", str(self.repository), str(clone), inside=self.home)
            yield clone
        finally:
            shutil.rmtree(clone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove files of no version from DVC's storage, which killed runs had pushed, while the registry is locked.

        Only for storage in the registry: another remote may be shared. DVC removes nothing if a version is not whole.

        Raises:
            UnavailableError: git or DVC failed, for example because a version is not whole.
        """
        if Path(self.remote).is_dir() and Path(self.remote).parent == self.home and self.versions():
            with self._clone() as clone:
                self._configure_dvc(clone)
                _dvc(clone, "gc", "--all-tags", "--cloud", "--force")

    def next_name(self) -> str:
        """The name of the next version."""
        versions = self.versions()
        return f"v{int(versions[-1].name[1:]) + 1 if versions else 1}"

    def promote(self, name: str, reason: str, by: str = "", run: str = "", against: str = "") -> Release:
        """Make a version the champion, while the registry is locked; if it is already, nothing happens.

        Args:
            name: of the version.
            reason: as in `Release`, like `by` and `run`.
            by: the person who decided.
            run: the run of that decision; a release that it has made already is not made again.
            against: the champion at the decision, "none" if there was none; "" for any champion.

        Raises:
            UsageError: there is no such version, or the champion is not `against`.
        """
        version, releases = self.version(name), self.releases()
        if done := _done(releases, run):
            return done
        champion = releases[-1].version if releases else "none"
        if against not in {"", champion}:
            raise UsageError(
                f"the champion changed from {against} to {champion} after {name} was compared with it: inspect both, "
                f"then promote {name} if you still want to"
            )
        if champion == version.name:
            return releases[-1]
        return self._release(Release(version.name, "promote", reason, now(), by, run))

    def rollback(self, reason: str, by: str = "", run: str = "") -> Release:
        """Make the previous champion the champion again, while the registry is locked.

        Done twice, it goes back two steps: a promotion adds a step, and a rollback removes one. A `run` that is tried
        again goes back once.

        Raises:
            UsageError: there was no champion before.
        """
        past: list[str] = []
        releases = self.releases()
        if done := _done(releases, run):
            return done
        for release in releases:
            if release.action == "rollback":
                past.pop()
            else:
                past.append(release.version)
        if len(past) < 2:
            raise UsageError(f"nothing to go back to in {self.home}: there is no previous champion")
        return self._release(Release(past[-2], "rollback", reason or f"from {past[-1]}", now(), by, run))

    def _release(self, release: Release) -> Release:
        *_, last = ["champion-0", *self._messages("champion-[0-9]*")]
        tag = f"champion-{int(last.removeprefix('champion-')) + 1:04}"
        self._tag(tag, f"{release.version}^{{}}", asdict(release))
        sync_file_system(self.repository)
        return release

    def _tag(self, name: str, commit: str, message: Mapping[str, Any], inside: Path | None = None) -> None:
        # through stdin, for thousands of lots are longer than an argument may be
        command = ("tag", "--annotate", name, commit, "--file=-")
        _output(["git", *command], inside or self.repository, json.dumps(message))

    # ---- fetch ----

    def fetch(self, version: str, out: Path, folders: Sequence[str] = DVC_FOLDERS) -> None:
        """Write the files of a version to `out`; of the files in DVC, only those in `folders`.

        Raises:
            DataError: a file is damaged.
            UnavailableError: git or DVC failed, for example because the remote has lost a file.
        """
        out = out.absolute()
        shutil.rmtree(out, ignore_errors=True)
        # not by copying files: another run may pack some of them meanwhile
        self._git("clone", "--quiet", "--no-local", "--depth=1", "--branch", version, str(self.repository), str(out),
                  inside=out.parent)  # fmt: skip
        self._configure_dvc(out)
        self._pull(out, version, [f"{name}.dvc" for name in folders if (out / f"{name}.dvc").exists()])
        expected = self.version(version).model_digest
        if (out / MODEL).exists() and expected and file_digest(out / MODEL) != expected:
            raise DataError(
                f"{MODEL} of {version} is not the file that was registered (SHA-256 expected {expected[:12]}, found "
                f"{file_digest(out / MODEL)[:12]}): promote another version, or train again"
            )
        for name in (".git", ".dvc"):
            shutil.rmtree(out / name)
        for path in (*out.glob("*.dvc"), out / ".gitignore", out / ".dvcignore"):
            path.unlink(missing_ok=True)

    def _pull(self, clone: Path, version: str, files: Sequence[str]) -> None:
        try:
            _dvc(clone, "pull", *files)
        except UnavailableError:
            damaged = self._damaged(clone, files)
            if not damaged:
                raise
            raise DataError(
                f"{self.remote.rstrip('/')}/{damaged} of {version} is damaged: put back a whole copy, from a backup "
                "or with `dvc push` in a clone that has pulled it (remove the damaged one first), or promote another "
                "version"
            ) from None

    def _damaged(self, clone: Path, files: Sequence[str]) -> str:
        """The object of the remote that differs from its digest, if DVC could not pull these files; "" if none does."""
        for file in files:  # the lists of a folder's files, which DVC uses before it checks them
            (md5,) = re.findall(r"md5: (\w+)\.dir", (clone / file).read_text(encoding="utf-8"))
            listed = Path("files", "md5", md5[:2], f"{md5[2:]}.dir")
            path = Path(self.remote, listed)
            if path.is_file() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
                return str(listed)
        # DVC drops a file that differs from its digest, and names it only in its most verbose log
        told = _run([sys.executable, "-m", "dvc", "pull", "--verbose", *files], clone, "")
        dropped = re.search(r"corrupted cache file '.*/(files/.*)'", told.stdout + told.stderr)
        return dropped[1] if dropped else ""

    # ---- git and DVC ----

    def _create(self) -> None:
        if self.repository.exists():
            return
        partial = self.home / ".partial-git"
        shutil.rmtree(partial, ignore_errors=True)
        self._git("init", "--quiet", "--bare", str(partial), inside=self.home)
        partial.rename(self.repository)

    def _configure_dvc(self, clone: Path) -> None:
        """Set the remote of DVC; it is committed with a version, so that `dvc pull` works in every clone."""
        (clone / ".dvc").mkdir(exist_ok=True)
        settings = (
            "[core]\n    remote = storage\n    analytics = false\n    autostage = false\n    check_update = false\n"
        )
        remote = f"['remote \"storage\"']\n    url = {self.remote}\n    verify = true\n"
        (clone / ".dvc" / "config").write_text(settings + remote)
        (clone / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")

    def _messages(self, pattern: str) -> dict[str, dict[str, Any]]:
        """Tag -> message, in the order of their numbers."""
        if not self.repository.exists():
            return {}
        form = "%(refname:strip=2) %(contents:subject)"
        tags = self._git("for-each-ref", f"refs/tags/{pattern}", "--sort=version:refname", f"--format={form}")
        try:
            return {tag: dict(json.loads(text)) for tag, _, text in (line.partition(" ") for line in tags.splitlines())}
        except ValueError as error:
            raise DataError(
                f"{self.repository} has a tag {pattern} that is not ours ({error}): remove it with `git tag --delete`"
            ) from error

    def _git(self, *arguments: str, inside: Path | None = None, stdin: str = "") -> str:
        return _output(["git", *arguments], inside or self.repository, stdin)


def sync_file_system(folder: Path) -> None:
    """Write everything that is in memory for the file system of `folder` to its disk: syncfs(2)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)


def _dvc(folder: Path, *arguments: str) -> None:
    _output([sys.executable, "-m", "dvc", *arguments], folder)  # not --quiet, which leaves out the error itself


def _output(command: Sequence[str], folder: Path, stdin: str = "") -> str:
    """Standard output of a command with this standard input.

    Raises:
        UnavailableError: it failed; the message has the line with the cause.
    """
    done = _run(command, folder, stdin)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        kinds = ("fatal:", "error:", "ERROR:")
        at = next((number for number, line in enumerate(lines) if line.startswith(kinds)), len(lines) - 1)
        # after a colon at the end of a line, DVC continues on the next lines
        meant = lines[at + 1 : at + 2] if lines[at].endswith(":") else []
        said = " ".join([lines[at].removeprefix("ERROR: "), *map(str.strip, meant)])
        told = command if command[0] == "git" else command[2:]
        what = " ".join(word for word in told if not word.startswith("-"))[:120]
        raise UnavailableError(f"{what} failed: {said}{_space_left(folder)}")
    return done.stdout


def _run(command: Sequence[str], folder: Path, stdin: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, env=_environment(), input=stdin, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise UnavailableError(f"{error.filename} is not there: install it") from error


def _space_left(folder: Path) -> str:
    """A remark if the file system of `folder` is full or nearly full, which git and DVC do not always report."""
    found = os.statvfs(folder)
    free, files = found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None
    if free >= _LITTLE and files != 0:
        return ""
    left = f"{free // 1024} kB are free" if files != 0 else "no inode is free"
    return f" ({left} in {folder}: free space there)"


def _environment() -> Mapping[str, str]:
    """An environment without git's and DVC's files outside the registry: hooks of a caller, settings, a site cache.

    git's settings are in a file, because settings on the command line do not reach the other side of a clone or push.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_"))}
    site = {"DVC_SITE_CACHE_DIR": "/tmp/dvc", "DVC_NO_ANALYTICS": "1"}  # noqa: S108 (of the container)
    config = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(_GIT_CONFIG), "GIT_TERMINAL_PROMPT": "0"}
    return kept | site | config
