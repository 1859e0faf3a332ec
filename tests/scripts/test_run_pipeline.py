"""`make run` and what it says: data folders as people have them, runs that fail, and what a container may name."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from data.make_samples import make_samples
from tests.scripts.environment import link_environment
from tests.scripts.made_run import MadeRun, run_in

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "run_pipeline.py"

Done: TypeAlias = "subprocess.CompletedProcess[str]"


def run(script: Path, *arguments: object, **environment: str) -> Done:
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env=os.environ | environment, text=True, capture_output=True, check=False,
    )  # fmt: skip


def refused(data: Path) -> str:
    """The one line that a data folder is refused with before anything runs."""
    done = run(SCRIPT, "--data", data)
    assert done.returncode == 64, done.stdout + done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    make_samples(folder, count=8, lots=2)
    tmp_path.chmod(0o755)
    return folder


def test_a_raw_folder_that_is_a_link_out_of_the_data_folder_is_refused(data: Path, tmp_path: Path) -> None:
    (data / "raw").rename(tmp_path / "images")
    for target in (tmp_path / "images", Path("../images")):
        (data / "raw").symlink_to(target)
        assert refused(data) == (
            f"{data}/raw is a link to {target}, where containers see nothing: move it here, or ENGINE=none\n"
        )
        (data / "raw").unlink()
    (data / "raw").symlink_to("images")
    (tmp_path / "images").rename(data / "images")
    (data / "annotations.csv").rename(tmp_path / "labels.csv")
    (data / "annotations.csv").symlink_to(tmp_path / "labels.csv")  # raw/, which stays inside, is none
    assert refused(data).startswith(f"{data}/annotations.csv is a link to {tmp_path}/labels.csv, ")
    (data / "annotations.csv").unlink()
    (tmp_path / "labels.csv").rename(data / "annotations.csv")
    (data / "attributes.yaml").symlink_to(ROOT / "data/attributes.yaml")
    assert refused(data).startswith(f"{data}/attributes.yaml is a link to {ROOT}/data/attributes.yaml, ")


def test_what_lies_there_in_place_of_annotations_is_named(data: Path) -> None:
    (data / "annotations.csv").rename(data / "a.csv")
    shutil.copy(data / "a.csv", data / "b.csv")
    advice = ": save the annotations as annotations.csv, or put several files into annotations/\n"
    start = f"{data} has no annotations.csv and no folder annotations/, but "
    assert refused(data) == f"{start}a.csv, b.csv{advice}"
    (data / "a.csv").unlink()
    (data / "b.csv").rename(data / "labels.xlsx")
    assert refused(data) == f"{start}labels.xlsx{advice}"


@pytest.mark.parametrize("name", ["$HOME", "`id`", 'a"b', "a\\b"])
def test_without_containers_a_path_that_a_shell_would_change_is_refused(name: str, data: Path) -> None:
    moved = data.rename(data.with_name(name))
    done = run(SCRIPT, "--engine", "none", "--data", moved)
    assert done.returncode == 64
    assert done.stdout.endswith("in its path, which DVC hands to a shell: rename it\n")


@pytest.mark.parametrize("conf", ["{epochs: 3}", "3"])
def test_run_parameters_that_are_no_json_object_are_refused(conf: str, data: Path) -> None:
    done = run(SCRIPT, "--data", data, "--conf", conf)
    assert done.returncode == 64
    assert done.stdout == f"--conf must be a JSON object, for example '{{\"epochs\": 3}}', not {conf!r}\n"


@pytest.mark.parametrize("option", [("--conf", '{"epochs": 3}'), ("--dag", "predict_new_lots")])
def test_without_containers_what_only_airflow_takes_is_refused(option: tuple[str, str], data: Path) -> None:
    done = run(SCRIPT, "--engine", "none", "--data", data, *option)
    assert done.returncode == 64
    assert done.stdout.startswith("--conf and --dag are for Airflow: without containers change params.yaml")


def test_a_recipe_that_does_not_exist_is_refused(data: Path) -> None:
    done = run(SCRIPT, "--data", data, "--recipe", "photos")
    assert done.returncode == 64
    assert done.stdout == "there is no recipe 'photos': RECIPE is one of none, photographs\n"


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [False, True])
def test_without_containers_a_recipe_is_written_into_the_parameters(
    wrong: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("scripts/run_pipeline.py", "params.yaml", "params-photographs.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    before = (tmp_path / "params.yaml").read_text()
    recipe = tmp_path / "params-photographs.yaml"
    if wrong:
        recipe.write_text("data: {image_size: 96}\ntrain: {epoch: 3}\n")
    take: Any = runpy.run_path(str(tmp_path / "scripts/run_pipeline.py"))["take"]
    if wrong:
        with pytest.raises(SystemExit) as ended:
            take(recipe)
        assert ended.value.code == 64
        assert "params-photographs.yaml, line 2: train.epoch: params.yaml has no such key" in capsys.readouterr().out
        assert (tmp_path / "params.yaml").read_text() == before
        return
    take(recipe)
    after = (tmp_path / "params.yaml").read_text()
    usual, chosen, written = (yaml.safe_load(text) for text in (before, recipe.read_text(), after))
    for section, values in usual.items():
        expected = values | chosen.get(section, {})
        if section == "hyperopt":
            expected["first"] = values["first"] | chosen[section]["first"]
        assert written[section] == expected
    recipe.write_text(before)
    take(recipe)
    assert (tmp_path / "params.yaml").read_text() == before  # comments, quotes and line breaks are as they were


@pytest.mark.slow
def test_without_containers_parameters_of_a_data_folder_go_with_it(tmp_path: Path) -> None:
    for name in ("scripts/run_pipeline.py", "params.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    params, own = tmp_path / "params.yaml", tmp_path / "photos/params.yaml"
    before = params.read_text()
    own.parent.mkdir()
    own.write_text("train: {epochs: 7, width: 12}\n")
    script = runpy.run_path(str(tmp_path / "scripts/run_pipeline.py"))
    script["take"](own)
    changed = params.read_text().replace("epochs: 7", "epochs: 9")  # by hand, and so to stay
    params.write_text(changed)
    script["put_back"]()
    now, usual = (yaml.safe_load(text)["train"] for text in (params.read_text(), before))
    assert now == usual | {"epochs": 9}
    script["put_back"]()
    assert yaml.safe_load(params.read_text())["train"] == now


def test_a_full_disk_leaves_the_parameters_as_they_were(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "clone/scripts/run_pipeline.py"
    script.parent.mkdir(parents=True)
    for path in (SCRIPT, SCRIPT.with_name("image_tools.py")):
        shutil.copy(path, script.parent)
    shutil.copy(ROOT / "params.yaml", tmp_path / "clone")
    (tmp_path / "clone/stages").symlink_to(ROOT / "stages")
    command = ["bash", "-c", 'ulimit -f 0; exec "$@"', "", sys.executable, script, "--engine", "none", "--data", data]
    done = subprocess.run([*map(str, command)], text=True, capture_output=True, check=False)
    assert done.returncode == 69, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{tmp_path}/clone/params.yaml cannot be written")
    assert (tmp_path / "clone/params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_values_are_written_into_any_form_of_a_parameter_file(tmp_path: Path) -> None:
    script = tmp_path / "clone/scripts/run_pipeline.py"
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    (tmp_path / "clone/stages").symlink_to(ROOT / "stages")
    params = tmp_path / "clone/params.yaml"
    params.write_bytes(
        b"a:\r\n  many:   # why\r\n    - 1\r\n    - 2   # the last\r\n  # next\r\n  none:\r\n"
        b"  text: '@daily' # cron\r\n  free: {}\r\n"
    )
    write: Any = runpy.run_path(str(script))["write_params"]
    write({"a": {"many": [3.5, None], "none": "yes", "text": "x: y", "free": {"b": 1}}}, params)
    assert params.read_bytes() == (
        b"a:\r\n  many:   # why\r\n    [3.5, null]   # the last\r\n  # next\r\n  none: 'yes'\r\n"
        b"  text: 'x: y' # cron\r\n  free: {b: 1}\r\n"
    )


def test_a_report_without_an_engine_is_refused_in_a_line(tmp_path: Path) -> None:
    done = run(SCRIPT, "--report", DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
    assert done.returncode == 69
    assert done.stdout == "no container engine answers: make engine, or ENGINE=none\n"
    assert done.stderr == ""


def rows(output: str) -> dict[str, str]:
    """Stage -> its row of the closing table."""
    _, _, table = output.partition("  headline\n")
    return dict(re.findall(r"^(\w+) +(.*)$", table.partition("\n\n")[0], re.MULTILINE))


@pytest.mark.slow
def test_a_tree_without_git_and_the_only_table_of_a_data_folder_do(made_run: MadeRun) -> None:
    tree, data, done = made_run
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"annotations: {data}/labels.csv\n" in done.stdout
    assert list(rows(done.stdout)) == list(yaml.safe_load((tree / "dvc.yaml").read_text())["stages"])
    assert Path(re.findall(r"^report: (.*)$", done.stdout, re.MULTILINE)[0]).is_file()


@pytest.mark.slow
def test_a_data_folder_has_a_registry_of_its_own(made_run: MadeRun) -> None:
    tree, _, done = made_run
    own = tree / re.findall(r"^models, .* of these data: folder (\S+)$", done.stdout, re.MULTILINE)[0]
    assert {path.name for path in own.iterdir()} >= {"registry", "run", "logs"}
    assert not (tree / "artifacts/registry").exists()


@pytest.mark.slow
def test_suites_and_parameters_of_a_data_folder_are_taken(made_run: MadeRun) -> None:
    tree, data, done = made_run
    assert f"params.yaml: now has the values of {os.path.relpath(data / 'params.yaml', tree)}," in done.stdout
    told, other = (
        json.loads((tree / f"artifacts/{stage}/manifest.json").read_text()) for stage in ("validate", "evaluate")
    )
    assert told["params"]["validate"]["min_side"] == 33
    assert told["inputs"]["expectations"]["path"] == f"{data}/expectations"
    assert "expectations" not in other["inputs"]  # its suite is ours


@pytest.mark.slow
def test_the_table_of_a_failed_run_shows_nothing_of_an_earlier_one(made_run: MadeRun, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(made_run.tree, tree, ignore=shutil.ignore_patterns(".venv", ".cache"))
    link_environment(tree)
    other = tmp_path / "other"
    make_samples(other, count=60, lots=2)
    shutil.rmtree(other / "raw/s1")
    shutil.copy(ROOT / "data/attributes.yaml", other)
    done = run_in(tree, other)
    assert done.returncode != 0
    assert yaml.safe_load((tree / "params.yaml").read_text())["input"]["attributes"] == f"{other}/attributes.yaml"
    assert {stage: row.split() for stage, row in rows(done.stdout).items()} == {"validate": ["FAILED"]}


@pytest.mark.parametrize(
    "path", ["/artifacts/../../../etc", "/artifacts/archive/..", "/etc", f"/artifacts/a/{'0' * 63}"]
)
def test_a_path_of_no_artifact_is_not_copied(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "clone/scripts/run_pipeline.py"
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    outside = tmp_path / "etc/passwd"
    outside.parent.mkdir()
    outside.touch()
    export_report: Any = runpy.run_path(str(script))["export_report"]
    result = {"path": path, "report": f"{path}/report.html"}
    with pytest.raises(SystemExit) as ended:
        export_report({"archive": result}, "face-attributes-test-none")
    assert ended.value.code == 70
    assert "not the path of an artifact" in capsys.readouterr().out
    assert outside.exists()


@pytest.mark.slow
def test_a_stage_runs_with_names_in_utf_8_whatever_the_locale_says(data: Path, tmp_path: Path) -> None:
    image = next((data / "raw/s1").iterdir())
    image.rename(image.with_name("s1_😀.png"))
    table = data / "annotations.csv"
    table.write_text(table.read_text().replace(image.name, "s1_😀.png"))
    done = subprocess.run(
        [sys.executable, "-m", "stages.validate", table, "--raw", data / "raw", "--out", tmp_path / "report"],
        cwd=ROOT, text=True, capture_output=True, check=False,
        env=os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert "8 of 8 rows can be used" in done.stdout, done.stdout + done.stderr


def test_a_clone_has_the_line_ends_of_unix_whatever_git_is_told(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "-c", "core.autocrlf=true", ROOT, clone], check=True)
    listed = subprocess.check_output(["git", "ls-files", "--eol"], cwd=clone, text=True).splitlines()
    ends = {line.split()[1] for line in listed}
    assert len(listed) > 200
    assert ends <= {"w/lf", "w/-text", "w/none"}
