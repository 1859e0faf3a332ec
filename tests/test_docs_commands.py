"""Every command in README and the pages is run by a test, or says why not.

`RUN_BY` names for each command the test that runs the same, or why none does. A whole block that nobody runs has
`<!-- not run: reason -->` before it. What needs neither an engine nor much time is run here, as the pages have it.
"""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from stages.common.registry.registry import Registry
from tests.serve.pictures import pictures
from tests.serve.serving import TOKEN, register, save_sensitive_model, serving
from tests.stages.archived import Pipeline

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "data/README.md", "bench/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))

PROGRAM = re.compile(
    r"(?:DOCKER_BUILDKIT=1 )?(?:make|docker|\$\(scripts/engine|curl|git|dvc|cp|mkdir|grep|alias|store=|volume=|airflow "
    r"|python -m|import |\.venv/bin/|\. \.venv|archive (?:versions|lineage|promote|rollback|prune))"
)
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?\n(?P<text>(?:    .*\n|\n(?=    ))+)")

NOT_RUN = "not run: "
TERMINAL = "stack/test_story.py::test_the_commands_of_the_terminal"
RUN = "test_run.py::test_a_run_makes_everything_and_ends_with_a_report"
LIFE = "stack/test_model_life.py::test_the_life_of_a_model"
BACKUP = "stack/test_model_life.py::test_all_of_it_comes_back_from_its_backup"
PUSHED = "images/test_registry.py::test_what_is_pulled_is_what_was_built"
CLONE = "common/registry/test_registry.py::test_a_clone_pulls_files_and_shows_differences"
DVC = "test_dvc.py::test_repro_runs_every_stage_once_and_a_second_one_nothing"
PROMOTION = "test_docs_commands.py::test_the_commands_of_the_registry_do_as_the_page_says"
ARRIVAL = "test_docs_commands.py::test_the_lots_of_the_life_of_a_model_arrive"
ASKED = "test_docs_commands.py::test_the_service_answers_as_the_pages_say"
ONE_MACHINE = "scripts/test_run_pipeline.py::test_a_tree_without_git_and_the_only_table_of_a_data_folder_do"
RUN_BY = {
    "make run": RUN,
    "make run ENGINE=none": ONE_MACHINE,
    "make run DATA=<folder> RECIPE=photographs": (
        "scripts/test_run_pipeline.py::test_without_containers_a_recipe_is_written_into_the_parameters"
    ),
    "make up": "stack/test_story.py::test_from_the_form_to_the_report",
    "make serve": "serve/test_make_serve.py::test_a_version_that_the_gate_has_refused_is_served_and_told",
    "make help": "test_docs_commands.py::test_make_tells_its_targets",
    "make check": "scripts/test_new_stage.py::test_new_stages_pass_all_checks",
    "make stage": "scripts/test_new_stage.py::test_a_new_stage_takes_what_it_was_given",
    "make data": (
        "data/test_make_samples.py::test_a_second_run_leaves_a_whole_set_alone_and_completes_one_without_annotations"
    ),
    "make docs": "browser/test_site.py::test_the_site_opens_from_a_folder_and_its_search_finds_pages",
    "make push": PUSHED,
    "make pull": PUSHED,
    "docker login": PUSHED,
    "make sbom": "images/test_images.py::test_the_bill_of_an_image_lists_what_is_installed_in_it",
    "make audit": "scripts/test_audit.py::test_a_known_flaw_is_told_with_its_images_and_what_mends_it",
    "make up PROFILE=metrics": ("stack/test_metrics.py::test_what_the_dashboards_ask_airflow_reaches_prometheus"),
    "make test": f"{NOT_RUN}it runs this test",
    "make quick": f"{NOT_RUN}it runs this test",
    "make venv": f"{NOT_RUN}it makes the environment of this test",
    "make bench": f"{NOT_RUN}it takes hours; tests/test_bench.py asks every bench what it does",
    "python -m bench.": f"{NOT_RUN}as make bench",
    "curl -": ASKED,
    'curl "http://localhost:8090/search': "serve/test_search.py::test_it_finds_and_counts",
    ".venv/bin/python scripts/run_pipeline.py --conf": (
        "test_run.py::test_a_changed_run_parameter_recomputes_what_depends_on_it"
    ),
    ".venv/bin/python -m stages.validate labels.csv": (
        "stages/test_validate_by_hand.py::test_bad_annotations_fail_with_reasons_examples_and_a_report"
    ),
    ".venv/bin/python -m stages.<name>": "test_contract.py::test_help_explains_inputs_outputs_and_exit_codes",
    ".venv/bin/python -m data.make_samples": ARRIVAL,
    ".venv/bin/python - <<": ARRIVAL,
    "cp ": ARRIVAL,
    "mkdir ": ARRIVAL,
    "grep ": ARRIVAL,
    "docker compose up -d": "stack/test_story.py::test_from_the_form_to_the_report",
    "docker compose up -d --no-deps": "stack/test_celery.py::start_worker",
    "docker compose ps": "stack/test_celery.py::start_worker",
    "docker compose logs -f": f"{NOT_RUN}it does not end",
    "docker compose exec airflow-scheduler airflow dags": TERMINAL,
    "docker run --rm -v $volume:/artifacts --entrypoint tail": LIFE,
    "docker compose stop": BACKUP,
    "docker compose up -d --wait postgres": BACKUP,
    "docker compose exec -T postgres": BACKUP,
    "volume=": BACKUP,
    "docker run --rm -v $volume:/artifacts --entrypoint tar": BACKUP,
    "docker run --rm -i -v $volume:/artifacts --entrypoint tar": BACKUP,
    "make up SERVICES=postgres": BACKUP,
    "docker run --rm -v face-attributes-artifacts:/artifacts face-attributes/archive prune": PROMOTION,
    "docker run --rm face-attributes/train": "images/test_images.py::test_help_names_inputs_outputs_and_exit_codes",
    'docker run --rm -v "$PWD/data"': "images/test_images.py::test_stages_run_on_data_as_the_page_says",
    "DOCKER_BUILDKIT=1": "images/test_images.py::test_image_holds_its_own_stage_only_and_runs_unprivileged",
    "alias archive=": PROMOTION,
    "archive ": PROMOTION,
    "store=": CLONE,
    "git ": CLONE,
    "git add dvc.lock": "test_dvc.py::test_a_parameter_of_train_reruns_train_onward_as_an_experiment",
    "dvc remote modify": CLONE,
    "dvc pull": CLONE,
    "dvc metrics diff": CLONE,
    "dvc plots diff": CLONE,
    ". .venv/bin/activate": DVC,
    "dvc repro": DVC,
    "dvc exp run": "test_dvc.py::test_a_parameter_of_train_reruns_train_onward_as_an_experiment",
    "dvc exp show": "test_dvc.py::test_a_parameter_of_train_reruns_train_onward_as_an_experiment",
    "dvc metrics show": "test_dvc.py::test_metrics_and_plots_of_dvc_yaml_are_shown",
}
"""Beginning of a command -> the test below tests/ that runs it, or why none does. The longest beginning counts."""


class Block(NamedTuple):
    """A block of a page: its commands, each on one line without its comment; and why nobody runs it, if so."""

    page: str
    commands: list[str]
    why: str | None


def blocks(page: str) -> Iterator[Block]:
    """The blocks with commands; what is no command in them is output, or the text that a command reads."""
    for found in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        lines = re.sub("^    ", "", found["text"], flags=re.MULTILINE).replace("\\\n", "").splitlines()
        if commands := [re.sub(r"\s+# .*", "", line) for line in lines if PROGRAM.match(line)]:
            yield Block(page, commands, found["why"])


def entry(command: str) -> str:
    """The key of `RUN_BY` that a command goes by, "" if there is none."""
    return max((begin for begin in RUN_BY if command.startswith(begin)), key=len, default="")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_by_a_test_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        for command in block.commands:
            assert block.why or entry(command), f"{page}: who runs `{command}`? See RUN_BY in {Path(__file__).name}"


def test_the_tests_that_run_commands_are_there_and_so_are_the_commands() -> None:
    used = {entry(command) for page in PAGES for block in blocks(page) for command in block.commands}
    assert set(RUN_BY) - used == set(), "no page has them any more"
    for test in RUN_BY.values():
        if not test.startswith(NOT_RUN):
            file, name = test.split("::")
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"there is no {test}"


def commands_from(page: str, begin: str) -> list[str]:
    """The commands of the block whose first one begins so; a block that says why nobody runs it is none."""
    (found,) = [block.commands for block in blocks(page) if not block.why and block.commands[0].startswith(begin)]
    return found


def shell(script: str, folder: Path, **environment: str) -> str:
    """Output of bash for a script, which must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=told, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_make_tells_its_targets() -> None:
    told = re.findall(r"^  make ([\w-]+)", shell("make help", ROOT), re.MULTILINE)
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[0].split()
    assert sorted(told) == sorted(phony)
    shown = [command for page in PAGES for block in blocks(page) for command in block.commands]
    assert {command.split()[1] for command in shown if command.startswith("make ")} <= {*phony}


@pytest.mark.slow
def test_the_commands_of_the_registry_do_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    pipeline = Pipeline(tmp_path / "artifacts")
    for model in range(3):
        pipeline.prepare(wrong=(20, 10, 5, 0, 0, 0), lots=2)
        pipeline.train(model)
        assert pipeline.archive() == 0
    alias, *commands = commands_from("docs/releases.md", "alias archive=")
    assert len(commands) == 5
    assert shlex.split(alias)[1].endswith(" face-attributes/archive")
    archive = f'archive() {{ {sys.executable} -m stages.archive "$@"; }}\n'
    said = {command.split()[1]: shell(archive + command, tmp_path) for command in commands}
    assert said["versions"].count("fit: ") == 3
    assert said["lineage"].startswith("v3  mean accuracy")
    assert "v3 is the champion now" in said["promote"]
    assert "v2 is the champion now" in said["rollback"] or "v3 is the champion now" in said["rollback"]
    assert "would be" in said["prune"] or "report: " in said["prune"]


@pytest.mark.slow
def test_a_copy_of_the_store_has_its_versions_and_what_was_made_is_taken_from_it(tmp_path: Path) -> None:
    here, there = tmp_path / "artifacts", tmp_path / "elsewhere" / "artifacts"
    for folder in (here, there):
        folder.mkdir(parents=True)
    pipeline = Pipeline(here)
    pipeline.train(0)
    assert pipeline.archive() == 0
    shell("tar -C artifacts -cf - . | tar -C elsewhere/artifacts -xf -", tmp_path)
    shutil.rmtree(here)
    pipeline.folder = there
    pipeline.inputs = {name: there / path.relative_to(here) for name, path in pipeline.inputs.items()}
    assert pipeline.archive() == 0
    assert pipeline.result["cached"]
    assert (pipeline.result["headline"]["version"], pipeline.result["headline"]["champion"]) == ("v1", "v1")
    assert "v1    champion" in shell(f"{sys.executable} -m stages.archive versions", there.parent)


@pytest.mark.slow
def test_the_lots_of_the_life_of_a_model_arrive(tmp_path: Path) -> None:
    page = (ROOT / "docs/model_life.md").read_text(encoding="utf-8")
    story = page[: page.index("![The run of the check")]
    indented = re.findall(r"^    (.*)$", story, re.MULTILINE)
    begin = indented.index("make venv") + 1
    script, within = [], False
    for line in indented[begin:]:
        within = within or line.endswith("<<'EOF'")
        if within or re.match(r"\.venv/bin/|mkdir|cp|grep", line):
            script.append(line)
        within = within and line != "EOF"
    told = "\n".join(script).replace("/srv", str(tmp_path)).replace("--count 2000", "--count 40")
    shell(told.replace(".venv/bin/python", sys.executable), ROOT)
    assert len(script) == 17
    folder = tmp_path / "life"
    assert sorted(path.name for path in (folder / "raw").iterdir()) == ["s1", "s2", "s3", "s4"]
    with (folder / "annotations.csv").open(encoding="utf-8", newline="") as file:
        names = {row["filename"] for row in csv.DictReader(file)}
    assert names == {path.name for path in (folder / "raw").rglob("*.png")}
    drifted = next((folder / "raw" / "s4").iterdir())
    with Image.open(drifted) as dark, Image.open(tmp_path / "samples" / "raw" / "s4" / drifted.name) as face:
        assert dark.mode == "RGB" != face.mode


@pytest.mark.slow
def test_the_service_answers_as_the_pages_say(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    register(Registry(artifacts / "registry"), tmp_path / "v1", save_sensitive_model)
    _, picture = next(iter(pictures().items()))
    for name in ("a.png", "b.jpg", "face.png"):
        (tmp_path / name).write_bytes(picture)
    for page, begin, token, answered in (
        ("README.md", "curl -F", "", [1]),
        ("docs/serve.md", "curl -H", TOKEN, [2, 1]),
    ):
        (folder := tmp_path / page.replace("/", "-")).mkdir()
        with serving(folder, artifacts, token) as server:
            server.wait_for(ready=True)
            for command, count in zip(commands_from(page, begin), answered, strict=True):
                asked = command.replace("http://localhost:8090", server.url)
                said = shell(asked.replace("curl", "curl --silent --fail"), tmp_path, SERVE_TOKEN=token)
                assert said.count('"confidence"') >= count
                assert said.count('"name"') == count
