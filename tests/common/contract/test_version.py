"""Versions of stages: which change of the code changes which, on a copy, and against Python's own imports."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.common.contract import version
from stages.common.contract.version import code_version, stage_files
from tests.pipeline import STAGES

ROOT = Path(__file__).parents[3]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.py[co]")
    for folder in ("stages", "expectations", "images"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


def versions(root: Path) -> dict[str, str]:
    return {stage: code_version(stage, root) for stage in STAGES}


def changed(root: Path, *paths: str) -> set[str]:
    """The stages whose version changes with a line more in these files."""
    before = versions(root)
    for path in paths:
        with (root / path).open("a") as file:
            file.write("# another line\n" if path.endswith((".py", ".txt")) else "\n")
    return {stage for stage, version in versions(root).items() if version != before[stage]}


def imported(path: Path) -> Iterator[str]:
    """Modules of `stages` that a file imports anywhere, but not for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_of_a_stage_is_what_it_imports(stage: str) -> None:
    found, queue = set(), [f"stages.{stage}.__main__"]
    while queue:
        module = queue.pop()
        for path in (ROOT / f"{module.replace('.', '/')}.py", ROOT / module.replace(".", "/") / "__init__.py"):
            if path.is_file() and path not in found:
                found.add(path)
                queue += [*imported(path), module.rpartition(".")[0]]
    files = {ROOT / path for path in stage_files(stage) if path.suffix == ".py"}
    assert files == found
    assert ROOT / f"stages/{stage}/stage.py" in files


def test_a_style_changes_no_version_and_a_module_those_that_import_it(copy: Path) -> None:
    pages = ("stages/common/reports/page_style.html", "stages/common/reports/report.html")
    assert changed(copy, *pages, "stages/common/reports/VERSION") == set()
    assert changed(copy, "stages/common/training/augment.py") == {"hyperopt", "train", "label_doubt"}
    assert changed(copy, "stages/validate/merge.py") == {"validate"}
    assert changed(copy, "stages/common/contract/stage.py") == set(STAGES)
    assert changed(copy, "expectations/predictions.json") == {"evaluate", "predict"}


def test_a_release_of_the_product_is_shown_and_recomputes_nothing(copy: Path, tmp_path: Path) -> None:
    toy = copy / "tests" / "common" / "toy.py"
    toy.parent.mkdir(parents=True)
    shutil.copy(ROOT / "tests/common/toy.py", toy)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("hello ")
    (tmp_path / "params.yaml").write_text("toy: {}\n")

    def run(*arguments: str) -> str:
        command = [sys.executable, str(toy), "--raw", "raw", "--params", "params.yaml", "--store", "store", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(copy)}, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def release(number: str) -> None:
        (copy / "stages/common/reports/VERSION").write_text(f"{number}\n")

    release("7.0.0")
    first = json.loads(run())
    release("7.0.1")
    assert run("--version").startswith("Face Attributes 7.0.1, toy ")
    again = json.loads(run())
    assert (first["cached"], again["cached"]) == (False, True)
    page = Path(tmp_path, first["report"])
    assert "Made by Face Attributes 7.0.0" in page.read_text()
    anew = json.loads(run("--recompute"))
    assert anew["key"] == first["key"]
    assert "Made by Face Attributes 7.0.1" in page.read_text()


def test_a_pin_changes_the_version_and_a_comment_in_the_lock_does_not(copy: Path) -> None:
    lock = "images/train/requirements.txt"
    assert changed(copy, lock) == set()
    text = (copy / lock).read_text()
    before = versions(copy)
    (copy / lock).write_text(re.sub(r"^numpy==\S+", "numpy==0.0.1", text, flags=re.MULTILINE))
    assert {stage for stage, version in versions(copy).items() if version != before[stage]} == {"train"}


def test_libraries_unlike_the_lock_make_another_version(tmp_path: Path) -> None:
    """As in another build of an image under the same tag; here another numpy is put in front of the installed one."""
    (tmp_path / "numpy-0.0.1.dist-info").mkdir()
    command = [sys.executable, "-m", "stages.common.contract.version"]

    def told(stage: str, **environment: str) -> str:
        return subprocess.run(
            [*command, stage], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    for stage in ("train", "champion"):  # the latter has no numpy
        same = told(stage) == told(stage, PYTHONPATH=str(tmp_path))
        assert same == ("numpy" not in version.locked_requirements(stage))
    assert told("train") == code_version("train") or version.unlike_lock("train")
