"""The model's life after training, for real: release, prediction of a new lot, quiet, drift, retraining, rollback.

At its end the stack is removed, and comes back from its backup.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageEnhance, ImageFilter

from tests.airflow_user import ask
from tests.stack.conftest import BRIEF, impatient
from tests.stack.stack import DAG_ID, ROOT, RUN_S, Stack
from tests.test_docs_commands import commands_from, shell
from tests.waiting import wait_until

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.docker

PREDICT, MONITOR = "predict_new_lots", "model_monitoring_and_retraining"
QUICK: dict[str, Any] = {
    "epochs": 60,
    "max_evals": 1,
}  # 12 s of training on 240 images, which reaches .9 on the sample avatars
LOT = 150  # images


class Life:
    """A stack whose raw folder grows lot by lot."""

    def __init__(self, stack: Stack, samples: Path, data: Path) -> None:
        self.stack = stack
        self.samples = samples
        self.data = data

    def arrive(self, *lots: str, drifted: bool = False) -> None:
        """Let annotated lots arrive: the images of each at once, then their annotations."""
        for lot in lots:
            partial = self.data / f".{lot}"
            shutil.copytree(self.samples / "raw" / lot, partial)
            if drifted:  # another camera: dark and out of focus
                for file in partial.iterdir():
                    picture = Image.open(file).convert("RGBA")
                    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
                    blurred = flat.filter(ImageFilter.GaussianBlur(4))
                    ImageEnhance.Brightness(blurred).enhance(0.6).save(file)
            for path in (partial, *partial.iterdir()):
                path.chmod(0o755)
            partial.rename(self.data / "raw" / lot)
        there = {path.name for path in (self.data / "raw").iterdir()}
        header, *rows = (self.samples / "annotations.csv").read_text().splitlines()
        wanted = [row for row in rows if row.split("_")[0] in there]
        partial = self.data / ".annotations.csv"
        partial.write_text("\n".join([header, *wanted, ""]))
        partial.replace(self.data / "annotations.csv")

    def arrive_without_labels(self, lot: str) -> None:
        """Let a lot of one image arrive that nobody has annotated."""
        partial = self.data / f".{lot}"
        partial.mkdir()
        shutil.copy(next((self.samples / "raw" / "s1").iterdir()), partial / f"{lot}_00000.png")
        for path in (partial, *partial.iterdir()):
            path.chmod(0o755)
        partial.rename(self.data / "raw" / lot)

    def handed_over(self, dag: str, run_id: str, task: str, name: str) -> Any:
        """One value of what a task handed over."""
        path = f"/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/{name}?deserialize=true"
        return self.stack.api(path)["value"]

    def result(self, dag: str, run_id: str, task: str) -> dict[str, Any]:
        """The headline that a task handed over."""
        return dict(self.handed_over(dag, run_id, task, "headline"))

    def predicted(self, version: str, lots: int) -> dict[str, Any]:
        """Wait for a run that nobody has triggered by hand and that has predicted all lots with a version."""

        def found() -> "dict[str, Any] | None":
            for run in self.stack.api(f"/dags/{PREDICT}/dagRuns?order_by=-run_after&limit=5")["dag_runs"]:
                if run["state"] == "success" and run["run_type"] == "asset_triggered":
                    headline = self.result(PREDICT, run["dag_run_id"], "predict")
                    if (headline["version"], headline.get("lots")) == (version, lots):
                        return headline
            return None

        return dict(wait_until(found, f"predictions of {lots} lots by {version}", RUN_S, pause=2))

    def monitor(self) -> "tuple[dict[str, Any], dict[str, str]]":
        """Run a check; what it found, and the states of its tasks."""
        run_id = self.stack.trigger(MONITOR, **QUICK)
        assert self.stack.wait_for_run(run_id, dag_id=MONITOR) == "success"
        states = {task["task_id"]: task["state"] for task in self.stack.tasks(run_id, MONITOR)}
        return self.result(MONITOR, run_id, "monitor"), states

    def in_store(self, *command: str) -> str:
        """Output of a command in a container that sees the artifacts."""
        return self._container("--entrypoint", command[0], "face-attributes/archive", *command[1:])

    def archive(self, *arguments: str) -> str:
        """Output of `python -m stages.archive`, as people call it."""
        return self._container("face-attributes/archive", *arguments)

    def _container(self, *arguments: str) -> str:
        volume = f"{self.stack.artifacts}:/artifacts"
        command = ["docker", "run", "--rm", "--network", "none", "--volume", volume, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def checks(self) -> "list[dict[str, Any]]":
        """The lines of the monitoring log."""
        return [
            json.loads(line)
            for line in self.in_store("cat", "/artifacts/logs/monitoring_log.json").splitlines()
            if line
        ]


@pytest.fixture(scope="module")
def life(docker: "DockerClient", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A stack with two annotated lots, and nothing trained yet."""
    subprocess.run([ROOT / "scripts/images"], check=True)
    folder = tmp_path_factory.mktemp("life")
    samples, data = folder / "samples", folder / "data"
    command = [sys.executable, "-m", "data.make_samples", "--out", str(samples), "--count", str(4 * LOT)]
    subprocess.run(command, cwd=ROOT, check=True)
    (data / "raw").mkdir(parents=True)
    (data / "params.yaml").write_text(BRIEF)
    for path in (folder.parent, folder, data, data / "raw"):
        path.chmod(0o755)
    found = Life(None, samples, data)  # type: ignore[arg-type]
    found.arrive("s1", "s2")
    with Stack(folder, data, files=[impatient(folder)]) as stack:
        found.stack = stack
        yield found


def test_the_life_of_a_model(life: Life) -> None:
    stack = life.stack

    # Before any release there is nothing to predict with, and the run that the lots have started says so.
    def told() -> bool:
        runs = stack.api(f"/dags/{PREDICT}/dagRuns")["dag_runs"]
        return any(run["state"] == "success" for run in runs)

    wait_until(told, "run for the first lots")
    first = stack.api(f"/dags/{PREDICT}/dagRuns")["dag_runs"][0]["dag_run_id"]
    assert life.result(PREDICT, first, "predict")["version"] == "none"

    # Trained on s1 and s2, and released: all lots are predicted without anybody asking for it.
    run_id = stack.trigger(**QUICK)
    assert stack.wait_for_run(run_id) == "success"
    released = life.result(DAG_ID, run_id, "archive")
    assert (released["version"], released["champion"]) == ("v1", "v1")
    life.predicted("v1", lots=2)

    # A clean lot arrives, is predicted alone, and monitoring stays quiet.
    life.arrive("s3")
    assert life.predicted("v1", lots=3)["lots_reused"] == 2
    found, states = life.monitor()
    assert (found["new_lots"], found["drift"], found["retrain"]) == (1, "none", "no")
    assert states["train_again"] == "skipped"

    # A drifted lot arrives: monitoring finds it and starts a training, the gate decides, the champion changes.
    life.arrive("s4", drifted=True)
    life.predicted("v1", lots=4)
    found, states = life.monitor()
    assert (found["drift"], found["retrain"]) == ("found", "yes")
    assert states["train_again"] == "success"
    again = f"retraining__{found['cause_id']}"
    assert stack.wait_for_run(again) == "success"
    assert stack.api(f"/dags/{DAG_ID}/dagRuns/{again}")["conf"] == QUICK | {"recipe": "none", "settings": "data"}
    released = life.result(DAG_ID, again, "archive")
    assert (released["version"], released["champion"]) == ("v2", "v2")
    assert life.predicted("v2", lots=4)["lots_reused"] == 0

    # Rollback in the form restores the old champion, whose predictions are all there; the same cause starts nothing
    # twice.
    back = stack.trigger("release_version", action="rollback", reason="a test")
    assert stack.wait_for_run(back, dag_id="release_version") == "success"
    assert "rollback v1    airflow: a test" in life.archive("versions")
    life.predicted("v1", lots=4)
    assert life.archive("versions").splitlines()[0].split()[:2] == ["v1", "champion"]
    found, states = life.monitor()
    assert (found["drift"], found["retrain"], found["repeated"]) == ("found", "no", "yes")
    assert states["train_again"] == "skipped"
    assert [check["retrain"] for check in life.checks()] == [False, True, False]
    runs = stack.api(f"/dags/{DAG_ID}/dagRuns")["dag_runs"]
    assert sorted(run["dag_run_id"] for run in runs if run["state"] == "success") == sorted([run_id, again])

    # An image that nobody has annotated trains nothing, makes no version, and leaves the rollback as it is.
    life.arrive_without_labels("s9")
    assert life.predicted("v1", lots=5)["lots_reused"] == 4
    quiet = stack.trigger(**QUICK)
    assert stack.wait_for_run(quiet) == "success"
    stages = ("validate", "hyperopt", "train", "evaluate", "label_doubt")
    assert [life.handed_over(DAG_ID, quiet, stage, "cached") for stage in stages] == [False, True, True, True, True]
    released = life.result(DAG_ID, quiet, "archive")
    assert (released["version"], released["champion"]) == ("v2", "v1")

    # Every file of predictions names its version; the lineage leads to the raw files.
    rows = life.in_store("sh", "-c", "cat /artifacts/predict/*/outputs/predictions_s4.csv").splitlines()
    assert {row.split(",")[-1] for row in rows} == {"model_version", "v1", "v2"}
    lineage = life.archive("lineage", "v2")
    assert f"{4 * LOT} files in /data/raw" in lineage


def test_all_of_it_comes_back_from_its_backup(life: Life, tmp_path: Path) -> None:
    stack = life.stack
    wait_until(
        lambda: {"queued", "running"}.isdisjoint(state for *_, state in runs(stack)), "the end of all runs", RUN_S
    )
    person = {"username": "anna", "first_name": "Anna", "last_name": "A", "email": "anna@localhost.invalid"}
    role = {"password": stack.password, "roles": [{"name": "Viewer"}]}
    stack.ask("/auth/fab/v1/users", person | role, stack.log_in())
    before, versions = runs(stack), life.archive("versions")

    # The page's commands, with the settings of this stack in the place of those of the repository.
    (tmp_path / ".env").symlink_to(stack.file)
    compose = {"COMPOSE_PROJECT_NAME": stack.project, "COMPOSE_FILE": os.pathsep.join(stack.files)}
    compose["COMPOSE_ENV_FILES"] = str(stack.file)
    stop, *back_up, _ = commands_from("docs/operate.md", "docker compose stop")
    shell("\n".join([f"{stop} --timeout 3", *back_up]), tmp_path, **compose)
    stack.compose("down", "--volumes")
    subprocess.run(["docker", "volume", "rm", stack.artifacts], check=True, capture_output=True)
    stack.file.write_text("")

    settings, database, *restore, _ = commands_from("docs/operate.md", "cp env.backup")
    assert database == "make up SERVICES=postgres"
    options = f"--env-file {stack.file} --data {life.data}"
    make_up = f"{sys.executable} {ROOT}/scripts/stack_settings.py {options}\ndocker compose up --wait --detach postgres"
    shell("\n".join([settings, make_up, *restore]), tmp_path, **compose)
    stack.compose("up", "--detach", "--wait", "--wait-timeout", f"{RUN_S:.0f}", "airflow-apiserver", "serve")

    assert runs(stack) == before
    assert stack.log_in("anna")
    assert life.archive("versions") == versions
    assert "v1    champion" in versions
    service = f"http://127.0.0.1:{stack.settings['SERVE_PORT']}"
    token = stack.settings["SERVE_TOKEN"]
    wait_until(lambda: ask(f"{service}/versions", token)["serving"] == "v1", "the champion in the service")


def runs(stack: Stack) -> "set[Any]":
    """(DAG, run, state) of all runs."""
    found = stack.api("/dags/~/dagRuns?limit=200")["dag_runs"]
    return {(run["dag_id"], run["dag_run_id"], run["state"]) for run in found}
