"""The main job: run the pipeline once, or another DAG, and end with a short table and the path of the report.

With a container engine it runs the DAG through Airflow (embedded SQLite database, no server); with `--engine none` the
same stages with `dvc repro`. `make run` calls this after set-up; anybody may call it again by hand.
"""

import argparse
import hashlib
import io
import json
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
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DAGS = ("ml_pipeline_face_attributes", "predict_new_lots", "model_monitoring_and_retraining")
STAGES = (
    "validate", "prepare_train", "hyperopt", "train", "evaluate", "label_doubt", "archive", "champion", "predict",
    "monitor",
)  # fmt: skip
ARTIFACTS_VOLUME = os.environ.get("FACE_ATTRIBUTES_ARTIFACTS_VOLUME", "face-attributes-artifacts")
HOME = Path(os.environ.get("AIRFLOW_HOME", ROOT / ".airflow"))
SHOWN = re.compile(
    r"(?P<stage>\d\d:\d\d:\d\d (INFO|WARNING|ERROR) .*?)(\s+\[[\w.-]+\]( \w+=\S+)*)?$"  # a stage's own log line
    r"|(?P<task>Running (face-attributes/\w+(?!.* --check)|stage '\w+'))"
    r"|(Airflow\w*Exception|ParamValidationError): (?P<cause>.*)"
)
"""Lines of the run's log that are worth seeing live, cut to what matters; the whole log is in the file named first."""


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def airflow_environment(data_volume: str, annotations: str) -> dict[str, str]:
    """The environment that makes Airflow run our DAGs from the repository with its embedded database."""
    return {
        **os.environ,
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # A cancelled run is noticed at the next heartbeat; with the default of 5 s its container would live 8 s.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "FACE_ATTRIBUTES_DATA_VOLUME": data_volume,
        "FACE_ATTRIBUTES_ANNOTATIONS": f"/data/{annotations}",
        "FACE_ATTRIBUTES_ARTIFACTS_VOLUME": ARTIFACTS_VOLUME,
    }


def make_volumes(data: Path, artifacts: str = ARTIFACTS_VOLUME) -> str:
    """Make the volume `artifacts` and a read-only one that shows `data`; return the latter's name.

    A named volume of the local driver bound to a folder keeps host paths out of the DAG and its operator.
    """
    import docker

    client = docker.from_env()
    name = f"face-attributes-data-{hashlib.sha256(str(data).encode()).hexdigest()[:12]}"
    existing = {volume.name for volume in client.volumes.list()}
    if name not in existing:
        client.volumes.create(name, driver="local", driver_opts={"type": "none", "o": "bind,ro", "device": str(data)})
    if artifacts not in existing:
        client.volumes.create(artifacts)
    return name


def unreadable(data: Path) -> Path | None:
    """The first file or folder of a data folder that others than its owner cannot read; stages run as uid 10001."""
    folders = dict.fromkeys((data / annotations_of(data), data / "raw"))
    for path in (data, *folders, *(path for folder in folders for path in folder.rglob("*"))):
        mode = path.lstat().st_mode
        needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
        if mode & needed != needed:
            return path
    return None


def unusable(data: Path, in_containers: bool) -> str:
    """Why the pipeline cannot run on a data folder, in a line that says what to do; "" if it can."""
    if not (data / "raw").is_dir():
        return f"{data / 'raw'} is missing: DATA must name a folder with raw/ (lots of images) and annotations.csv"
    if all((data / name).exists() for name in ("annotations.csv", "annotations")):
        return (
            f"{data} has annotations.csv and annotations/, and only one of them is read: put the file into the folder"
        )
    if in_containers and (private := unreadable(data)):
        return f"{private} cannot be read by the containers' user: chmod -R o+rX {data}"
    return ""


def follow(command: list[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a command, its whole output into `log`, the telling lines also onto the terminal."""
    say(f"$ {' '.join(command)}   (whole log: {os.path.relpath(log)})")
    last: deque[str] = deque(maxlen=5)
    told = False  # why it failed
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line in process.stdout or []:
            file.write(line)
            if found := SHOWN.search(line):
                say("  " + next(text for text in found.groupdict().values() if text)[:200])
                told = told or bool(found["cause"]) or " ERROR " in line
            last.append(line)
        status = process.wait()
    if status and not told:
        say("".join(f"  {line}" for line in last).rstrip())
    return status


def annotations_of(data: Path) -> str:
    """The annotations in a data folder: a file, or a folder of files, or else what lies beside the images."""
    return next((name for name in ("annotations.csv", "annotations") if (data / name).exists()), "raw")


def airflow_results(environment: Mapping[str, str], dag: str, moment: str) -> dict[str, dict[str, Any]]:
    """The results that the stages of the run of that moment pushed to XCom: stage -> result."""
    os.environ.update(environment)
    from airflow.models import DagRun
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        run = select(DagRun.run_id).where(DagRun.dag_id == dag, DagRun.logical_date == datetime.fromisoformat(moment))
        rows = session.scalars(
            select(XComModel).where(XComModel.run_id.in_(run), XComModel.key == "return_value")
        ).all()
        values = {row.task_id.rpartition(".")[2]: XComModel.deserialize_value(row) for row in rows}
    return {stage: values[stage] for stage in STAGES if stage in values}


def export(artifact: str) -> Path:
    """Copy an artifact, or what a failed stage has kept, out of the volume to `reports/<stage>/`; return the copy."""
    import docker

    client = docker.from_env()
    container = client.containers.create(
        "face-attributes/archive", volumes={ARTIFACTS_VOLUME: {"bind": "/artifacts", "mode": "ro"}}
    )
    try:
        stream, _ = container.get_archive(artifact)
        packed = io.BytesIO(b"".join(stream))
    finally:
        container.remove(v=True)
    name = Path(artifact).name
    target = ROOT / "reports" / Path(artifact).relative_to("/artifacts")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=packed) as tar, tempfile.TemporaryDirectory(dir=target.parent) as folder:
        tar.extractall(folder, filter="data")
        shutil.rmtree(target, ignore_errors=True)
        Path(folder, name).rename(target)
    return target


def export_report(results: Mapping[str, Mapping[str, Any]]) -> Path:
    """Copy the report of the last stage, and the artifact that it leads to; return the report."""
    last = list(results.values())[-1]
    folders = dict.fromkeys(
        (last["path"], str(Path(last["report"]).parent))
    )  # of archive, the page of the run is apart
    return [export(folder) for folder in folders][-1] / "report.html"


def newest_report(in_containers: bool) -> Path | None:
    """The page of the newest run of the pipeline; out of the volume it is copied, with the version that it leads to."""
    if not in_containers:
        pages = sorted((ROOT / "artifacts").glob("run/*/report.html"), key=lambda page: page.stat().st_mtime)
        return pages[-1] if pages else None
    import docker

    script = "cd /artifacts/run 2>/dev/null && cat $(ls -td */ | head -n 1)manifest.json"
    try:
        output = docker.from_env().containers.run(
            "face-attributes/archive", ["-c", script], entrypoint="sh", remove=True, network_mode="none",
            volumes={ARTIFACTS_VOLUME: {"bind": "/artifacts", "mode": "ro"}},
        )  # fmt: skip
    except docker.errors.ContainerError:
        return None
    manifest = json.loads(output)
    export(f"/artifacts/archive/{manifest['inputs']['archive']['key']}")
    return export(f"/artifacts/run/{manifest['key']}") / "report.html"


def run_with_airflow(dag: str, data: Path, conf: str) -> tuple[dict[str, dict[str, Any]], Path | None]:
    """Run the DAG once; return the stages' results, and the report if the run succeeded."""
    environment = airflow_environment(make_volumes(data), annotations_of(data))
    HOME.mkdir(exist_ok=True)
    airflow = str(Path(sys.executable).with_name("airflow"))
    if follow([airflow, "db", "migrate"], environment, HOME / "migrate.log") != 0:
        sys.exit(f"Airflow's database could not be made: see {HOME / 'migrate.log'}, or remove {HOME} and try again")
    moment = datetime.now(UTC).isoformat()
    status = follow([airflow, "dags", "test", dag, moment, "--conf", conf], environment, HOME / "run.log")
    results = airflow_results(environment, dag, moment)
    if status == 0:
        return results, export_report(results)
    # What a stage keeps for people when the data are bad lies in the volume, where they cannot look.
    kept = re.findall(r"/artifacts/\w+/failed-\w+", (HOME / "run.log").read_text(encoding="utf-8"))
    if kept:
        say(f"  what is wrong with the data: {export(kept[-1])}")
    return results, None


def run_with_dvc(data: Path | None) -> tuple[dict[str, dict[str, Any]], Path | None]:
    """Run the stages on this machine with `dvc repro`; return their results, and the report if all succeeded."""
    from dvc.utils.serialize import modify_yaml  # keeps the comments

    home = ROOT / "artifacts"
    home.mkdir(exist_ok=True)
    if data:
        with modify_yaml(str(ROOT / "params.yaml")) as params:
            params["input"] |= {"raw": str(data / "raw"), "annotations": str(data / annotations_of(data))}
        say(f"params.yaml: section input names {data} now, so that DVC tracks which data were used")
    before = {path.parent.name: path.stat().st_mtime_ns for path in home.glob("*/manifest.json")}
    binaries = Path(sys.executable).parent
    status = follow(
        [str(binaries / "dvc"), "repro"],
        os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        home / "run.log",
    )
    results = {}
    for stage in STAGES:
        path = home / stage / "manifest.json"
        if path.exists():
            manifest = json.loads(path.read_text(encoding="utf-8"))
            cached = before.get(stage) == path.stat().st_mtime_ns
            results[stage] = {**manifest, "cached": cached, "seconds": 0.0 if cached else manifest["seconds"]}
    return results, newest_report(in_containers=False) if status == 0 else None


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The closing table: stage, seconds, cached or not, headline figures."""
    lines = [f"{'stage':<14} {'seconds':>8}  {'cached':<6}  headline"]
    for stage, result in results.items():
        figures = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in list(result["headline"].items())[:4]
        )
        lines.append(f"{stage:<14} {result['seconds']:>8.1f}  {'yes' if result['cached'] else 'no':<6}  {figures}")
    return "\n".join(lines)


def main() -> int:
    """Run, print the table and the report's path; 1 if the run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("docker", "none"), default="docker", help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="folder with raw/, annotations.csv or annotations/ (default: data)")
    parser.add_argument("--dag", choices=DAGS, default=DAGS[0], help="with docker; default: %(default)s")
    parser.add_argument("--conf", default="{}", help="run parameters of the DAG, for example '{\"epochs\": 3}'")
    parser.add_argument("--report", action="store_true", help="run nothing, give the report of the newest run")
    arguments = parser.parse_args()
    in_containers = arguments.engine == "docker"
    if arguments.report:
        page = newest_report(in_containers)
        say(f"report: {page}" if page else "no run has ended with a version yet: make run")
        return 0 if page else 69
    data = arguments.data.resolve() if arguments.data else ROOT / "data" if in_containers else None
    if data and (problem := unusable(data, in_containers)):
        say(problem)
        return 64
    started = time.monotonic()
    if in_containers and data:
        results, report = run_with_airflow(arguments.dag, data, arguments.conf)
    else:
        results, report = run_with_dvc(data)
    say("")
    say(table(results))
    say("")
    say(f"pipeline: {time.monotonic() - started:.0f} s")
    if report is None:
        say("The run failed: the cause stands above. Remedy it and run again; finished stages are not repeated.")
        return 1
    say(f"report: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
