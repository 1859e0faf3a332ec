"""One call of a stage: identify its inputs, take its artifact from the store or make it, deliver, hand over."""

import contextlib
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from stages.common.contract import artifacts
from stages.common.contract.cpus import available_cpus
from stages.common.contract.data_folder import EXPECTATIONS
from stages.common.contract.digest_index import DIGESTS, DigestIndex
from stages.common.contract.errors import ChangedError, DataError, StageError, TryAgainError, UsageError, full_disk
from stages.common.contract.logs import log
from stages.common.contract.params import ParamsT
from stages.common.contract.stage import Context, Delivery, LotsContext, Stage
from stages.common.contract.version import stage_version, unlike_lock
from stages.common.reports.report import REPORT, VERSION, plain_report, write_report

LOTS_BYTES = 2**19
"""Greatest length of `lots` in a result: some 30,000 lots. Airflow accepts results of 1 MiB, and keeps them."""

Result = dict[str, Any]
"""The result of a call, JSON-like."""

RUN = "FACE_ATTRIBUTES_RUN"
"""Environment variable with the current run, JSON as of `told_run`."""


def told_run() -> Mapping[str, Any]:
    """The current run: {"dag_id", "run_id", "by": who triggered it, "stages"}; {} by hand."""
    told: Mapping[str, Any] = json.loads(os.environ.get(RUN, "{}"))
    return told


@dataclass(frozen=True)
class Call(Generic[ParamsT]):
    """One call of a stage.

    Attributes:
        stage: the stage.
        params: the sections of params.yaml that it reads.
        inputs: name -> path, which exists.
        store: the artifact store; None if `out` says where to write.
        out: absolute path of the artifact; None if it goes to the store.
        result: a file to which the result is written, too.
        recompute: compute even if the artifact is cached.
        suites: suites of the data that replace those of the stage: name -> file.
        started: start by the monotonic clock, in seconds.
    """

    stage: Stage[ParamsT]
    params: ParamsT
    inputs: Mapping[str, Path]
    store: Path | None
    out: Path | None
    result: Path | None
    recompute: bool
    suites: Mapping[str, Path] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def home(self) -> Path:
        """The folder that artifact, cache and state lie in."""
        return self.out.parent if self.out else (self.store or Path()) / self.stage.name

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self.started, 3)

    @property
    def raw(self) -> dict[str, Path]:
        """The inputs that come from outside and are only read."""
        kinds = self.stage.inputs
        return {name: path for name, path in self.inputs.items() if not (kinds[name].artifact or kinds[name].created)}


@dataclass(frozen=True)
class _Work(Generic[ParamsT]):
    """A call, and the inputs that decide its artifact.

    Attributes:
        call: the call.
        index: known digests of raw files.
        manifests: of the artifacts among the inputs.
        decides: the values that the key is computed from, as in the manifest.
        key: of the artifact (64 hex digits).
    """

    call: Call[ParamsT]
    index: DigestIndex
    manifests: dict[str, dict[str, Any]]
    decides: dict[str, Any]
    key: str

    @property
    def final(self) -> Path:
        """The final place of the artifact."""
        return self.call.out or self.call.home / self.key

    @property
    def failed(self) -> Path:
        """The folder in which a failing stage keeps its report."""
        return self.call.home / f"failed-{self.final.name if self.call.out else self.key[:12]}"


def check(call: Call[Any]) -> Result:
    """Check the inputs, do no work; with a store, list the lots that are not in its cache yet."""
    stage = call.stage
    with _noticing_what_vanishes(call):
        headline = dict(stage.check(call.params, call.inputs))
    result: Result = {"stage": stage.name, "checked": True, "headline": headline}
    if call.store and stage.new_lots:
        with _lots_context(call) as context:
            lots = dict(stage.new_lots(context))
        result["headline"] |= {"new_lots": len(lots)}
        # Without `lots` no part is done ahead, and the stage itself does all of it later.
        if len(json.dumps(lots)) <= LOTS_BYTES:
            result["lots"] = lots
    return result


def run_lots(call: Call[Any], lots: Sequence[str]) -> Result:
    """Do the part of some lots; the part has no key, so raw files of other lots are not read."""
    stage = call.stage
    if not (stage.run_lots and call.store):
        raise UsageError("--lots needs --store DIR, whose cache takes them")
    with _lots_context(call) as context:
        headline = stage.run_lots(context, lots)
    return {"stage": stage.name, "lots": lots, "seconds": call.seconds, "headline": dict(headline)}


@contextlib.contextmanager
def _lots_context(call: Call[ParamsT]) -> Iterator[LotsContext[ParamsT]]:
    with _index(call) as index:
        _read_manifests(call)
        yield LotsContext(call.params, call.inputs, _tidy(call.home / ".cache"), index.digests, call.suites)


def run(call: Call[Any]) -> Result:
    """Take the artifact from the store, or make it; then deliver it."""
    stage, out = call.stage, call.out
    if out and out.exists() and any(out.iterdir()) and not (out / artifacts.MANIFEST).exists():
        raise UsageError(f"--out {out} holds something else: name an empty folder or an earlier artifact")
    with _index(call) as index:
        work = _identify(call, index)
        reads = [path for name, path in call.inputs.items() if stage.inputs[name].artifact]
        with artifacts.locked(artifacts.lock_of(work.final), reads=reads) as lock:
            shutil.rmtree(work.failed, ignore_errors=True)
            stored = _stored(work)
            if stored:
                log.info("%s: cached (%s)", stage.name, work.key[:12])
            manifest = stored or _make(work, lock)
            delivered = stage.deliver(Delivery(call.params, call.inputs, work.final, work.key))
    return {
        "stage": stage.name,
        "path": str(work.final),
        "key": work.key,
        "content": manifest["content"],
        "outputs": {name: str(work.final / path) for name, (path, _) in stage.outputs.items()},
        "report": str(delivered.report or work.final / REPORT),
        "cached": bool(stored),
        "seconds": call.seconds,
        "headline": {**manifest["headline"], **delivered.headline},
    }


def hand_over(result: Result, file: Path | None) -> None:
    """Print the result as the last line of stdout, and write it to the file if there is one."""
    if file:
        artifacts.write_json(file, result)
    print(json.dumps(result), flush=True)


@contextlib.contextmanager
def _index(call: Call[Any]) -> Iterator[DigestIndex]:
    """Known digests of raw files. They are kept even if the call fails; an error of a raw file then names it."""
    call.home.mkdir(parents=True, exist_ok=True)
    index = DigestIndex((call.store or call.home) / DIGESTS, fresh=call.recompute)
    try:
        with _noticing_what_vanishes(call):
            yield index
    except UsageError:
        raise
    except Exception as error:
        if told := full_disk(error, call.home):
            raise told from error
        if isinstance(error, ChangedError):
            index.forget(error.path)
        raise
    finally:
        index.save()


@contextlib.contextmanager
def _noticing_what_vanishes(call: Call[Any]) -> Iterator[None]:
    """Report a raw file as changed if it has gone since it was listed."""
    try:
        yield
    except FileNotFoundError as error:
        gone = Path(error.filename or "")
        if any(gone.is_relative_to(path) for path in call.raw.values()):
            raise ChangedError(gone) from error
        raise


def _identify(call: Call[ParamsT], index: DigestIndex) -> _Work[ParamsT]:
    """Verify the artifacts among the inputs, and read raw files that are new or changed."""
    manifests = _read_manifests(call)
    sources = {
        name: {of: manifests[name][of] for of in ("key", "content")}
        if name in manifests
        else _raw_source(call, name, index)
        for name in call.inputs
    } | _suites_source(call, index)
    index.save()
    name, params = call.stage.name, call.params
    decides = {
        "stage": name,
        "version": stage_version(name),
        "params": params.model_dump(mode="json"),
        "not_in_key": params.not_in_key(),
        "inputs": sources,
    }
    return _Work(call, index, manifests, decides, artifacts.artifact_key(decides))


def _read_manifests(call: Call[Any]) -> dict[str, dict[str, Any]]:
    kinds = call.stage.inputs
    manifests = {name: artifacts.read_manifest(path) for name, path in call.inputs.items() if kinds[name].artifact}
    for name, manifest in manifests.items():
        if manifest["stage"] != name:
            raise DataError(f"--{name} {call.inputs[name]}: expected output of stage {name}, found {manifest['stage']}")
    return manifests


def _raw_source(call: Call[Any], name: str, index: DigestIndex) -> dict[str, Any]:
    path, stage = call.inputs[name], call.stage
    if stage.inputs[name].created:
        return {"digest": stage.identify(call.params, call.inputs, name), "path": str(path)}
    if not path.is_dir():
        return {"digest": index.digest(path), "path": str(path), "files": 1}
    files = stage.raw_files(call.params, call.inputs, name)
    digest = artifacts.files_digest(path, files.read, index)
    holds_ours = index.path.parent.resolve().is_relative_to(path.resolve())  # files that we write there are no inputs
    if not holds_ours and (left_out := sorted(files.left_out)):
        digest = artifacts.json_digest([digest, left_out])
    return {"digest": digest, "path": str(path), "files": len(files.read)}


def _suites_source(call: Call[Any], index: DigestIndex) -> dict[str, dict[str, Any]]:
    """Suites of the data, like an input; empty where the stage's own suites are used, which are part of its version."""
    if not call.suites:
        return {}
    folder, names = next(iter(call.suites.values())).parent, [path.name for path in call.suites.values()]
    digest = artifacts.files_digest(folder, names, index)
    return {EXPECTATIONS: {"digest": digest, "path": str(folder), "files": len(names)}}


def _stored(work: _Work[Any]) -> dict[str, Any] | None:
    """Manifest of the artifact, if it is there, whole, and of this key."""
    call = work.call
    if call.recompute or not work.final.exists():
        return None
    try:
        manifest = artifacts.read_manifest(work.final)
    except DataError:
        log.warning("%s: the stored artifact is damaged and is made again", call.stage.name)
        return None
    return manifest if manifest["key"] == work.key and call.stage.is_final(work.final) else None


def _make(work: _Work[Any], lock: artifacts.Lock) -> dict[str, Any]:
    """Run the stage and publish what it makes; returns the manifest."""
    call, stage, final = work.call, work.call.stage, work.final
    state = call.home / f".state-{final.name}" / work.key[:16]
    state.mkdir(parents=True, exist_ok=True)
    cache = _tidy(call.home / (".cache" if call.store else f".cache-{final.name}"))
    artifacts.remove_leftovers(call.home)
    environment = _environment(stage.name)
    with artifacts.making(final, lock) as partial, _explained(work, partial, lock):
        for path, _ in stage.outputs.values():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
        context = Context(
            call.params, call.inputs, cache, work.index.digests, call.suites, partial, state, work.manifests, work.key,
            work.failed, environment,
        )  # fmt: skip
        headline = _compute(stage, context, call.result)
        _require_unchanged(work)
        _require_outputs(stage, partial)
        manifest = artifacts.write_manifest(
            partial,
            key=work.key,
            content=stage.content,
            **work.decides,
            image=os.environ.get("FACE_ATTRIBUTES_IMAGE", ""),
            git_commit=os.environ.get("FACE_ATTRIBUTES_COMMIT", ""),
            environment=environment,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            seconds=call.seconds,
            peak_memory_mb=_peak_memory_mb(),
            headline=headline,
        )
        artifacts.publish(partial, final, lock)
    if stage.is_final(final):
        shutil.rmtree(state.parent, ignore_errors=True)
    return manifest


def _tidy(cache: Path) -> Path:
    """The cache, made if it is missing, without half-made files of killed runs."""
    cache.mkdir(parents=True, exist_ok=True)
    artifacts.remove_leftovers(cache)
    return cache


@contextlib.contextmanager
def _explained(work: _Work[Any], partial: Path, lock: artifacts.Lock) -> Iterator[None]:
    """Report the cause behind an error: a full disk, a lost lock, or inputs that changed."""
    try:
        yield
    except (UsageError, TryAgainError):
        raise
    except Exception as error:
        if told := full_disk(error, partial, Path(tempfile.gettempdir())):
            raise told from error
        lock.require_held()
        _require_unchanged(work)
        raise


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


def _require_unchanged(work: _Work[Any]) -> None:
    """Refuse to publish an artifact that was made from other raw files than its key says."""
    call = work.call
    for name, path in call.inputs.items():
        if name in work.manifests:
            continue
        try:
            same = _raw_source(call, name, work.index) == work.decides["inputs"][name]
        except (OSError, StageError):  # gone, or no longer what the stage reads
            same = False
        if not same and name not in call.raw:
            raise TryAgainError(
                f"another run, or a person, has changed --{name} {path} meanwhile: try again, to use its new state"
            )
        if not same:
            raise TryAgainError(f"--{name} {path} changed while it was being read: let its copying finish, try again")
    if not _suites_source(call, work.index).items() <= work.decides["inputs"].items():
        raise TryAgainError(
            "the suites of the data changed while they were being read: let their copying finish, try again"
        )


def _require_outputs(stage: Stage[Any], partial: Path) -> None:
    """Refuse to publish less than the stage promises: a published artifact stays cached for ever."""
    if missing := [path for path, _ in stage.outputs.values() if not (partial / path).exists()]:
        raise StageError(f"{', '.join(missing)} was not written, or was removed: a defect")


def _environment(stage: str) -> dict[str, Any]:
    """Environment that the result may depend on beyond its key, as far as it is the same for all stages."""
    return {
        "product": VERSION,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": available_cpus(),
        "unlike_lock": unlike_lock(stage),
    }


def _peak_memory_mb() -> float:
    """Peak of this process or of the largest of its children."""
    used = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(max(used) / 1024, 1)
