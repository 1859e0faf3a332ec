"""The way to add a stage of docs/stages.md, tried in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml

from tests.scripts.environment import link_environment

ROOT = Path(__file__).parents[2]
FOLDERS = (".dvc", "bench", "dags", "data", "docs", "expectations", "images", "scripts", "stages", "tests")

Done: TypeAlias = "subprocess.CompletedProcess[str]"


def run(tree: Path, *command: str | Path) -> Done:
    """Run a command in a copy, outside of any repository of git."""
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=tree, env=environment, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with two more stages, made as docs/stages.md says."""
    tree = tmp_path_factory.mktemp("copy") / "tree"
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "raw", "out", "tmp", "config.local")
        )
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".env":
            shutil.copy(path, tree)
    link_environment(tree)
    for arguments in (["NAME=explain", "INPUTS=evaluate validate"], ["NAME=second_look", "LIKE=label_doubt"]):
        done = run(tree, "make", "stage", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    return tree


def test_a_new_stage_takes_what_it_was_given(tree: Path) -> None:
    wired = yaml.safe_load((tree / "dvc.yaml").read_text())["stages"]["explain"]
    assert "--evaluate artifacts/evaluate --validate artifacts/validate --params" in wired["cmd"]
    assert {"artifacts/evaluate", "artifacts/validate"} == {dep for dep in wired["deps"] if dep.startswith("artifacts")}
    stage = (tree / "stages/explain/stage.py").read_text()
    assert re.findall(r'"(\w+)": Input\(', stage) == ["evaluate", "validate"]


@pytest.mark.slow
def test_new_stages_pass_all_checks(tree: Path) -> None:
    if (cache := ROOT / ".mypy_cache").exists():  # which spares a minute
        shutil.copytree(cache, tree / ".mypy_cache")
    done = run(tree, "scripts/check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_new_stages_agree_with_all_that_names_stages(tree: Path) -> None:
    files = [
        "test_wiring.py",
        "test_contract.py",
        "images/test_images.py",
        "stages/test_explain.py",
        "stages/test_second_look.py",
    ]
    chosen = "explain or second_look or test_wiring or test_images"
    done = run(tree, ".venv/bin/pytest", "-m", "not docker", "-k", chosen, *(f"tests/{name}" for name in files))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["Explain"], "'Explain' is not a name: small letters, digits and _, for example explain"),
        ([""], "'' is not a name: small letters, digits and _, for example explain"),
        (["train"], "there is a stage or an image train already: choose another name"),
        (["airflow"], "there is a stage or an image airflow already: choose another name"),
        (["common"], "there is a stage or an image common already: choose another name"),
        (["explain", "--like", "archive"], "LIKE=archive: a new stage can be like evaluate or label_doubt"),
        (
            ["explain", "--inputs", "evaluate", "predict"],
            "INPUTS=predict: a new stage can take the artifacts of validate, prepare_train, hyperopt, train, evaluate, "
            "label_doubt",
        ),
    ],
)
def test_what_cannot_be_a_stage_is_refused_in_a_line(arguments: list[str], problem: str) -> None:
    done = run(ROOT, sys.executable, "scripts/new_stage.py", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (64, "", f"stage: {problem}\n")
