"""Requests that Airflow may send to the container engine: exactly those of `dags/stage_operator/`.

Nothing is passed on unchanged. Path and query must match a pattern in full; a body is parsed, checked against a model
that forbids unknown keys, and written anew from the model. So it does not matter that the engine ignores the case of
keys and uses the last of two equal keys: it never gets such keys.
"""

import json
import os
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Self
from urllib.parse import parse_qsl, urlencode

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

NAME = "face-attributes"
IMAGES = os.environ.get("FACE_ATTRIBUTES_IMAGES") or NAME
ARTIFACTS_VOLUME = os.environ.get("FACE_ATTRIBUTES_ARTIFACTS_VOLUME", "face-attributes-artifacts")
DATA_VOLUME = os.environ.get("FACE_ATTRIBUTES_DATA_VOLUME", "face-attributes-data")
TAG = os.environ.get("FACE_ATTRIBUTES_TAG") or "latest"
_DIGEST = "FACE_ATTRIBUTES_DIGEST_"
LOCKED = {
    name.removeprefix(_DIGEST): digest
    for name, digest in os.environ.items()
    if name.startswith(_DIGEST) and IMAGES != NAME
}
"""Stage -> the digest of its image in images.lock, whose lines are variables here; with any, only these images run."""
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""Bytes that one container may have: those of the machine, as the engine reports them to the operator."""
CPUS = os.cpu_count() or 1
PROCESSES = 512
"""Greatest number of processes and threads of a container."""

LABELS = frozenset(f"{NAME}.{key}" for key in ("dag", "run", "task", "map_index", "try"))
"""Labels of a stage's container: only the operator sets them, and they cannot be changed later."""
MOUNTS = {  # source, target, read-only
    (DATA_VOLUME, "/data", True),
    (ARTIFACTS_VOLUME, "/artifacts", True),
    (ARTIFACTS_VOLUME, "/artifacts", False),
    (None, "/result", False),
}
SHOWN = 80  # characters of a refused value, in the answer and in the log


class RefusedError(Exception):
    """The request is not allowed; the text is one line with the request and the reason."""


def _refuse(what: str, why: str) -> NoReturn:
    raise RefusedError(f"{what} is not allowed: {why}")


# ---- bodies and filters ----


def _matches(pattern: str, why: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(why)
        return value

    return AfterValidator(check)


# All our images except those of the services and their bases. A list of the stages would need maintenance, and the
# rights of a container do not depend on its image: it has no network, no capabilities, no path of the host.
_OF_NO_STAGE = "airflow|engine_proxy|serve|[a-z]+-debian"
if LOCKED:
    _stages = (re.escape(f"{name}@{LOCKED[name]}") for name in LOCKED if not re.fullmatch(_OF_NO_STAGE, name))
    _IMAGE = f"{re.escape(IMAGES)}/(?:{'|'.join(_stages)})"
    _WHICH = f"only images of stages by their digests in images.lock, {IMAGES}/<stage>@sha256:..."
else:
    _IMAGE = rf"{re.escape(IMAGES)}/(?!(?:{_OF_NO_STAGE}):)[a-z][a-z0-9_-]*:{re.escape(TAG)}"
    _WHICH = f"only images of stages, {IMAGES}/<stage>:{TAG}"
ImageName = Annotated[str, _matches(_IMAGE, _WHICH)]


class Strict(BaseModel):
    """Refuses unknown keys, except with the value null, false, 0 or empty, which the engine treats as absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, serialize_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item} if isinstance(value, dict) else value


class Mount(Strict):
    """One of our volumes at its place; without VolumeOptions, whose driver could mount a path of the host."""

    Type: Literal["volume"]
    Target: str
    Source: str | None = None
    ReadOnly: bool = False

    @model_validator(mode="after")
    def _is_ours(self) -> Self:
        if (self.Source, self.Target, self.ReadOnly) not in MOUNTS:
            raise ValueError(
                f"only {DATA_VOLUME} at /data, read-only, {ARTIFACTS_VOLUME} at /artifacts, none at /result"
            )
        return self


class LogLimits(Strict):
    """At most 9 files of 99 MB for one container."""

    max_size: Annotated[str, Field(alias="max-size"), _matches("[1-9][0-9]?m", "at most 99m")]
    max_file: Annotated[str, Field(alias="max-file"), _matches("[1-9]", "at most 9")]


class LogDriver(Strict):
    """The log stays in the engine; other drivers send it over the network."""

    Type: Literal["json-file"]
    Config: LogLimits


_OnlyGpu = Annotated[list[Literal["gpu"]], Field(min_length=1, max_length=1)]


class DeviceRequest(Strict):
    """All GPUs; another driver or capability could name any device."""

    Count: Literal[-1]
    Capabilities: Annotated[list[_OnlyGpu], Field(max_length=1)]


class Temporary(Strict):
    """The only writable place; it counts as memory of the container."""

    tmp: Annotated[Literal["size=1g,mode=1777"], Field(alias="/tmp")]  # noqa: S108


class Confinement(Strict):
    """The confinement of a stage; every part is required."""

    Mounts: Annotated[list[Mount], Field(max_length=3)]
    NetworkMode: Literal["none"]
    ReadonlyRootfs: Literal[True]
    CapDrop: Annotated[list[Literal["ALL"]], Field(max_length=1)]
    SecurityOpt: Annotated[list[Literal["no-new-privileges"]], Field(max_length=1)]
    Init: Literal[True]
    LogConfig: LogDriver
    Tmpfs: Temporary
    Memory: Annotated[int, Field(gt=0, le=MEMORY)]
    MemorySwap: Annotated[int, Field(gt=0)]
    PidsLimit: Annotated[int, Field(gt=0, le=PROCESSES)]
    NanoCpus: Annotated[int, Field(gt=0, le=CPUS * 10**9)] | None = None
    ShmSize: Annotated[int, Field(gt=0, le=MEMORY)] | None = None
    DeviceRequests: Annotated[list[DeviceRequest], Field(max_length=1)] | None = None

    @model_validator(mode="after")
    def _no_swap(self) -> Self:
        if self.MemorySwap != self.Memory:
            raise ValueError("MemorySwap must equal Memory, so that there is no swap")
        return self


def _all_labels(labels: dict[str, str]) -> dict[str, str]:
    if labels.keys() != LABELS:  # other labels have a meaning for docker compose, reverse proxies and the like
        raise ValueError(f"exactly {', '.join(sorted(LABELS))}")
    return labels


_VARIABLES = {
    "FACE_ATTRIBUTES_IMAGE": "sha256:[0-9a-f]{64}",
    "FACE_ATTRIBUTES_ENDS_WITH_STDIN": "1",
    "FACE_ATTRIBUTES_RUN": r"\{[^\0]*\}",
    "HOME": "/tmp",  # noqa: S108
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "[1-9][0-9]{0,3}"),
}
"""Environment variables that a stage may get, and their form; any other could load code into it."""


def _known_variables(variables: list[str]) -> list[str]:
    given = dict(variable.partition("=")[::2] for variable in variables)
    if unknown := [name[:SHOWN] for name in given if name not in _VARIABLES]:
        raise ValueError(f"{unknown[0]!r} is not a variable of a stage")
    if len(given) < len(variables):
        raise ValueError("a variable twice")
    for name, value in given.items():
        if not re.fullmatch(_VARIABLES[name], value, re.ASCII):
            raise ValueError(f"{name} must match {_VARIABLES[name]}")
    return variables


class Container(Strict):
    """The body of `POST /containers/create`.

    Standard input is held open and never written to: its end means that the task of the stage is gone.
    """

    Image: ImageName
    User: Literal["10001:10001"]
    Cmd: list[str]
    Env: Annotated[list[str], AfterValidator(_known_variables)]
    Labels: Annotated[dict[str, str], AfterValidator(_all_labels)]
    HostConfig: Confinement
    AttachStdin: bool = False
    AttachStdout: bool = False
    AttachStderr: bool = False
    OpenStdin: bool = False
    StdinOnce: bool = False

    @model_validator(mode="after")
    def _ends_with_its_task(self) -> Self:
        if self.OpenStdin != self.StdinOnce:
            raise ValueError("OpenStdin and StdinOnce go together")
        return self


class Volume(Strict):
    """The body of `POST /volumes/create`; without DriverOpts, which could mount a path of the host."""

    Name: Annotated[str, _matches(re.escape(ARTIFACTS_VOLUME), f"only {ARTIFACTS_VOLUME}")]
    Driver: Literal["local"] = "local"


# Labels of an image are also labels of its containers (face-attributes.inputs is Airflow's), so only a stage's count.
_Label = Annotated[
    str,
    _matches(
        rf"(?s:(?:{'|'.join(map(re.escape, sorted(LABELS)))})(?:=.*)?)", "only labels that a stage's container has"
    ),
]
_VolumeName = Annotated[
    str,
    _matches(rf"\^(?:{re.escape(DATA_VOLUME)}|{re.escape(ARTIFACTS_VOLUME)})\$", "only one of our volumes, as ^name$"),
]


class ContainerFilters(Strict):
    """Only containers of stages are listed."""

    label: Annotated[list[_Label], Field(min_length=1)]
    status: list[Literal["created", "exited", "dead"]] | None = None


class ImageFilters(Strict):
    """Only images of stages are listed."""

    reference: Annotated[list[ImageName], Field(min_length=1, max_length=1)]


class VolumeFilters(Strict):
    """Only our volumes are listed; the options of others may contain a password."""

    name: Annotated[list[_VolumeName], Field(min_length=1, max_length=1)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _rewritten(model: type[Strict], text: str | bytes, what: str) -> str:
    """The JSON text as the model writes it.

    Raises:
        RefusedError: it is not JSON, or does not fit the model.
    """
    try:
        parsed = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(what, f"no proper JSON: {' '.join(str(error).split())}")
    try:
        return model.model_validate(parsed).model_dump_json(exclude_none=True)
    except PydanticSerializationError:
        _refuse(what, "half a surrogate pair is not a character")
    except ValidationError as error:
        # An error about a present key says more than one about a missing key.
        order = {"extra_forbidden": 0, "missing": 2}
        first = min(error.errors(include_url=False), key=lambda found: order.get(found["type"], 1))
        where = json.dumps(".".join(map(str, first["loc"])) or what)[1:-1][:SHOWN]
        if first["type"] == "missing":
            _refuse(where, "it is missing, false or empty")
        value = json.dumps(first["input"])
        shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
        why = "no stage needs it" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        _refuse(f"{where} {shown}", why)


# ---- requests ----


@dataclass(frozen=True)
class Route:
    """An allowed call; the value of a query parameter matches a pattern, or is required JSON of a model."""

    methods: tuple[str, ...]
    path: str
    query: dict[str, str | type[Strict]]
    body: type[Strict] | None = None


_FLAG = "0|1|[Tt]rue|[Ff]alse"
_NUMBER = "-?[0-9]{1,10}"
_CONTAINER = "/containers/(?P<container>[A-Za-z0-9][A-Za-z0-9_.-]{0,127})"

ROUTES = (
    Route(("GET", "HEAD"), "/_ping", {}),
    Route(("GET",), "/version", {}),
    Route(("GET",), "/info", {}),
    Route(("GET",), "/images/json", {"only_ids": _FLAG, "all": _FLAG, "filters": ImageFilters}),
    Route(("GET",), f"/images/{_IMAGE.replace('@', '%40')}/json", {}),
    Route(("GET",), "/volumes", {"filters": VolumeFilters}),
    Route(("POST",), "/volumes/create", {}, Volume),
    Route(
        ("GET",),
        "/containers/json",
        {"limit": _NUMBER, "all": _FLAG, "size": "0", "trunc_cmd": _FLAG, "filters": ContainerFilters},
    ),
    Route(("POST",), "/containers/create", {"name": rf"{NAME}-[a-z0-9_]+-[0-9a-f]{{16}}"}, Container),
    Route(("GET",), f"{_CONTAINER}/json", {}),
    Route(
        ("GET",),
        f"{_CONTAINER}/logs",
        {
            **dict.fromkeys(("follow", "stdout", "stderr", "timestamps"), _FLAG),
            **dict.fromkeys(("since", "until"), "[0-9.]{1,20}"),
            "tail": "all|[0-9]{1,10}",
        },
    ),
    Route(("GET",), f"{_CONTAINER}/archive", {"path": "/result/result.json"}),
    Route(("POST",), f"{_CONTAINER}/start", {}),
    Route(("POST",), f"{_CONTAINER}/stop", {"t": _NUMBER}),
    Route(("POST",), f"{_CONTAINER}/kill", {"signal": "[A-Z0-9]{1,12}"}),
    Route(("POST",), f"{_CONTAINER}/wait", {"condition": "not-running|next-exit|removed"}),
    Route(("POST",), f"{_CONTAINER}/attach", dict.fromkeys(("logs", "stdin", "stdout", "stderr", "stream"), _FLAG)),
    Route(("DELETE",), _CONTAINER, {"v": _FLAG, "force": _FLAG, "link": "0|[Ff]alse"}),
)
# Engine 20.10, the oldest in Debian 12, has API 1.41. Before 1.24, a start could change the container's rights.
_VERSION = "(?P<version>/v1\\.(?:4[1-9]|[5-9][0-9]))?"


class Request(NamedTuple):
    """A request to the engine.

    Attributes:
        method: GET, HEAD, POST or DELETE.
        start: of the target, up to the container if the request is about one, else all of it.
        container: as the client named it, "" if the request is about none. Its labels are not checked yet.
        end: of the target, after the container.
        body: JSON, or empty.
        attach: whether the connection becomes a stream.
    """

    method: str
    start: str
    container: str
    end: str
    body: bytes
    attach: bool


def _query(route: Route, text: str) -> str:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True) if text else []
        given = _unique(pairs)
    except ValueError as error:
        _refuse(f"the query {text[:SHOWN]}", str(error))
    for name, value in given.items():
        rule = route.query.get(name)
        if rule is None:
            _refuse(f"the query parameter {name[:SHOWN]!r}", "no stage needs it")
        elif not isinstance(rule, str):
            given[name] = _rewritten(rule, value, name)
        elif not re.fullmatch(rule, value, re.ASCII):
            _refuse(f"{name}={value[:SHOWN]!r}", f"it must match {rule}")
    for name, rule in route.query.items():
        if not isinstance(rule, str) and name not in given:
            _refuse(f"a call without {name}", "it would show what is not ours")
    return urlencode(given)


def allowed(method: str, target: str, body: bytes) -> Request:
    """The request in the form for the engine.

    Args:
        method: the request's method.
        target: path and query, as received.
        body: the whole body.

    Raises:
        RefusedError: it is not allowed.
    """
    path, _, query = target.partition("?")
    for route in ROUTES:
        found = re.fullmatch(_VERSION + route.path, path, re.ASCII)
        if method in route.methods and found:
            break
    else:
        _refuse(f"{method} {path[:SHOWN]}", "no stage needs it")
    written = _query(route, query)
    if route.body:
        body = _rewritten(route.body, body, "the body").encode()
    elif body:
        _refuse(f"a body of {method} {path[:SHOWN]}", "no stage needs it")
    end = f"?{written}" if written else ""
    if container := found.groupdict().get("container") or "":
        start, end = path[: found.start("container")], path[found.end("container") :] + end
    else:
        start, end = path + end, ""
    return Request(method, start, container, end, body, attach=path.endswith("/attach"))


def id_of_ours(inspected: bytes) -> str:
    """The id of a container; unlike a name, it cannot move to another container.

    Args:
        inspected: the engine's description of the container, JSON.

    Raises:
        RefusedError: it is not a stage's container.
    """
    container = json.loads(inspected)
    if not (container["Config"]["Labels"] or {}).keys() >= LABELS:
        _refuse(f"container {container['Id'][:12]}", "it is not a stage's")
    return str(container["Id"])
