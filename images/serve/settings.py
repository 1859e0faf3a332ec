"""Settings of the service, read from its environment at the start, and the limits of requests."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict

from stages.common.contract.cpus import available_cpus
from stages.common.contract.data_folder import own_params
from stages.common.contract.errors import UsageError
from stages.common.contract.params import Section, load_params
from stages.common.images.settings import ImagesSection
from stages.common.registry.registry import RegistrySection

Number = TypeVar("Number", int, float)
ROOT = Path(__file__).resolve().parents[2]
MOST_WORKERS = 4
"""Default number of processes; docker-compose.yml has memory for them."""


@dataclass(frozen=True)
class Limits:
    """Limits; variables such as SERVE_BODY_BYTES change them. Several processes divide the limits of all requests.

    Attributes:
        body_bytes: of a request.
        held_bytes: of all requests that are being read or answered.
        body_s: seconds for a client to send its body.
        head_bytes: of the head of a request.
        head_s: seconds for a client to send the head.
        request_s: seconds until a request without an answer is given up.
        images: in a request.
        waiting: images that wait for their answer.
        connections: at a time.
    """

    body_bytes: int = 32 * 1024**2
    held_bytes: int = 256 * 1024**2
    body_s: float = 30.0
    head_bytes: int = 64 * 1024
    head_s: float = 10.0
    request_s: float = 120.0
    images: int = 64
    waiting: int = 512
    connections: int = 4096

    def divided(self, workers: int) -> "Limits":
        """The limits of one of so many processes, which still accepts the largest possible request.

        The kernel distributes connections by chance, so a process may get more than its part. Of 1,000 connections,
        each of four processes gets 250, plus or minus 14, and may accept 1,024.
        """
        if workers == 1:
            return self

        def part(whole: int, least: int) -> int:
            return max(least, -(-whole // workers))

        return replace(
            self,
            held_bytes=part(self.held_bytes, self.body_bytes),
            waiting=part(self.waiting, self.images),
            connections=part(self.connections, 1),
        )


@dataclass(frozen=True)
class Settings:
    """Settings of the service.

    Attributes:
        artifacts: folder of the artifact store, or of the artifacts of `dvc repro`.
        registry: folder of the registry.
        raw: folder of the raw images.
        index: writable folder for the index of the search; nothing else is written anywhere.
        token: token that requests need; "" for none: then only requests from this machine are answered.
        images: section `images` of params.yaml.
        remote: where the registry keeps its files, key `registry.remote`; "" for a folder in the registry.
        limits: of one process.
        host: address to listen at.
        port: port to listen at.
        workers: number of processes.
        unreleased: whether to serve a version that was not released, if it is newer than the last release.
    """

    artifacts: Path
    registry: Path
    raw: Path
    index: Path
    token: str
    images: ImagesSection
    remote: str
    limits: Limits
    host: str
    port: int
    workers: int
    unreleased: bool


class _Input(Section):
    """Section `input`: folders of `dvc repro`, which are the defaults."""

    model_config = ConfigDict(extra="ignore")

    raw: str
    kept: str


class _Params(Section):
    input: _Input
    images: ImagesSection
    registry: RegistrySection


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings, from variables SERVE_*.

    Raises:
        UsageError: a variable or params.yaml is invalid.
    """
    recipe = environment.get("SERVE_RECIPE", "none")
    recipes = [] if recipe in {"", "none"} else [ROOT / f"params-{recipe}.yaml"]
    data = environment.get("SERVE_DATA")  # folder of the data, which may have parameters
    own = own_params(Path(data)) if data else None
    params = load_params(_Params, ROOT / "params.yaml", recipes=recipes, own=own)

    def folder(name: str, usual: Path | str) -> Path:
        return ROOT / (environment.get(name) or usual)

    artifacts = folder("SERVE_ARTIFACTS", "artifacts")
    kept = artifacts if "SERVE_ARTIFACTS" in environment else ROOT / params.input.kept
    workers = _positive(environment, "SERVE_WORKERS", min(available_cpus(), MOST_WORKERS))
    return Settings(
        artifacts=artifacts,
        registry=kept / "registry",
        raw=folder("SERVE_RAW", params.input.raw),
        index=folder("SERVE_INDEX", ".cache/search"),
        token=_token(environment),
        images=params.images,
        remote=params.registry.remote,
        limits=_limits(environment).divided(workers),
        host=environment.get("SERVE_HOST", "127.0.0.1"),
        port=_positive(environment, "SERVE_PORT", 8090),
        workers=workers,
        unreleased=_yes(environment, "SERVE_UNRELEASED"),
    )


def _yes(environment: Mapping[str, str], name: str) -> bool:
    found = environment.get(name, "")
    if found not in {"", "no", "yes"}:
        raise UsageError(f"{name} is {found!r}: give yes or no")
    return found == "yes"


def _token(environment: Mapping[str, str]) -> str:
    token = environment.get("SERVE_TOKEN", "")
    if not re.fullmatch("[!-~]*", token):  # other characters change in a header or a cookie
        raise UsageError("SERVE_TOKEN has a blank or a letter that is not ASCII: choose another one")
    return token


def _limits(environment: Mapping[str, str]) -> Limits:
    usual: dict[str, Any] = asdict(Limits())
    return Limits(**{name: _positive(environment, f"SERVE_{name.upper()}", value) for name, value in usual.items()})


def _positive(environment: Mapping[str, str], name: str, usual: Number) -> Number:
    """A number of the type of `usual`, which is the default."""
    kind = type(usual)
    try:
        found = kind(environment.get(name) or usual)
    except ValueError:
        found = kind(0)
    if not found > 0:
        raise UsageError(f"{name} is {environment[name]!r}: give a number above 0, for example {usual}")
    return found
