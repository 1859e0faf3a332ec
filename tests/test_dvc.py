"""dvc.yaml run for real, in a repository of its own with tiny data: what reruns, what does not, what is shown."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.make_samples import annotation_table, draw_face, filenames, make_samples
from tests.pipeline import STAGES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TINY: dict[str, dict[str, Any]] = {
    "data": {"train_split": 0.6, "val_split": 0.2, "test_split": 0.2},
    "prepare_train": {"workers": 1},
    "hyperopt": {"max_evals": 1, "epochs": 1},
    "train": {"epochs": 1, "width": 8, "use_hyperopt": False},
    "label_doubt": {"folds": 2, "epochs": 1},
    "archive": {"force": True},
}


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
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """A workspace after its first `dvc repro`, and what that printed. Its raw data lie outside of it."""
    folder = tmp_path_factory.mktemp("dvc") / "repository"
    ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local")
    for name in ("stages", "expectations", "images", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    (folder / "data").mkdir()
    shutil.copy(ROOT / "data/attributes.yaml", folder / "data")
    raw_data = folder.parent / "my data"
    make_samples(raw_data, count=60, lots=2)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["input"] |= {"raw": str(raw_data / "raw"), "annotations": str(raw_data / "annotations.csv")}
    for section, values in TINY.items():
        params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    workspace = Workspace(folder)
    workspace.run("git", "init", "--quiet")
    output = workspace.run("dvc", "repro")
    workspace.commit()
    return workspace, output


def test_repro_runs_every_stage_once_and_a_second_one_nothing(reproduced: tuple[Workspace, str]) -> None:
    workspace, output = reproduced
    assert stages_run(output) == STAGES
    again = stages_run(workspace.run("dvc", "repro"))
    assert again == ["archive", "champion"]  # which look after the registry, and whether there is another champion


def test_an_image_that_nobody_annotated_trains_nothing(reproduced: tuple[Workspace, str]) -> None:
    workspace, _ = reproduced
    raw = workspace.folder.parent / "my data" / "raw"
    (raw / "s9").mkdir()
    shutil.copy(next((raw / "s1").iterdir()), raw / "s9" / "s9_00000.png")
    tags = workspace.run("git", "-C", "artifacts/registry/git", "tag")
    ran = stages_run(workspace.run("dvc", "repro"))
    assert {"validate", "predict"} <= set(ran) <= set(STAGES) - {"hyperopt", "train", "evaluate", "label_doubt"}
    assert workspace.run("git", "-C", "artifacts/registry/git", "tag") == tags  # no version, no release
    assert (workspace.folder / "artifacts/predict/outputs/predictions_s9.csv").is_file()
    workspace.commit()


def test_metrics_and_plots_of_dvc_yaml_are_shown(reproduced: tuple[Workspace, str]) -> None:
    workspace, _ = reproduced
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    shown = json.loads(workspace.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert set(shown) == set(pipeline["metrics"])
    assert all(file["data"] for file in shown.values())
    page = Path(workspace.run("dvc", "plots", "show").strip().removeprefix("file://")).read_text()
    for plot in pipeline["plots"]:
        assert plot.replace("/", "_") in page


def test_a_parameter_of_train_reruns_train_onward_as_an_experiment(reproduced: tuple[Workspace, str]) -> None:
    workspace, _ = reproduced
    output = workspace.run("dvc", "exp", "run", "--name", "longer", "--set-param", "train.epochs=2")
    assert stages_run(output) == STAGES[STAGES.index("train") :]
    assert "longer" in workspace.run("dvc", "exp", "show", "--csv")
    changes = json.loads(workspace.run("dvc", "metrics", "diff", "--json"))
    assert changes["artifacts/train/metrics/train_metrics.json"]["epochs"] == {"old": 1, "new": 2, "diff": 1}


def test_the_pinned_annotations_are_those_that_the_generator_writes() -> None:
    pinned = yaml.safe_load((ROOT / "data" / "annotations.csv.dvc").read_text())["outs"][0]["md5"]
    table = annotation_table([draw_face(42, name) for name in filenames(2000, 4)])
    assert hashlib.md5(table.encode(), usedforsecurity=False).hexdigest() == pinned
