"""The description of a stage: its name, inputs, outputs, and the functions that do its work."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from stages.common.contract.artifacts import walk_files
from stages.common.contract.params import ParamsT

Headline = Mapping[str, int | float | str]
"""Figures of a run that tables and the Airflow UI show, for example {"images": 1980, "rejected": 20}."""


@dataclass(frozen=True)
class Input:
    """One named input path.

    Attributes:
        help: its contents, for `--help`.
        artifact: True for the output of the stage of the same name; False for raw files from outside.
        required: False if the stage works without it; it is then absent from `Context.inputs`, unless it has a default.
        default: (the given inputs) -> the path to use if this input is not given; None if there is no such path.
        created: True for a folder that outlives runs, such as a registry. It is made if it is missing; only `deliver`
            writes to it; and `Stage.identify` names the part of its content that decides the artifact.
    """

    help: str
    artifact: bool = True
    required: bool = True
    default: Callable[[Mapping[str, Path]], Path | None] | None = None
    created: bool = False


@dataclass(frozen=True)
class LotsContext(Generic[ParamsT]):
    """The arguments of a stage that does the part of some lots ahead.

    Attributes:
        params: the sections of params.yaml that it reads.
        inputs: name -> path. An artifact's digests are verified before the stage starts.
        cache: a directory that all runs of this stage share. A piece in it is named by a digest of all inputs of the
            piece.
        digests: SHA-256 of each of some raw files, in order, known from the computation of the key; a file is read
            again only if it has changed.
        suites: suites of the data that replace those of the stage: name -> file.
    """

    params: ParamsT
    inputs: Mapping[str, Path]
    cache: Path
    digests: Callable[[Iterable[str | Path]], Iterator[str]]
    suites: Mapping[str, Path]


@dataclass(frozen=True)
class Context(LotsContext[ParamsT]):
    """The arguments of a running stage.

    Attributes:
        out: a directory to write the output files to, which holds the folders of the stage's `outputs` and nothing
            else; it is published when `run` returns.
        state: a directory that outlives a kill and is found again by the same work; gone once it is done.
        manifests: the manifests of the artifacts among `inputs`.
        key: the key of the artifact being made (64 hex digits).
        failed: a directory, not there yet, that is kept when the stage fails, for reports on errors of the data. The
            error message should name it; the next run of the same work removes it.
        environment: what the result may depend on beyond its key, for the manifest; a stage adds its own facts, such
            as the device.
    """

    out: Path
    state: Path
    manifests: Mapping[str, Mapping[str, Any]]
    key: str
    failed: Path
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivery(Generic[ParamsT]):
    """The arguments of a stage that does something beyond its artifact.

    Attributes:
        params: the sections of params.yaml that it reads.
        inputs: name -> path.
        artifact: the artifact, whole and published.
        key: its key (64 hex digits).
    """

    params: ParamsT
    inputs: Mapping[str, Path]
    artifact: Path
    key: str


@dataclass(frozen=True)
class Delivered:
    """The result of a delivery, which a stage does beyond its artifact.

    Attributes:
        headline: added to the headline of the result.
        report: the page that people open in place of the artifact's own.
    """

    headline: Headline = field(default_factory=dict)
    report: Path | None = None


@dataclass(frozen=True)
class RawFiles:
    """The files of a raw folder, as a stage uses them.

    Attributes:
        read: the files that the stage reads, relative to the folder.
        left_out: other files that the artifact lists, a tuple of texts each, with name and reason.
    """

    read: Collection[str | Path]
    left_out: Iterable[tuple[str, ...]] = ()


def _all_files(_params: Any, inputs: Mapping[str, Path], name: str) -> RawFiles:
    return RawFiles(walk_files(inputs[name]))


@dataclass(frozen=True)
class Stage(Generic[ParamsT]):
    """One stage of the pipeline.

    Attributes:
        name: the one name that package, image, DVC stage, task and parameter section share.
        description: what it does, for `--help`.
        params: model whose fields are the sections of params.yaml that the stage reads.
        inputs: name -> what it is. An artifact input is named after the stage that makes it.
        outputs: name -> (file or folder inside the artifact, what it holds with shapes and units).
        run: does the work and returns the headline.
        content: the files and folders of the artifact that later stages read. A digest over them goes into the keys of
            these stages, so an artifact made again with the same content makes nothing after it run again. What differs
            from run to run with equal inputs (seconds, dates, pages) is no content. () means all of the artifact.
        raw_files: (params, inputs, name of a raw folder) -> the files that the stage reads, and those that it leaves
            out. Both are part of its key: the former by content, the latter by name and reason.
        check: checks the inputs before any work (`--check`), and returns a headline.
        new_lots: lots that are not in the cache yet -> their images; a check with a store lists them.
        run_lots: does the part of some lots ahead, into the cache (`--lots`), where `run` finds it, and returns a
            headline. So lots spread over machines.
        identify: (params, inputs, name of an input with `created`) -> the part of it that decides the artifact;
            nothing by default.
        is_final: whether later runs may take an artifact from the store. If not, as with a search that ran out of
            time, later stages use it, but the next run of the same work continues from its `state`.
        deliver: acts outside the artifact once the artifact is there. It runs after publishing, and also if the
            artifact was cached, so a run completes the delivery of a killed one. It is idempotent.
    """

    name: str
    description: str
    params: type[ParamsT]
    inputs: Mapping[str, Input]
    outputs: Mapping[str, tuple[str, str]]
    run: Callable[[Context[ParamsT]], Headline]
    content: tuple[str, ...] = ()
    raw_files: Callable[[ParamsT, Mapping[str, Path], str], RawFiles] = _all_files
    check: Callable[[ParamsT, Mapping[str, Path]], Headline] = field(default=lambda _params, _inputs: {})
    new_lots: Callable[[LotsContext[ParamsT]], Mapping[str, int]] | None = None
    run_lots: Callable[[LotsContext[ParamsT], Sequence[str]], Headline] | None = None
    identify: Callable[[ParamsT, Mapping[str, Path], str], str] = field(default=lambda _params, _inputs, _name: "")
    is_final: Callable[[Path], bool] = field(default=lambda _artifact: True)
    deliver: Callable[[Delivery[ParamsT]], Delivered] = field(default=lambda _delivery: Delivered())
