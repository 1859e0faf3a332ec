"""The main job for real: the DAG through Airflow, every stage in its own image, on a tiny data set."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pipeline import TRAINING
from tests.read_only import read_only

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[1]
VOLUME = f"face-attributes-test-{uuid.uuid4().hex[:8]}-artifacts"

HOSTILE = {"key": "0" * 64, "inputs": {"archive": {"key": "../../../app"}}}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, "-m", "data.make_samples", "--out", folder, "--count", "96"], cwd=ROOT, check=True)
    (folder / "params.yaml").write_text("hyperopt: {epochs: 2}\nlabel_doubt: {folds: 2, epochs: 1}\n")
    folder.chmod(0o755)  # pytest's folders are private, and stages run as another user
    return folder


@pytest.fixture(scope="module")
def run(docker: "DockerClient", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run the pipeline on a data folder, with an Airflow database and an artifacts volume of the tests' own."""
    subprocess.run([ROOT / "scripts" / "images"], check=True)
    home = tmp_path_factory.mktemp("airflow")
    folders = set[str]()

    def call(data: Path, **conf: object) -> "subprocess.CompletedProcess[str]":
        folders.add(str(data))
        return subprocess.run(
            [sys.executable, ROOT / "scripts/run_pipeline.py", "--data", data, "--conf", json.dumps(conf)],
            env=os.environ | {"AIRFLOW_HOME": str(home), "FACE_ATTRIBUTES_ARTIFACTS_VOLUME": VOLUME},
            text=True, capture_output=True, check=False,
        )  # fmt: skip

    yield call
    for volume in docker.volumes.list():
        if volume.name == VOLUME or (volume.attrs["Options"] or {}).get("device") in folders:
            volume.remove()


def cached_of(output: str) -> dict[str, str]:
    """Stage -> "yes" or "no", from the closing table."""
    return dict(re.findall(r"^(\w+) +[\d.]+  (yes|no) ", output, re.MULTILINE))


@pytest.fixture(scope="module")
def first(run: Run, data: Path) -> str:
    process = run(data, max_evals=2, epochs=2)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_a_run_makes_everything_and_ends_with_a_report(first: str) -> None:
    assert cached_of(first) == dict.fromkeys(TRAINING, "no")
    report = Path(re.findall(r"^report: (.*)$", first, re.MULTILINE)[0])
    (archive,) = re.findall(r'href="(\.\./\.\./archive/[^"]*)lineage.json"', report.read_text())
    lineage = json.loads((report.parent / archive / "lineage.json").read_text())
    assert lineage["prepare_train"]["headline"]["images"] == 96
    assert all(entry["image"].startswith("sha256:") for entry in lineage.values())
    assert "mean test accuracy" in report.read_text()


def test_a_second_run_finds_everything(first: str, run: Run, data: Path) -> None:
    assert cached_of(run(data, max_evals=2, epochs=2).stdout) == dict.fromkeys(TRAINING, "yes")


def test_a_changed_run_parameter_recomputes_what_depends_on_it(first: str, run: Run, data: Path) -> None:
    cached = cached_of(run(data, max_evals=2, epochs=1).stdout)
    assert [stage for stage in TRAINING if cached[stage] == "yes"] == ["validate", "prepare_train", "hyperopt"]


def test_bad_annotations_stop_the_run_before_anything_trains(run: Run, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "data"
    shutil.copytree(data, bad)
    bad.chmod(0o755)
    for image in sorted((bad / "raw" / "s1").iterdir()):
        image.unlink()
    process = run(bad, max_evals=1, epochs=1)
    assert process.returncode == 1
    assert "rows rejected" in process.stdout
    assert "run failed" in process.stdout
    kept = Path(re.findall(r"findings in the data: (.*)", process.stdout)[0])
    assert "image missing" in (kept / "rejected.csv").read_text()
    assert (kept / "report.html").exists()
    assert cached_of(process.stdout) == {}


def test_private_data_are_named_before_anything_runs(run: Run, data: Path) -> None:
    image = next((data / "raw" / "s1").iterdir())
    image.chmod(0o600)
    process = run(data)
    image.chmod(0o644)
    assert process.returncode == 64
    assert process.stdout == f"{image} cannot be read by the containers' user: chmod -R o+rX {data}\n"


def test_annotations_in_two_places_are_refused(run: Run, data: Path) -> None:
    folder = data / "annotations"
    folder.mkdir()
    process = run(data)
    folder.rmdir()
    assert process.returncode == 64
    assert process.stdout.endswith("and only one of them is read: put the file into the folder\n")


def test_what_a_stage_has_written_replaces_nothing_outside_of_the_reports(
    docker: "DockerClient", tmp_path: Path
) -> None:
    volume = docker.volumes.create()
    script = tmp_path / "clone/scripts/run_pipeline.py"
    outside = tmp_path / "app/mine.txt"
    for path in (script, outside):
        path.parent.mkdir(parents=True)
    for name in ("run_pipeline.py", "image_tools.py"):
        shutil.copy(ROOT / "scripts" / name, script.parent)
    outside.write_text("mine")
    write = (
        "import pathlib, sys; file = pathlib.Path('/artifacts/run/a/manifest.json'); file.parent.mkdir(parents=True); "
    )
    try:
        docker.containers.run(
            "face-attributes/archive", ["-c", f"{write}file.write_text(sys.argv[1])", json.dumps(HOSTILE)],
            entrypoint="python", remove=True, volumes={volume.name: {"bind": "/artifacts", "mode": "rw"}},
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, script, "--report"],
            env=os.environ | {"FACE_ATTRIBUTES_ARTIFACTS_VOLUME": volume.name},
            text=True, capture_output=True, check=False,
        )  # fmt: skip
    finally:
        volume.remove()
    assert outside.read_text() == "mine"
    assert done.returncode == 70, done.stdout + done.stderr
    assert done.stdout.startswith("a stage returned '/artifacts/archive/../../../app', ")


def test_the_stack_has_volumes_of_each_data_folder_also_of_one_that_cannot_be_written_to(
    docker: "DockerClient", data: Path, tmp_path: Path
) -> None:
    other, third = tmp_path / "data", tmp_path / "read_only"
    for folder in (other, third):
        shutil.copytree(data, folder, ignore=shutil.ignore_patterns("corrections"))
    tmp_path.chmod(0o755)
    file = tmp_path / "settings.env"
    before = {volume.name for volume in docker.volumes.list()}
    told: list[str] = []
    made: set[str] = set()

    def volume_of(folder: Path, kind: str = "ARTIFACTS") -> str:
        command = map(str, [sys.executable, ROOT / "scripts/stack_settings.py", "--env-file", file, "--data", folder])
        told.append(subprocess.run([*command], check=True, capture_output=True, text=True).stdout)
        settings = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
        volumes = {kind: settings[f"FACE_ATTRIBUTES_{kind}_VOLUME"] for kind in ("DATA", "ARTIFACTS", "CORRECTIONS")}
        made.update(volumes.values())
        return volumes[kind]

    def bound_to(volume: str) -> str | None:
        return (docker.volumes.get(volume).attrs["Options"] or {}).get("device")

    file.write_text("POSTGRES_IMAGE=none\nREDIS_IMAGE=none\n")
    try:
        volumes = [volume_of(data), volume_of(other), volume_of(data)]
        assert volumes[0] == volumes[2]
        assert len({*volumes, "face-attributes-artifacts"}) == 3
        file.write_text(file.read_text().replace(volumes[0], f"{VOLUME}-nfs"))
        with read_only(third):
            assert volume_of(third) == f"{VOLUME}-nfs"  # a name that somebody wrote stays
            assert bound_to(volume_of(third, "CORRECTIONS")) is None
        assert f"{third / 'corrections'} cannot be made, or given to user 50000 (" in told[-1]
        assert bound_to(volume_of(third, "CORRECTIONS")) == str(third / "corrections")
    finally:
        for name in made - before:
            docker.volumes.get(name).remove()
