"""dvc.yaml run for real, in a repository of its own with tiny data: what reruns, what does not, what is shown."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data.make_samples import annotation_table, draw_face, filenames
from tests.pipeline import STAGES
from tests.scripts.made_run import MadeRun

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


class Workspace:
    """A git and DVC repository, and the commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The stages' `python` is the one that runs the tests; nothing of DVC is written outside.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        site = str(folder.parent / "site")
        self.environment = os.environ | {"PATH": path, "DVC_SITE_CACHE_DIR": site, "DVC_NO_ANALYTICS": "1"}

    def run(self, *command: str) -> str:
        process = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, f"{command}: {process.stdout}{process.stderr}"
        return process.stdout

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", "state")


def stages_run(output: str) -> list[str]:
    return re.findall(r"^Running stage '(\w+)'", output, re.MULTILINE)


@pytest.fixture(scope="module")
def workspace(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which `dvc repro` has run before. Its raw data lie outside of it."""
    folder = tmp_path_factory.mktemp("dvc") / "repository"
    # the settings of a tree without git stay behind
    shutil.copytree(made_run.tree, folder, ignore=shutil.ignore_patterns(".venv", ".cache", "config.local"))
    workspace = Workspace(folder)
    workspace.run("git", "init", "--quiet")
    workspace.commit()
    return workspace


def test_repro_runs_every_stage_once_and_a_second_one_nothing(workspace: Workspace) -> None:
    assert stages_run((workspace.folder / "artifacts/run.log").read_text()) == STAGES
    again = stages_run(workspace.run("dvc", "repro"))
    # a search that ran out of time would go on; the others look after the registry, and for another champion
    assert again == ["hyperopt", "archive", "champion"]


def test_a_correction_that_changes_nothing_and_an_image_that_nobody_annotated_train_nothing(
    workspace: Workspace, made_run: MadeRun
) -> None:
    header, row = (line.split(",")[:2] for line in (made_run.data / "labels.csv").read_text().splitlines()[:2])
    lines = [[*header, "corrected_by", "corrected_at"], [*row, "anna", "2026-11-28T07:15:30Z"]]
    (made_run.data / "corrections" / "one.csv").write_text("".join(f"{','.join(line)}\n" for line in lines))
    assert "my faces/corrections" in workspace.run("dvc", "status", "validate")
    raw = made_run.data / "raw"
    (raw / "s9").mkdir()
    shutil.copy(next((raw / "s1").iterdir()), raw / "s9" / "s9_00000.png")
    registry = yaml.safe_load((workspace.folder / "params.yaml").read_text())["input"]["kept"] + "/registry/git"
    tags = workspace.run("git", "-C", registry, "tag")
    searched = (workspace.folder / "artifacts/hyperopt/manifest.json").read_bytes()
    ran = stages_run(workspace.run("dvc", "repro"))
    assert "corrections by &#39;anna&#39;" in (workspace.folder / "artifacts/validate/report.html").read_text()
    assert {"validate", "predict"} <= set(ran) <= set(STAGES) - {"train", "evaluate", "label_doubt"}
    assert (workspace.folder / "artifacts/hyperopt/manifest.json").read_bytes() == searched
    assert workspace.run("git", "-C", registry, "tag") == tags  # no version, no release
    assert (workspace.folder / "artifacts/predict/outputs/predictions_s9.csv").is_file()
    workspace.commit()


def test_metrics_and_plots_of_dvc_yaml_are_shown(workspace: Workspace) -> None:
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    shown = json.loads(workspace.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert set(shown) == set(pipeline["metrics"])
    assert all(file["data"] for file in shown.values())
    page = Path(workspace.run("dvc", "plots", "show").strip().removeprefix("file://")).read_text()
    for plot in pipeline["plots"]:
        assert plot.replace("/", "_") in page


def test_a_parameter_of_train_reruns_train_onward_as_an_experiment(workspace: Workspace) -> None:
    output = workspace.run("dvc", "exp", "run", "--name", "longer", "--set-param", "train.epochs=2")
    assert stages_run(output) == STAGES[STAGES.index("hyperopt") :]
    assert "longer" in workspace.run("dvc", "exp", "show", "--csv")
    changes = json.loads(workspace.run("dvc", "metrics", "diff", "--json"))
    assert changes["artifacts/train/metrics/train_metrics.json"]["epochs"] == {"old": 1, "new": 2, "diff": 1}


def test_the_pinned_annotations_are_those_that_the_generator_writes() -> None:
    pinned = yaml.safe_load((ROOT / "data" / "annotations.csv.dvc").read_text())["outs"][0]["md5"]
    table = annotation_table([draw_face(42, name) for name in filenames(2000, 4)])
    assert hashlib.md5(table.encode(), usedforsecurity=False).hexdigest() == pinned
