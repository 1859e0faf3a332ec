"""The main job: run the pipeline once, or another DAG, and end with a short table and the path of the report.

With a container engine, it runs the DAG through Airflow (embedded SQLite database, no server); with `--engine none`,
the same stages with `dvc repro`. `make run` calls it after set-up; it can be called again by hand.
"""

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from image_tools import image, variables

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `stages`, which is imported where needed
DAGS = ("ml_pipeline_face_attributes", "predict_new_lots", "model_monitoring_and_retraining")
ARTIFACTS_VOLUME = "face-attributes-artifacts"
ARTIFACT = re.compile(r"/artifacts/[a-z_]+/([0-9a-f]{64}|failed-[0-9a-f]+)")
VERSIONS = "/artifacts/registry/page"
"""The page of all versions, and its files."""
ANNOTATIONS = ("annotations.csv", "annotations")  # names that are always found
PARAMS = ROOT / "params.yaml"
REPLACED = ROOT / "artifacts/params_of_data.json"
"""Values of PARAMS before and after those of a data folder were written there."""
ATTRIBUTES = "attributes.yaml"
EXPECTATIONS = "expectations"
OWN = (ATTRIBUTES, EXPECTATIONS, "params.yaml", "card.md")
"""Files that a data folder may bring."""
CORRECTIONS = "corrections"  # beside the annotations; people save them on reports
RECIPES = sorted(path.stem.removeprefix("params-") for path in ROOT.glob("params-*.yaml"))
HOME = Path(os.environ.get("AIRFLOW_HOME", ROOT / ".airflow"))
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # characters in a log line that would change a terminal
SHOWN = re.compile(
    r"(?P<stage>\d\d:\d\d:\d\d (INFO|WARNING|ERROR) .*?)(\s+\[[\w.-]+\]( \w+=\S+)*)?$"  # a stage's own log line
    r"|(?P<task>Running (\S+/\w+(?!.* --check)|stage '\w+'))"
    r"|(Airflow\w*Exception|ParamValidationError): (?P<cause>.*)"
)
"""Lines of the run's log that are shown live, shortened; the whole log is in the file named first."""
FIGURES = 5
"""Characters of a headline in the closing table."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run.

    Attributes:
        results: stage -> result, of the cached and computed stages of this run.
        failed: names of the stages or tasks that failed.
        report: the page of the run; None if it failed.
    """

    results: Mapping[str, Mapping[str, Any]]
    failed: list[str]
    report: Path | None


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def stop(code: int, text: str) -> NoReturn:
    """End with a line that says why."""
    say(text)
    sys.exit(code)


def stages() -> list[str]:
    """The stages in the order of dvc.yaml."""
    return list(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def digest_of(data: Path) -> str:
    """12 digits for the path of a data folder, for names of its volumes and folders."""
    return hashlib.sha256(str(data).encode()).hexdigest()[:12]


def artifacts_volume(data: Path) -> str:
    """The volume with the artifacts of a data folder.

    Each folder has its own volume, and so its own registry, champion, reports and monitoring log: a model of other
    faces must not compete with its champion.
    """
    own = ARTIFACTS_VOLUME if data == ROOT / "data" else f"{ARTIFACTS_VOLUME}-{digest_of(data)}"
    return os.environ.get("FACE_ATTRIBUTES_ARTIFACTS_VOLUME", own)


def airflow_environment(data_volume: str, annotations: str, artifacts: str, recipe: str) -> dict[str, str]:
    """Environment in which Airflow runs our DAGs from the repository with its embedded database."""
    return {
        **os.environ,
        **variables(),
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # A cancelled run is noticed at the next heartbeat; with the default of 5 s, its container would live 8 s.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "FACE_ATTRIBUTES_DATA_VOLUME": data_volume,
        "FACE_ATTRIBUTES_ANNOTATIONS": f"/data/{annotations}",
        "FACE_ATTRIBUTES_ARTIFACTS_VOLUME": artifacts,
        "FACE_ATTRIBUTES_RECIPE": recipe,
    }


def engine() -> "DockerClient":
    """A client of the container engine."""
    import docker

    try:
        return docker.from_env()
    except docker.errors.DockerException:
        stop(69, "no container engine answers: make engine, or ENGINE=none")


@contextlib.contextmanager
def container_with(volume: str, command: str = "true") -> "Iterator[Container]":
    """A container, not yet started, with a volume at /artifacts, read-only; it is removed at the end."""
    import docker

    try:
        container = engine().containers.create(
            image("archive"), ["-c", command], entrypoint="sh", network_mode="none",
            volumes={volume: {"bind": "/artifacts", "mode": "ro"}},
        )  # fmt: skip
    except docker.errors.ImageNotFound:
        stop(69, f"image {image('archive').removesuffix(':latest')} is missing: make images")
    try:
        yield container
    finally:
        container.remove(v=True)


def make_volumes(data: Path, artifacts: str) -> str:
    """Make the volume `artifacts` and a read-only one for `data`; return the latter's name.

    A named volume of the local driver bound to a folder keeps host paths out of the DAG and its operator.
    """
    client = engine()
    name = f"face-attributes-data-{digest_of(data)}"
    existing = {volume.name for volume in client.volumes.list()}
    if name not in existing:
        client.volumes.create(name, driver="local", driver_opts={"type": "none", "o": "bind,ro", "device": str(data)})
    if artifacts not in existing:
        client.volumes.create(artifacts)
    return name


def unreadable(data: Path) -> Path | None:
    """The first file or folder of a data folder that others than its owner cannot read; stages run as uid 10001."""
    folders = dict.fromkeys((data / annotations_of(data), data / "raw"))
    folders |= {data / name: None for name in (*OWN, CORRECTIONS) if (data / name).exists()}
    for path in (data, *folders, *(path for folder in folders for path in folder.rglob("*"))):
        mode = path.lstat().st_mode
        needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
        if mode & needed != needed:
            return path
    return None


def leads_out(path: Path, data: Path) -> bool:
    """Whether a path is a link that is broken in a container, which sees only files in `data`."""
    while path.is_symlink():
        target = path.readlink()
        path = Path(os.path.normpath(path.parent / target))
        if target.is_absolute() or not path.is_relative_to(data):
            return True
    return False


def tables_in(folder: Path) -> list[str]:
    """The names of the files in a folder that may be annotations."""
    return sorted(
        path.name for path in folder.iterdir()
        if path.suffix.lower() in {".csv", ".txt", ".tsv"} and path.is_file() and not path.name.startswith(".")
    )  # fmt: skip


def annotations_of(data: Path) -> str:
    """The annotations in a data folder: a file, a folder of files, the only table there, or those in raw/."""
    if named := [name for name in ANNOTATIONS if (data / name).exists()]:
        return named[0]
    tables = tables_in(data)
    return tables[0] if len(tables) == 1 and not _beside_images(data / "raw") else "raw"


def _beside_images(raw: Path) -> bool:
    """Whether annotations lie beside the images, as in Cartoon Set."""
    return any(tables_in(Path(folder)) for folder, _, _ in os.walk(raw))


def unusable(data: Path, in_containers: bool) -> str:
    """Why the pipeline cannot run on a data folder, in a line with the remedy; "" if it can."""
    if not (data / "raw").is_dir():
        return f"{data / 'raw'} is missing: DATA must name a folder with raw/ (lots of images) and annotations.csv"
    if all((data / name).exists() for name in ANNOTATIONS):
        return (
            f"{data} has annotations.csv and annotations/, and only one of them is read: put the file into the folder"
        )
    if annotations_of(data) == "raw" and not _beside_images(data / "raw"):
        shown = tables_in(data) or sorted(
            path.name for path in data.iterdir() if path.name[0] != "." and path.name != "raw"
        )
        found = f", but {', '.join(shown[:5])}" if shown else ""
        return (
            f"{data} has no annotations.csv and no folder annotations/{found}: save the annotations as "
            "annotations.csv, or put several files into annotations/"
        )
    if not in_containers and (odd := sorted(set(str(data / annotations_of(data))) & set('"$`\\'))):
        return f"{data} has {' '.join(odd)} in its path, which DVC hands to a shell: rename it"
    if in_containers:
        for path in (data / "raw", data / annotations_of(data), *(data / name for name in OWN)):
            if leads_out(path, data):
                return (
                    f"{path} is a link to {path.readlink()}, where containers see nothing: move it here, or ENGINE=none"
                )
        if private := unreadable(data):
            return f"{private} cannot be read by the containers' user: chmod -R o+rX {data}"
    return ""


def unknown_recipe(recipe: str) -> str:
    """Why there is no such recipe, in a line; "" if there is."""
    known = ["none", *RECIPES]
    return "" if recipe in known else f"there is no recipe {recipe!r}: RECIPE is one of {', '.join(known)}"


def follow(command: list[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a command; its whole output goes to `log`, the important lines also to the terminal."""
    say(f"$ {' '.join(command)}   (whole log: {os.path.relpath(log)})")
    last: deque[str] = deque(maxlen=5)
    told = False  # whether a cause was shown
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line in process.stdout or []:
            file.write(line)
            if found := SHOWN.search(line):
                say("  " + CONTROL.sub("", next(text for text in found.groupdict().values() if text)[:200]))
                told = told or bool(found["cause"]) or " ERROR " in line
            last.append(line)
        status = process.wait()
    if status and not told:
        say("".join(f"  {CONTROL.sub('', line)}" for line in last).rstrip())
    return status


def airflow_results(
    environment: Mapping[str, str], dag: str, moment: str
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Results that the stages of a DAG run pushed to XCom, and the names of the tasks that failed."""
    os.environ.update(environment)
    from airflow.models import DagRun, TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        run = select(DagRun.run_id).where(DagRun.dag_id == dag, DagRun.logical_date == datetime.fromisoformat(moment))
        rows = session.scalars(
            select(XComModel).where(XComModel.run_id.in_(run), XComModel.key == "return_value")
        ).all()
        values = {row.task_id.rpartition(".")[2]: XComModel.deserialize_value(row) for row in rows}
        failed = session.scalars(
            select(TaskInstance.task_id).where(TaskInstance.run_id.in_(run), TaskInstance.state == "failed")
        ).all()
    return (
        {stage: values[stage] for stage in stages() if stage in values},
        sorted({task.rpartition(".")[2] for task in failed}),
    )


def export(artifact: str, volume: str) -> Path:
    """Copy an artifact, or the report of a failed stage, out of a volume to `reports/<stage>/`; return the copy.

    Raises:
        SystemExit: the path, which a container wrote, is not that of an artifact: nothing outside may be replaced.
    """
    if not ARTIFACT.fullmatch(artifact):
        stop(
            70,
            f"a stage returned {str(artifact)[:200]!r}, not the path of an artifact: check the image of that stage",
        )
    return copy_out(artifact, volume) or stop(69, f"{artifact} is not in volume {volume} any more: make run")


def copy_out(folder: str, volume: str) -> Path | None:
    """Copy a folder out of a volume to the same place below `reports/`; None if it is not there."""
    import docker

    with container_with(volume) as container:
        try:
            stream, _ = container.get_archive(folder)
            packed = io.BytesIO(b"".join(stream))
        except docker.errors.NotFound:
            return None
    name = Path(folder).name
    target = ROOT / "reports" / Path(folder).relative_to("/artifacts")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as partial:
        try:
            with tarfile.open(fileobj=packed) as tar:
                tar.extractall(partial, filter="data")
        except tarfile.FilterError as error:
            stop(70, f"{folder} is not copied, its files do not stay in their folder: {error}")
        shutil.rmtree(target, ignore_errors=True)
        Path(partial, name).rename(target)
    return target


def export_report(results: Mapping[str, Mapping[str, Any]], volume: str) -> Path:
    """Copy the report of the last stage, and the artifact that it links; return the report."""
    last = list(results.values())[-1]
    return export_all((last["path"], str(Path(last["report"]).parent)), volume)  # the page of a run is apart


def export_all(folders: Iterable[str], volume: str) -> Path:
    """Copy artifacts, and the page of all versions; return the report of the last one."""
    copies = [export(folder, volume) for folder in dict.fromkeys(folders)]
    copy_out(VERSIONS, volume)
    return copies[-1] / "report.html"


def newest_report(volume: str) -> Path | None:
    """The page of the newest run of the pipeline, copied out of a volume with the version that it links."""
    if volume not in {known.name for known in engine().volumes.list()}:
        return None
    with container_with(volume, "cd /artifacts/run && cat $(ls -td */ | head -n 1)manifest.json") as container:
        container.start()
        if container.wait()["StatusCode"]:
            return None
        output = container.logs(stderr=False)  # not while it runs: in one of six tries, a short answer was missing
    try:
        manifest = json.loads(output)
        folders = f"/artifacts/archive/{manifest['inputs']['archive']['key']}", f"/artifacts/run/{manifest['key']}"
    except (KeyError, TypeError, ValueError):
        stop(70, f"the newest folder of /artifacts/run in volume {volume} has no manifest of a run: make run")
    return export_all(folders, volume)


def newest_page(kept: Path) -> Path | None:
    """The page of the newest run without containers; `kept` is the folder that section `input` of params.yaml names."""
    pages = sorted(kept.glob("run/*/report.html"), key=lambda page: page.stat().st_mtime)
    return pages[-1] if pages else None


def prepare_database(airflow: str, environment: Mapping[str, str]) -> None:
    """Make Airflow's database, or bring it up to date.

    That takes 4 s of a core even without changes, so it is skipped as long as the libraries are the same.
    """
    libraries = hashlib.sha256((ROOT / "requirements.txt").read_bytes()).hexdigest()
    done = HOME / "migrated"
    if done.is_file() and done.read_text(encoding="utf-8") == libraries and (HOME / "airflow.db").is_file():
        return
    HOME.mkdir(exist_ok=True)
    if follow([airflow, "db", "migrate"], environment, HOME / "migrate.log") != 0:
        stop(69, f"Airflow's database could not be made: see {HOME / 'migrate.log'}, or remove {HOME} and try again")
    done.write_text(libraries, encoding="utf-8")


def run_with_airflow(dag: str, data: Path, conf: str, recipe: str) -> Outcome:
    """Run the DAG once."""
    volume = artifacts_volume(data)
    environment = airflow_environment(make_volumes(data, volume), annotations_of(data), volume, recipe)
    airflow = str(Path(sys.executable).with_name("airflow"))
    prepare_database(airflow, environment)
    moment = datetime.now(UTC).isoformat()
    status = follow([airflow, "dags", "test", dag, moment, "--conf", conf], environment, HOME / "run.log")
    results, failed = airflow_results(environment, dag, moment)
    if status == 0:
        return Outcome(results, [], export_report(results, volume))
    # The report of a stage that failed on the data is in the volume, where people cannot open it.
    kept = re.findall(r"/artifacts/\w+/failed-\w+", (HOME / "run.log").read_text(encoding="utf-8"))
    if kept:
        say(f"  findings in the data: {export(kept[-1], volume)}")
    return Outcome(results, failed, None)


def attributes_of(data: Path) -> Path:
    """The attributes.yaml of a data folder: its own, or else that of the samples."""
    return data / ATTRIBUTES if (data / ATTRIBUTES).exists() else Path("data", ATTRIBUTES)


def kept_of(data: Path) -> str:
    """Folder with registry, monitoring log and pages of runs of a data folder, without containers."""
    return "artifacts" if data == ROOT / "data" else f"artifacts/data-{digest_of(data)}"


def corrections_of(data: Path) -> str:
    """The folder of corrections in a data folder; it is made, or if that is not possible, an empty folder elsewhere."""
    try:
        (data / CORRECTIONS).mkdir(exist_ok=True)
        return str(data / CORRECTIONS)
    except OSError:
        empty = Path(kept_of(data), CORRECTIONS)
        (ROOT / empty).mkdir(parents=True, exist_ok=True)
        return str(empty)


def input_section(data: Path | None = None) -> dict[str, str]:
    """Section `input` of params.yaml, with the inputs of `dvc repro`; from now on it names `data`, if given."""
    if data:
        own = {
            "raw": str(data / "raw"),
            "annotations": str(data / annotations_of(data)),
            "attributes": str(attributes_of(data)),
            "corrections": corrections_of(data),
            "expectations": str(data / EXPECTATIONS) if (data / EXPECTATIONS).is_dir() else EXPECTATIONS,
            "card": str(data),
            "kept": kept_of(data),
        }
        write_params({"input": own}, PARAMS)
    return dict(yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["input"])


def take(file: Path) -> None:
    """Write the values of a recipe, or of the params.yaml of the data, into ours, which `dvc repro` reads."""
    from stages.common.contract.errors import StageError
    from stages.common.contract.params import own_sections, read_sections

    try:
        ours, sections = read_sections(PARAMS), (read_sections if file.parent == ROOT else own_sections)(file)
    except StageError as error:
        stop(error.exit_code, str(error))
    write_params(sections, file)
    if file.parent != ROOT:
        REPLACED.parent.mkdir(exist_ok=True)
        REPLACED.write_text(json.dumps([ours, read_sections(PARAMS)]), encoding="utf-8")
    name = os.path.relpath(file, ROOT)
    say(f"params.yaml: now has the values of {name}, so that DVC tracks them")


def put_back() -> None:
    """Restore the values that the last data folder's params.yaml has replaced in ours, unless changed since."""
    from stages.common.contract.errors import StageError
    from stages.common.contract.params import read_sections

    if not REPLACED.exists():
        return
    ours, theirs = json.loads(REPLACED.read_text(encoding="utf-8"))
    try:
        now = read_sections(PARAMS)
    except StageError as error:
        stop(error.exit_code, str(error))
    replaced = {
        section: {key: old for key, old in values.items() if old != theirs[section][key] == now[section].get(key)}
        for section, values in ours.items()
        if section in now
    }
    write_params(replaced, REPLACED)
    REPLACED.unlink()
    say("params.yaml: has its own values again in place of those of the last data folder")


def write_params(sections: Mapping[str, Any], file: Path) -> None:
    """Replace values in params.yaml. Every other byte stays: comments, quotes, line breaks.

    Args:
        sections: the keys that differ, in their sections.
        file: their file, for messages.
    """
    from stages.common.contract.errors import StageError
    from stages.common.contract.params import lay_over, read_sections

    try:
        before = read_sections(PARAMS)
        lay_over(after := deepcopy(before), sections, file)
    except StageError as error:
        stop(error.exit_code, str(error))
    text = PARAMS.read_bytes().decode()
    done, parts = 0, []
    for start, end, value in differing(yaml.compose(text), before, after):
        gap = " " if start == end else ""  # after `key:` without a value
        parts += [text[done:start], gap, yaml.safe_dump([value], default_flow_style=True, width=math.inf)[1:-2]]
        done = end
    partial = PARAMS.with_name(f".{PARAMS.name}.partial")  # so that a full disk does not destroy it
    try:
        partial.write_bytes("".join([*parts, text[done:]]).encode())
        shutil.copymode(PARAMS, partial)
        partial.replace(PARAMS)
    except OSError as error:
        stop(69, f"{PARAMS} cannot be written ({error.strerror}): free space, or let uid {os.getuid()} write there")
    finally:
        partial.unlink(missing_ok=True)


def differing(node: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[int, int, Any]]:
    """Values of a YAML mapping that change: the first and the last place of the present one, and the new value.

    Args:
        node: the mapping as PyYAML composes it.
        before: its values.
        after: its values afterwards, with the same keys.
    """
    for key, value in node.value:
        old, new = before[key.value], after[key.value]
        if old and isinstance(old, dict):
            yield from differing(value, old, new)
        elif old != new:
            last = value
            while last.value and not isinstance(last.value, str) and not last.flow_style:
                last = last.value[-1]  # a block ends with its last item, not with the comments that follow
            yield value.start_mark.index, last.end_mark.index, new


def run_with_dvc(data: Path | None) -> Outcome:
    """Run the stages on this machine with `dvc repro`."""
    home = ROOT / "artifacts"
    home.mkdir(exist_ok=True)
    kept = ROOT / input_section(data)["kept"]
    if data:
        say(f"params.yaml: section input now names {data}, so that DVC tracks it")
    before = {path.parent.name: path.stat().st_mtime_ns for path in home.glob("*/manifest.json")}
    binaries = Path(sys.executable).parent
    status = follow(
        [str(binaries / "dvc"), "repro"],
        os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        home / "run.log",
    )
    told = (home / "run.log").read_text(encoding="utf-8")
    # The result of an earlier run in the folder of a stage that this run did not reach does not belong to it.
    failed = re.findall(r"failed to reproduce '(\w+)'", told) if status else []
    reached = set(re.findall(r"(?:Running stage|Stage) '(\w+)'", told)) - set(failed)
    results = {}
    for stage in stages():
        path = home / stage / "manifest.json"
        if stage in reached and path.exists():
            manifest = json.loads(path.read_text(encoding="utf-8"))
            cached = before.get(stage) == path.stat().st_mtime_ns
            results[stage] = {**manifest, "cached": cached, "seconds": 0.0 if cached else manifest["seconds"]}
    return Outcome(results, failed, newest_page(kept) if status == 0 else None)


def table(outcome: Outcome) -> str:
    """The closing table: stage, seconds, cached or not, headline figures; then what failed."""
    lines = [f"{'stage':<14} {'seconds':>8}  {'cached':<6}  headline"]
    for stage, result in outcome.results.items():
        told = list(result["headline"].items())
        figures = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in told[:FIGURES]
        ) + (", ..." if len(told) > FIGURES else "")
        lines.append(f"{stage:<14} {result['seconds']:>8.1f}  {'yes' if result['cached'] else 'no':<6}  {figures}")
    return "\n".join([*lines, *(f"{task:<14} {'':>8}  {'':<6}  FAILED" for task in outcome.failed)])


def is_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def main() -> int:
    """Run, print the table and the report's path; 1 if the run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("docker", "none"), default="docker", help="default: %(default)s")
    parser.add_argument(
        "--data",
        type=Path,
        help=f"folder with raw/, annotations.csv or annotations/, optionally {', '.join(OWN)} (default: data)",
    )
    parser.add_argument("--dag", choices=DAGS, default=DAGS[0], help="with docker; default: %(default)s")
    parser.add_argument(
        "--conf", default="{}", help="run parameters of the DAG, for example '{\"epochs\": 3}'; with docker"
    )
    parser.add_argument("--recipe", help="override params.yaml with the values of params-<name>.yaml")
    parser.add_argument(
        "--report", action="store_true", help="run nothing, copy the report of the newest run and print its path"
    )
    arguments = parser.parse_args()
    in_containers = arguments.engine == "docker"
    data = arguments.data.resolve() if arguments.data else ROOT / "data" if in_containers else None
    if arguments.report:
        if in_containers:
            page = newest_report(artifacts_volume(data or ROOT / "data"))
        else:
            page = newest_page(ROOT / kept_of(data) if data else ROOT / input_section()["kept"])
        say(f"report: {page}" if page else "no run has ended with a version yet: make run")
        return 0 if page else 69
    if not is_object(arguments.conf):
        stop(64, f"--conf must be a JSON object, for example '{{\"epochs\": 3}}', not {arguments.conf[:100]!r}")
    if not in_containers and (json.loads(arguments.conf) or arguments.dag != DAGS[0]):
        remedy = "without containers change params.yaml, or dvc exp run -S train.epochs=3"
        stop(64, f"--conf and --dag are for Airflow: {remedy}")
    recipe = arguments.recipe or "none"
    if problem := (unusable(data, in_containers) if data else "") or unknown_recipe(recipe):
        stop(64, problem)
    if data and (annotations := annotations_of(data)) not in ANNOTATIONS:
        say(f"annotations: {data / annotations}")
    started = time.monotonic()
    if in_containers and data:
        outcome = run_with_airflow(arguments.dag, data, arguments.conf, recipe)
    else:
        if data:
            put_back()
        if recipe != "none":
            take(ROOT / f"params-{recipe}.yaml")
        if data and data != ROOT and (data / "params.yaml").exists():
            take(data / "params.yaml")
        outcome = run_with_dvc(data)
    say("")
    say(table(outcome))
    say("")
    say(f"pipeline: {time.monotonic() - started:.0f} s")
    if data and data != ROOT / "data":
        where = f"volume {artifacts_volume(data)}" if in_containers else f"folder {kept_of(data)}"
        say(f"models, champion and reports of these data: {where}")
    if outcome.report is None:
        say("The run failed, see the cause above. Correct it and run again; finished stages are cached.")
        return 1
    say(f"report: {outcome.report}")
    return 0


if __name__ == "__main__":
    if sys.getfilesystemencoding() != "utf-8":  # file names are UTF-8, independently of the locale
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    sys.exit(main())
