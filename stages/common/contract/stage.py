"""The contract that every stage keeps: one command line, one way to end, one way to hand over a result.

python -m stages.<name> --<input> PATH ... --params params.yaml [--set section.key=value]
                        (--out DIR | --store DIR) [--result FILE] [--recompute] [--check | --lots JSON]
"""

import argparse
import errno
import json
import logging
import os
import platform
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Generic, NoReturn

from stages.common.contract import artifacts
from stages.common.contract.cpus import available_cpus
from stages.common.contract.digest_index import DigestIndex
from stages.common.contract.errors import (
    EXIT_CODE_HELP,
    ChangedError,
    DataError,
    ExitCode,
    StageError,
    Stopped,
    TryAgainError,
    UsageError,
    errno_of,
    full_disk,
)
from stages.common.contract.hearing import end_if_deaf
from stages.common.contract.held import end_with_stdin
from stages.common.contract.logs import log, start_logging
from stages.common.contract.params import ParamsT, load_params
from stages.common.contract.version import ROOT, stage_version, unlike_lock
from stages.common.reports.report import REPORT, plain_report, write_report

LOTS_BYTES = 2**19
"""Length of `lots` in a result at most: some 30,000 of them. Airflow takes results of 1 MiB, and keeps them."""

Headline = Mapping[str, int | float | str]
"""A few figures of a run that tables and the Airflow UI show, for example {"images": 1980, "rejected": 20}."""


@dataclass(frozen=True)
class Input:
    """One named input path.

    Attributes:
        help: what it holds, for `--help`.
        artifact: True for the output of the stage of the same name; False for raw files from outside.
        required: False if the stage can do without; it is then absent from `Context.inputs`.
        created: True for a folder that outlives runs, such as a registry. It is made where it is missing, `deliver`
            alone writes to it, and of its content `Stage.identify` says what decides the artifact.
    """

    help: str
    artifact: bool = True
    required: bool = True
    created: bool = False


@dataclass(frozen=True)
class LotsContext(Generic[ParamsT]):
    """What a stage gets that does the part of some lots ahead.

    Attributes:
        params: the sections of params.yaml that it reads.
        inputs: name -> path. An artifact's digests are verified before the stage starts.
        cache: a directory that all runs of this stage share, for pieces named by a digest of all they depend on.
        digest: SHA-256 of a raw file, remembered from when the key was made; the file is read again only if it changed.
    """

    params: ParamsT
    inputs: Mapping[str, Path]
    cache: Path
    digest: Callable[[Path], str]


@dataclass(frozen=True)
class Context(LotsContext[ParamsT]):
    """What a running stage gets.

    Attributes:
        out: an empty directory to write the output files to; it is published when `run` returns.
        state: a directory that outlives a kill and is found again by the same work; gone once it is done.
        manifests: the manifests of the artifacts among `inputs`.
        key: the key of the artifact being made (64 hex digits).
        failed: a directory, not there yet, that is kept when the stage fails: for reports that say what is wrong with
            the data. The error should name it; the next run of the same work removes it.
        environment: what the result may depend on beyond its key, for the manifest; a stage adds what it alone knows,
            such as the device.
    """

    out: Path
    state: Path
    manifests: Mapping[str, Mapping[str, Any]]
    key: str
    failed: Path
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivery(Generic[ParamsT]):
    """What a stage gets that does something beyond its artifact.

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
    """What a stage did beyond its artifact.

    Attributes:
        headline: added to the headline of the result.
        report: the page that people open in place of the artifact's own.
    """

    headline: Headline = field(default_factory=dict)
    report: Path | None = None


@dataclass(frozen=True)
class RawFiles:
    """What a stage makes of a raw folder.

    Attributes:
        read: the files that the stage reads, relative to the folder.
        left_out: what else of it the artifact lists, a tuple of texts each, with name and reason.
    """

    read: Collection[Path]
    left_out: Iterable[tuple[str, ...]] = ()


def _all_files(_params: Any, inputs: Mapping[str, Path], name: str) -> RawFiles:
    return RawFiles(artifacts.walk_files(inputs[name]))


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
        raw_files: (params, inputs, name of a raw folder) -> what the stage reads of that folder, and what it leaves
            out. Both are part of its key: files by their content, what is left out by what is said of it.
        check: looks at the inputs before any work (`--check`), and returns a headline.
        lots: artifact -> lot -> images, if the artifact says so; part of the result.
        run_lots: does the part of some lots ahead, into the cache (`--lots`), where `run` finds it, and returns a
            headline. So lots spread over machines.
        identify: (params, inputs, name of an input with `created`) -> what of it decides the artifact; nothing by
            default.
        is_final: whether an artifact may be taken from then on. One that is not, such as that of a search that ran out
            of time, is used by those that follow; the next run of the same work goes on from its `state`.
        deliver: does what must be true outside the artifact once it is there: after it was published and also when it
            was there already, so that a run completes what a killed one left undone. Doing it twice is doing it once.
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
    lots: Callable[[Path], Mapping[str, int]] | None = None
    run_lots: Callable[[LotsContext[ParamsT], Sequence[str]], Headline] | None = None
    identify: Callable[[ParamsT, Mapping[str, Path], str], str] = field(default=lambda _params, _inputs, _name: "")
    is_final: Callable[[Path], bool] = field(default=lambda _artifact: True)
    deliver: Callable[[Delivery[ParamsT]], Delivered] = field(default=lambda _delivery: Delivered())


def parser(stage: Stage[Any]) -> argparse.ArgumentParser:
    """The command line of a stage; its help explains inputs, outputs and exit codes."""
    lines = ["outputs (files and folders of the artifact):"]
    lines += [f"  {path:<32} {text}" for path, text in stage.outputs.values()]
    lines += [f"  {REPORT:<32} the page that people open; it needs no network"]
    lines += [f"  {artifacts.MANIFEST:<32} inputs, parameters, and every file with size and SHA-256"]
    lines += ["", "exit codes:"] + [f"  {code:<4} {text}" for code, text in EXIT_CODE_HELP.items()]
    lines += ["", "The last line of stdout is the result, one JSON object; logs go to stderr."]
    result = Parser(
        prog=f"python -m stages.{stage.name}",
        description=stage.description,
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, spec in stage.inputs.items():
        result.add_argument(f"--{name}", type=Path, required=spec.required, metavar="PATH", help=spec.help)
    result.add_argument(
        "--params",
        type=Path,
        default=ROOT / "params.yaml",
        metavar="FILE",
        help="parameters (default: %(default)s)",
    )
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one parameter; repeatable",
    )
    where = result.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="DIR", help="write the artifact exactly here")
    where.add_argument(
        "--store", type=Path, metavar="DIR", help="artifact store: write to DIR/<stage>/<key>, or reuse it"
    )
    result.add_argument("--result", type=Path, metavar="FILE", help="also write the result JSON here")
    result.add_argument("--recompute", action="store_true", help="compute again what is there already")
    alone = result.add_mutually_exclusive_group()
    alone.add_argument("--check", action="store_true", help="check parameters and inputs, do no work")
    if stage.run_lots:
        text = 'only do the part of these lots, into the cache of --store, for example \'["s1", "s2"]\''
        alone.add_argument("--lots", type=_lots, metavar="JSON", help=text)
    return result


def _lots(text: str) -> list[str]:
    try:
        lots = json.loads(text)
    except ValueError:
        lots = None
    if not (isinstance(lots, list) and lots and all(isinstance(lot, str) for lot in lots)):
        raise argparse.ArgumentTypeError(f'expected a JSON list of lots, for example ["s1", "s2"], not {text!r}')
    return lots


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def _raise_stopped(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM must not interrupt the clean-up
    raise Stopped


_REMEDIES = {
    errno.ENOTDIR: "name a folder",
    errno.ENAMETOOLONG: "shorten it",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: f"let uid {os.getuid()} use it",
    errno.EPERM: f"let uid {os.getuid()} use it",
}


def main(stage: Stage[ParamsT], argv: Sequence[str] | None = None) -> int:
    """Run a stage from its command line and return its exit code; never raises."""
    start_logging()
    signal.signal(signal.SIGTERM, _raise_stopped)
    end_if_deaf(_raise_stopped)
    end_with_stdin()
    try:
        return _run(stage, parser(stage).parse_args(argv))
    except Stopped:
        log.warning("stopped by SIGTERM; nothing half-made was published")
        return ExitCode.STOPPED
    except MemoryError:
        log.error("%s: out of memory: give the stage more memory or use less data", stage.name)
        return ExitCode.UNAVAILABLE
    except Exception as error:
        if told := full_disk(error):
            error = told
        if isinstance(error, StageError):
            log.error("%s: %s", stage.name, error)
            return error.exit_code
        number, file = errno_of(error)
        if remedy := _REMEDIES.get(number):
            log.error("%s: %s: %s: %s", stage.name, file or "a file", os.strerror(number), remedy)
            return ExitCode.UNAVAILABLE
        logging.exception("%s: defect", stage.name)
        return ExitCode.DEFECT


def _run(stage: Stage[ParamsT], arguments: argparse.Namespace) -> int:
    if not (arguments.check or arguments.out or arguments.store):
        raise UsageError("one of --out DIR and --store DIR is needed")
    params = load_params(stage.params, arguments.params, arguments.set)
    inputs = {name: Path(path) for name in stage.inputs if (path := getattr(arguments, name))}
    for name, path in inputs.items():
        if stage.inputs[name].created:
            path.mkdir(parents=True, exist_ok=True)
        if not (path.is_file() or path.is_dir()):
            raise UsageError(f"--{name} {path}: no such file or folder")
    for path in filter(None, (arguments.out, arguments.store)):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file: name a folder")
    if arguments.check:
        result = {"stage": stage.name, "checked": True, "headline": dict(stage.check(params, inputs))}
        return _hand_over(result, arguments.result)

    home = arguments.store / stage.name if arguments.store else arguments.out.absolute().parent
    home.mkdir(parents=True, exist_ok=True)
    index = DigestIndex((arguments.store or home) / ".digests.sqlite", fresh=arguments.recompute)
    try:
        if lots := getattr(arguments, "lots", None):
            return _run_lots(stage, params, inputs, arguments, index, lots)
        return _run_whole(stage, params, inputs, arguments, index)
    except UsageError:
        raise
    except Exception as error:
        if told := full_disk(error, home):
            raise told from error
        if isinstance(error, ChangedError):
            index.forget(error.path)
        if isinstance(error, FileNotFoundError) and error.filename:
            raw = [inputs[name] for name in inputs if not (stage.inputs[name].artifact or stage.inputs[name].created)]
            if any(Path(error.filename).is_relative_to(path) for path in raw):
                raise ChangedError(Path(error.filename)) from error
        raise
    finally:
        index.save()


def _run_whole(
    stage: Stage[ParamsT],
    params: ParamsT,
    inputs: Mapping[str, Path],
    arguments: argparse.Namespace,
    index: DigestIndex,
) -> int:
    started = time.monotonic()
    sources, manifests = _identify(stage, params, inputs, index)
    index.save()
    version = stage_version(stage.name)
    key = artifacts.artifact_key(stage.name, version, params.decisive(), sources)
    if arguments.store:
        home, final = arguments.store / stage.name, arguments.store / stage.name / key
    else:
        home, final = arguments.out.absolute().parent, arguments.out.absolute()
    if not arguments.store and final.exists() and any(final.iterdir()) and not (final / artifacts.MANIFEST).exists():
        raise UsageError(f"--out {final} holds something else: name an empty folder or an earlier artifact")

    tag = final.name
    with artifacts.locked(home / f".lock-{tag}", "another run is computing the same artifact") as lock:
        failed = home / f"failed-{tag[:12] if arguments.store else tag}"
        shutil.rmtree(failed, ignore_errors=True)
        stored = None if arguments.recompute else _stored(final)
        if (manifest := stored) and manifest["key"] == key and stage.is_final(final):
            log.info("%s: the artifact is there already (%s)", stage.name, key[:12])
            delivered = stage.deliver(Delivery(params, inputs, final, key))
            return _hand_over(_result(stage, final, manifest, delivered, started, cached=True), arguments.result)
        state = home / f".state-{tag}" / key[:16]
        cache = home / ".cache" if arguments.store else home / f".cache-{tag}"
        for folder in (state, cache):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (home, cache):
            artifacts.remove_leftovers(folder)
        with artifacts.making(final, lock) as partial:
            environment = _environment(stage.name)
            context = Context(
                params, inputs, cache, index.digest, partial, state, manifests, key, failed, environment
            )  # fmt: skip
            try:
                headline = _compute(stage, context, arguments.result)
                _require_unchanged(stage, params, inputs, sources, index)
                _require_outputs(stage, partial)
                manifest = artifacts.write_manifest(
                    partial,
                    stage=stage.name,
                    key=key,
                    content=stage.content,
                    version=version,
                    params=params.model_dump(mode="json"),
                    inputs=sources,
                    image=os.environ.get("FACE_ATTRIBUTES_IMAGE", ""),
                    git_commit=os.environ.get("FACE_ATTRIBUTES_COMMIT", ""),
                    environment=environment,
                    created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    seconds=round(time.monotonic() - started, 3),
                    peak_memory_mb=_peak_memory_mb(),
                    headline=headline,
                )
                artifacts.publish(partial, final, lock)
            except (UsageError, TryAgainError):
                raise
            except Exception as error:
                # What went wrong may follow from something else: told is the cause.
                if told := full_disk(error, partial, Path(tempfile.gettempdir())):
                    raise told from error
                lock.require_held()
                _require_unchanged(stage, params, inputs, sources, index)
                raise
        if stage.is_final(final):
            shutil.rmtree(state.parent, ignore_errors=True)
        delivered = stage.deliver(Delivery(params, inputs, final, key))
    return _hand_over(_result(stage, final, manifest, delivered, started, cached=False), arguments.result)


def _environment(stage: str) -> dict[str, Any]:
    """What the result may depend on beyond its key, as far as every stage knows it."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": available_cpus(),
        "unlike_lock": unlike_lock(stage),
    }


def _require_outputs(stage: Stage[Any], partial: Path) -> None:
    """Refuse to publish less than the stage promises: what is published is taken from the cache for ever."""
    if missing := [path for path, _ in stage.outputs.values() if not (partial / path).exists()]:
        raise StageError(f"{', '.join(missing)} was not written, or was removed: a defect")


def _peak_memory_mb() -> float:
    """Of this process or the largest of its children."""
    used = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(max(used) / 1024, 1)


def _stored(final: Path) -> dict[str, Any] | None:
    """The manifest of an artifact that is there and whole."""
    if not final.exists():
        return None
    try:
        return artifacts.read_manifest(final)
    except DataError:
        log.warning("%s: the stored artifact is damaged and is made again", final.parent.name)
        return None


def _run_lots(
    stage: Stage[ParamsT],
    params: ParamsT,
    inputs: Mapping[str, Path],
    arguments: argparse.Namespace,
    index: DigestIndex,
    lots: Sequence[str],
) -> int:
    """Do the part of some lots; it has no key, so raw files of other lots are not read."""
    if not (stage.run_lots and arguments.store):
        raise UsageError("--lots needs --store DIR: its cache is where they go")
    started = time.monotonic()
    _read_manifests(stage, inputs)
    cache = arguments.store / stage.name / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    artifacts.remove_leftovers(cache)
    headline = stage.run_lots(LotsContext(params, inputs, cache, index.digest), lots)
    seconds = round(time.monotonic() - started, 3)
    result = {"stage": stage.name, "lots": lots, "seconds": seconds, "headline": dict(headline)}
    return _hand_over(result, arguments.result)


def _compute(stage: Stage[ParamsT], context: Context[ParamsT], result: Path | None) -> dict[str, Any]:
    """Run the stage and return its headline; when it fails but kept a report, `result` says where."""
    try:
        headline = dict(stage.run(context))
    except StageError as error:
        if result and context.failed.exists():
            report = context.failed / REPORT
            told = {"failed": str(context.failed), "report": str(report), "cause": str(error)}
            artifacts.write_json(result, {"stage": stage.name, **told})
        raise
    if not (context.out / REPORT).exists():
        write_report(context.out / REPORT, plain_report(stage.name, stage.description, headline, context.out))
    return headline


def _identify(
    stage: Stage[ParamsT], params: ParamsT, inputs: Mapping[str, Path], index: DigestIndex
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Say what every input is (for the key and the lineage) and verify the artifacts among them."""
    manifests = _read_manifests(stage, inputs)
    sources = {
        name: {of: manifests[name][of] for of in ("key", "content")}
        if name in manifests
        else _raw_source(stage, params, inputs, name, index)
        for name in inputs
    }
    return sources, manifests


def _read_manifests(stage: Stage[Any], inputs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    manifests = {name: artifacts.read_manifest(path) for name, path in inputs.items() if stage.inputs[name].artifact}
    for name, manifest in manifests.items():
        if manifest["stage"] != name:
            raise DataError(f"--{name} {inputs[name]}: expected output of stage {name}, found {manifest['stage']}")
    return manifests


def _raw_source(
    stage: Stage[ParamsT], params: ParamsT, inputs: Mapping[str, Path], name: str, index: DigestIndex
) -> dict[str, Any]:
    path = inputs[name]
    if stage.inputs[name].created:
        return {"digest": stage.identify(params, inputs, name), "path": str(path)}
    if not path.is_dir():
        return {"digest": index.digest(path), "path": str(path), "files": 1}
    files = stage.raw_files(params, inputs, name)
    digest = artifacts.files_digest(path, files.read, index)
    holds_ours = index.path.parent.resolve().is_relative_to(path.resolve())  # what we write there is no input
    if not holds_ours and (left_out := sorted(files.left_out)):
        digest = artifacts.json_digest([digest, left_out])
    return {"digest": digest, "path": str(path), "files": len(files.read)}


def _require_unchanged(
    stage: Stage[ParamsT],
    params: ParamsT,
    inputs: Mapping[str, Path],
    sources: Mapping[str, Mapping[str, Any]],
    index: DigestIndex,
) -> None:
    """Refuse to publish what was made from other raw files than those that the key was made of."""
    for name, path in inputs.items():
        if stage.inputs[name].artifact:
            continue
        try:
            same = _raw_source(stage, params, inputs, name, index) == sources[name]
        except (OSError, StageError):  # gone, or no longer what the stage reads
            same = False
        if not same and stage.inputs[name].created:
            raise TryAgainError(
                f"another run, or a person, has changed what --{name} {path} says meanwhile: try again, which uses that"
            )
        if not same:
            raise TryAgainError(f"--{name} {path} changed while it was being read: let its copying finish, try again")


def _result(
    stage: Stage[Any],
    final: Path,
    manifest: Mapping[str, Any],
    delivered: Delivered,
    started: float,
    *,
    cached: bool,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "stage": stage.name,
        "path": str(final),
        "key": manifest["key"],
        "content": manifest["content"],
        "outputs": {name: str(final / path) for name, (path, _) in stage.outputs.items()},
        "report": str(delivered.report or final / REPORT),
        "cached": cached,
        "seconds": round(time.monotonic() - started, 3),
        "headline": {**manifest["headline"], **delivered.headline},
    }
    # Without `lots` nothing is done ahead, and the stage that would find it done does it itself.
    if stage.lots and len(json.dumps(lots := dict(stage.lots(final)))) <= LOTS_BYTES:
        result["lots"] = lots
    return result


def _hand_over(result: Mapping[str, Any], file: Path | None) -> int:
    if file:
        artifacts.write_json(file, result)
    print(json.dumps(result), flush=True)
    return ExitCode.DONE
