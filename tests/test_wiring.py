"""One name everywhere: stages, images, dvc.yaml, the DAG and params.yaml agree; and who may import whom."""

import ast
import importlib
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common.contract.params import load_params
from stages.common.contract.version import SUITES
from tests.dags.dag_reader import DagReader
from tests.pipeline import INPUTS, STAGES, WIRING

ROOT = Path(__file__).parents[1]
SERVICES = ["airflow", "engine_proxy", "serve"]  # images of no stage
DAGS = [
    "ml_pipeline_face_attributes", "predict_new_lots", "model_monitoring_and_retraining", "release_version",
    "approve_version", "validate_data", "clean_up",
]  # fmt: skip


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dags(dag_reader: DagReader) -> list[Any]:
    return [dag_reader.describe(name) for name in DAGS]


def artifact_inputs(stage: str) -> list[str]:
    definition = importlib.import_module(f"stages.{stage}.stage").STAGE
    assert definition.name == stage
    return sorted(name for name, spec in definition.inputs.items() if spec.artifact)


def test_every_dag_is_looked_at(dags: list[Any]) -> None:
    files = [path for path in python_files("dags") if "@dag(" in path.read_text(encoding="utf-8")]
    assert sorted(path.stem for path in files) == sorted(dag["dag_id"] for dag in dags) == sorted(DAGS)


def test_names_agree(dags: list[Any]) -> None:
    dockerfiles = sorted(path.parent.name for path in (ROOT / "images").glob("*/Dockerfile"))
    assert dockerfiles == sorted([*STAGES, *SERVICES])
    folders = (path.parent.name for path in (ROOT / "stages").glob("*/stage.py"))
    assert sorted(folders) == sorted(STAGES)
    images = {stage: f"face-attributes/{stage}:latest" for stage in STAGES}
    more = {
        "check_raw_data": images["validate"],
        **dict.fromkeys(("release", "prune"), images["archive"]),
        **dict.fromkeys(("group_lots", "prepare_lots"), images["prepare_train"]),
    }
    used = {task: image for dag in dags for task, image in dag["images"].items()}
    assert used == images | more
    assert set(used) == set(read_yaml("params.yaml")["airflow"]["tasks"])
    assert {f"test_{stage}.py" for stage in STAGES} <= {path.name for path in (ROOT / "tests/stages").iterdir()}
    assert set(STAGES) <= set(read_yaml("params.yaml"))


def test_the_picture_of_the_pipeline_shows_every_task(dags: list[Any]) -> None:
    dag = dags[0]
    picture = (ROOT / f"dags/{dag['dag_id']}.svg").read_text(encoding="utf-8")
    shown = re.findall('<text class="name"[^>]*>(.*?)</text>', picture)
    assert sorted(shown) == sorted(set(dag["docs"]) - {"group_lots"})  # which does none of the work


def test_no_password_that_make_up_draws_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    draw = runpy.run_path(str(ROOT / "scripts/stack_settings.py"))["random_secrets"]
    weakness = runpy.run_path(str(ROOT / "images/airflow/bin/check-password"))["weakness"]
    drawn = {draw()["AIRFLOW_ADMIN_PASSWORD"] for _ in range(5000)}
    assert len(drawn) == 5000
    assert {weakness("airflow", password) for password in drawn} == {""}


@pytest.mark.parametrize("stage", STAGES)
def test_edges_agree(dags: list[Any], stage: str) -> None:
    expected = artifact_inputs(stage)
    for inputs in (dag["inputs"][stage] for dag in dags if stage in dag["inputs"]):
        given = sorted(name for name, source in inputs.items() if source)
        assert given == expected, f"{stage}: the DAG and STAGE name other inputs"
        assert all(source == name for name, source in inputs.items() if source)
    deps = WIRING[stage]["deps"]
    before = {"champion": ["archive"]}  # it takes what archive has put into the registry
    given = sorted(dep.removeprefix("artifacts/") for dep in deps if dep.startswith("artifacts/"))
    assert given == before.get(stage, expected), f"{stage}: deps in dvc.yaml and STAGE name other inputs"


@pytest.mark.parametrize("stage", STAGES)
def test_suites_agree(stage: str) -> None:
    deps = WIRING[stage]["deps"]
    suites = sorted(f"expectations/{suite}.json" for suite in SUITES.get(stage, ()))
    assert sorted(dep for dep in deps if dep.startswith("expectations")) == suites
    assert all((ROOT / suite).is_file() for suite in suites)


def sections_read(params: Any) -> Iterator[str]:
    """The sections of params.yaml that a stage reads; of one of which it reads a part, the keys of that."""
    for name, field in params.model_fields.items():
        whole = field.annotation.model_config["extra"] == "forbid"
        yield from [name] if whole else [f"{name}.{key}" for key in field.annotation.model_fields]


@pytest.mark.parametrize("stage", STAGES)
def test_inputs_and_sections_agree(dags: list[Any], stage: str) -> None:
    definition = importlib.import_module(f"stages.{stage}.stage").STAGE
    for inputs in (dag["inputs"][stage] for dag in dags if stage in dag["inputs"]):
        assert sorted(inputs) == sorted(definition.inputs)
    assert sorted(INPUTS[stage]) == sorted(definition.inputs), f"{stage}: cmd in dvc.yaml names other inputs"
    assert sorted(WIRING[stage]["params"]) == sorted(sections_read(definition.params))
    assert set(definition.params.model_fields) <= set(read_yaml("params.yaml"))


def test_every_setting_of_a_dag_is_a_parameter(dags: list[Any]) -> None:
    parameters = read_yaml("params.yaml")
    for task, settings in ((task, settings) for dag in dags for task, settings in dag["settings"].items()):
        for dotted in settings:
            section, key = dotted.split(".")
            assert key in parameters[section], f"{task}: {dotted}"


RECIPES = sorted(path.name for path in ROOT.glob("params-*.yaml"))


def values(tree: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield from values(value, f"{place}{key}.") if isinstance(value, dict) else [(f"{place}{key}", value)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_holds_the_values_that_differ_and_every_stage_takes_them(recipe: str) -> None:
    usual, other = (dict(values(read_yaml(name))) for name in ("params.yaml", recipe))
    assert {name: value for name, value in other.items() if usual[name] == value} == {}
    for stage in STAGES:
        sections = importlib.import_module(f"stages.{stage}.stage").STAGE.params
        found = load_params(sections, ROOT / "params.yaml", recipes=[ROOT / recipe]).model_dump()
        read = dict(values(found))
        assert {name: read[name] for name in other if name in read} == {
            name: value for name, value in other.items() if name.partition(".")[0] in found
        }


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules that a file imports anywhere in it, in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            is_package = (ROOT / module.replace(".", "/")).is_dir() and module.startswith("stages")
            found |= {f"{module}.{alias.name}" for alias in node.names} if is_package else {module}
    return frozenset(found)


@cache
def distributions() -> Mapping[str, list[str]]:
    """Module -> names of what installs it; a second for each look at them all."""
    return packages_distributions()


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def stage_packages(modules: frozenset[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("stages.")}


@pytest.mark.parametrize("stage", [*STAGES, "common"])
def test_a_stage_imports_no_other_stage(stage: str) -> None:
    for path in python_files(f"stages/{stage}"):
        assert stage_packages(imports(path)) <= {"common", stage}, path


WINGS = (
    "reports", "contract", "schema", "images", "checks", "workers", "training", "inference", "registry"
)  # fmt: skip
"""The wings of stages/common, the lowest first."""


def test_wings_import_lower_wings_only() -> None:
    assert sorted(path.name for path in (ROOT / "stages/common").glob("[!_]*")) == sorted(WINGS)
    for height, wing in enumerate(WINGS):
        assert ast.get_docstring(ast.parse((ROOT / f"stages/common/{wing}/__init__.py").read_text(encoding="utf-8")))
        for path in python_files(f"stages/common/{wing}"):
            entered = {name.split(".")[2] for name in imports(path) if name.startswith("stages.common.")}
            assert entered <= {*WINGS[: height + 1]}, f"{path.relative_to(ROOT)} imports {entered}"


def test_dags_import_airflow_what_it_needs_itself_and_the_standard_library() -> None:
    own = {path.stem for path in (ROOT / "dags").iterdir()}
    for path in python_files("dags"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert (
            roots
            <= {"airflow", "croniter", "docker", "openlineage", "pydantic", "yaml"} | own | sys.stdlib_module_names
        ), path


def reached(stage: str) -> Iterator[Path]:
    """Files of a stage, or of the service, and those of stages/common that they import, directly or not."""
    queue, seen = python_files(f"images/{stage}" if stage in SERVICES else f"stages/{stage}"), set[Path]()
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        yield path
        queue += [ROOT / f"{name.replace('.', '/')}.py" for name in imports(path) if name.startswith("stages.common.")]


@pytest.mark.parametrize("stage", [*STAGES, "serve"])
def test_a_stage_imports_what_its_image_installs(stage: str) -> None:
    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    locked = (ROOT / f"images/{stage}/requirements.txt").read_text(encoding="utf-8")
    installed = {normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", locked, re.MULTILINE)}
    offers = distributions()
    for path in reached(stage):
        for root in {name.split(".")[0] for name in imports(path)} - {"stages", "images"} - sys.stdlib_module_names:
            offered = {normal(name) for name in offers.get(root, [root])}
            assert offered & installed, f"{path.relative_to(ROOT)} imports {root}"


def test_only_stages_that_train_know_pytorch() -> None:
    with_torch = {
        stage
        for stage in [*STAGES, "serve"]
        for path in reached(stage)
        if any(name.split(".")[0] in {"torch", "torchvision"} for name in imports(path))
    }
    assert with_torch == {"hyperopt", "label_doubt", "train"}
