"""The served version: it is followed in the registry, checked, loaded beside the previous version, and then exchanged.

It is the champion. With `make serve`, where people try their own models, it may also be a newer version that was not
released; `problem` then says so.

A promotion or a rollback is a new tag of the registry. The times of two of its files, read four times a second, show
whether there may be a new tag, so the processes of the service differ only for a moment. If a version cannot be loaded,
the previous one stays, and `problem` says why.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from dulwich.objects import Tag
from dulwich.refs import Ref
from dulwich.repo import Repo

from images.serve.metrics import SERVING
from images.serve.settings import Settings
from stages.common.contract.artifacts import file_digest
from stages.common.contract.errors import DataError, StageError, UnavailableError
from stages.common.contract.logs import log
from stages.common.images.settings import Preprocessing
from stages.common.inference.onnx_model import OnnxModel, load
from stages.common.registry.registry import MODEL, Registry, Version

TAGS = Ref(b"refs/tags")
LOOK_S = 0.25
SETTLED_NS = 100_000_000
"""Tags written within a tick of the file system's clock have the same time: a younger time is not reliable."""


class ReadOnlyRegistry(Registry):
    """The registry, read by dulwich, because git's program would take 100 MB of the image."""

    def _messages(self, pattern: str) -> dict[str, dict[str, Any]]:
        """Tag -> message, in the order of their numbers."""
        if not self.repository.exists():
            return {}
        with Repo(self.repository) as repository:
            tags = {name.decode(): at for name, at in repository.refs.as_dict(TAGS).items()}
            chosen = sorted((name for name in tags if fnmatchcase(name, pattern)), key=_number)
            objects = {name: repository[tags[name]] for name in chosen}
        return {name: json.loads(tag.message) for name, tag in objects.items() if isinstance(tag, Tag)}

    def text(self, version: str, path: str) -> str:
        """A text file of a version."""
        with Repo(self.repository) as repository:
            commit: Any = repository[repository.get_peeled(Ref(TAGS + f"/{version}".encode()))]
            _, at = repository[commit.tree].lookup_path(repository.__getitem__, path.encode())  # type: ignore[attr-defined]
            blob: Any = repository[at]
            return bytes(blob.data).decode()

    def newest(self) -> Version | None:
        """The champion, or the newest version if that was registered after the last release."""
        versions, releases = self.versions(), self.releases()
        if releases and not (versions and versions[-1].created > releases[-1].time):
            return self.version(releases[-1].version)
        return versions[-1] if versions else None

    def changed(self) -> tuple[int, ...]:
        """Time of the last tag, in ns; () if it is too recent to distinguish it from the next one."""
        paths = (self.repository / "refs" / "tags", self.repository / "packed-refs")
        times = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)
        now = time.time_ns()  # a later time is from before the clock was set back
        return () if any(now - SETTLED_NS <= changed <= now for changed in times) else times

    def find_model(self, version: Version) -> Path:
        """The file model.onnx of a version: in the registry's own folder, else in the artifact of stage archive.

        Raises:
            DataError: it is damaged.
            UnavailableError: it is absent, or cannot be read.
        """
        damaged = []
        for path in self._places(version):
            try:
                found = file_digest(path)
            except OSError:
                continue
            if found == version.model_digest or not version.model_digest:
                return path
            damaged.append(f"{path} (SHA-256 expected {version.model_digest[:12]}, found {found[:12]})")
        if damaged:
            raise DataError(f"{MODEL.name} of {version.name} is damaged: {damaged[0]}: promote another version")
        raise UnavailableError(f"{MODEL.name} of {version.name} cannot be read below {self.home}: see that it is there")

    def _places(self, version: Version) -> Iterator[Path]:
        try:
            (folder,) = re.findall(r"md5: (\w+)\.dir", self.text(version.name, f"{MODEL.parent}.dvc"))
            listed = json.loads(self._kept(f"{folder}.dir").read_bytes())
            yield from (self._kept(entry["md5"]) for entry in listed if entry["relpath"] == MODEL.name)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the remote is not a folder, or is damaged
        yield self.home.parent / "archive" / version.archive / MODEL

    def _kept(self, md5: str) -> Path:
        return Path(self.remote, "files", "md5", md5[:2], md5[2:])


def _number(tag: str) -> int:
    return int(re.sub(r"\D", "", tag) or 0)


@dataclass(frozen=True)
class Served:
    """A version that answers.

    Attributes:
        version: its entry in the registry.
        model: the loaded model; it computes in the calling thread.
        preprocessing: its preprocessing, with the limit of params.yaml.
        since: time of its first answer, seconds since the epoch.
    """

    version: Version
    model: OnnxModel
    preprocessing: Preprocessing
    since: float

    @property
    def name(self) -> str:
        """Name of the version, for example "v3"."""
        return self.version.name


class Champion:
    """Follows the registry.

    Attributes:
        served: the current version; a request reads it once, and uses it to its end. None before the first version.
        problem: why it is not the champion; empty if it is.
        name: name of the champion, served or not; "" if no version is released.
    """

    def __init__(self, settings: Settings) -> None:
        """Follow the registry of `settings`; nothing is served before the first `look`."""
        self.registry = ReadOnlyRegistry(settings.registry, settings.remote)
        self.served: Served | None = None
        self.problem = "it is starting"
        self.name = ""
        self._unreleased = settings.unreleased
        self._images = settings.images
        self._seen: tuple[int, ...] | None = None
        self._looking = threading.Lock()

    async def follow(self) -> None:
        """Call `look` again and again, until this is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Load the right version if it differs from the served one."""
        with self._looking:
            remark = error = ""
            try:
                changed = self.registry.changed()
                if changed and changed == self._seen:
                    return
                remark = self._take()
            except StageError as found:
                error = str(found)
            except Exception as found:  # git's files may be damaged in any way, or unreadable
                error = f"{self.registry.home} cannot be read: {str(found) or type(found).__name__}"
            if error and self.served:
                wanted = "newest version" if self._unreleased else "champion"
                error = f"{self.served.name} is still served, not the {wanted}: {error}"
            if error and error != self.problem:
                log.warning("%s", error)
            self.problem = error or remark
            self._seen = None if error else changed

    def _take(self) -> str:
        """Serve the right version, and return why it is not the champion, "" if it is."""
        champion = self.registry.champion()
        self.name = champion.name if champion else ""
        version = self.registry.newest() if self._unreleased else champion
        if version is None:
            raise UnavailableError(self._none())
        remark = "" if version.name == self.name else f"{version.name}, not released: {version.gate_verdict}"
        if self.served and (self.served.name, self.served.version.model_digest) == (version.name, version.model_digest):
            return remark
        model = load(self.registry.find_model(version), threads=1)
        preprocessing = limited(model.preprocessing, self._images.max_megapixels)
        model.predict_and_embed(
            np.zeros((1, model.image_size, model.image_size, 3), np.uint8)
        )  # or the first one waits
        if self.served:
            SERVING.labels(self.served.name).set(0)
        SERVING.labels(version.name).set(1)
        self.served = Served(version, model, preprocessing, time.time())
        if remark:
            log.warning("%s", remark)
        log.info("%s answers from now on", version.name)
        return remark

    def _none(self) -> str:
        if self._unreleased:
            return f"there is no version in {self.registry.home} yet: run the pipeline (make run ENGINE=none)"
        return f"no version is released in {self.registry.home} yet: run the pipeline until a model passes the gate"


def limited(preprocessing: Preprocessing, max_megapixels: float) -> Preprocessing:
    """The preprocessing of training, with our own limit on pictures, which a model must not raise."""
    return preprocessing.model_copy(update={"max_megapixels": min(preprocessing.max_megapixels, max_megapixels)})
