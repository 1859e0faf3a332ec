"""The DAG as Airflow reads it."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from task_settings import load_settings

from tests.dags.dag_reader import DagReader
from tests.pipeline import TRAINING

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DAG_ID = "ml_pipeline_face_attributes"

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"epochs": 1, "max_evals": 1000, "lots": ["s1", "s2-b"], "force": True, "recompute": True},
    {"lots": ["2026_11", "cam.1 b", "\u00c4", "\u65e5\u672c"]},  # of folders
    {"epochs": None, "max_evals": None, "lots": None},
    {"recipe": "photographs"},
    {"settings": "image"},
    {"max_evals": 0, "annotations": "labels_2026-11-27.csv"},
    {"annotations": "corrections/größe x.csv"},
]
REFUSED: list[dict[str, Any]] = [
    {"epochs": -1},
    {"epochs": 0},
    {"epochs": 1001},
    {"epochs": "ten"},
    {"epochs": "{{ 7*7 }}"},
    {"max_evals": 1.5},
    {"max_evals": -1},
    {"annotations": "../etc/passwd"},
    {"annotations": "a/../../etc/passwd"},
    {"annotations": "/etc/passwd"},
    {"annotations": "--force"},
    {"annotations": "a//b"},
    {"annotations": ".hidden"},
    {"annotations": "a\n"},
    {"annotations": ""},
    {"max_evals": "; rm -rf /"},
    {"lots": "s1"},
    {"lots": ["; rm"]},
    {"lots": ["{{ 7*7 }}"]},
    {"lots": ["../s1"]},
    {"lots": ["--force"]},
    {"lots": ["s1\n"]},
    {"force": "yes"},
    {"recompute": "yes"},
    {"recipe": "drawings"},
    {"settings": "volume"},
    {"recipe": "../photographs"},
    {"recipe": None},
]


@pytest.fixture(scope="module")
def dag(dag_reader: DagReader) -> Any:
    return dag_reader.describe(DAG_ID, *ACCEPTED, *REFUSED)


def test_a_run_a_day_from_the_next_midnight_and_one_at_a_time(dag: Any) -> None:
    assert dag["dag_id"] == DAG_ID
    midnight = datetime.fromisoformat(dag["next_run"])
    assert (
        timedelta(0)
        <= midnight - datetime.fromisoformat(dag["asked"]) + timedelta(minutes=1)
        <= timedelta(days=1, minutes=1)
    )
    assert (midnight.hour, midnight.minute) == (0, 0)
    assert not dag["catchup"]
    assert dag["max_active_runs"] == 1
    assert "Run with parameters" in dag["doc"]


def test_nothing_runs_before_the_checks(dag: Any) -> None:
    assert dag["upstream"]["check_environment"] == []
    assert dag["upstream"]["check_raw_data"] == ["check_environment"]
    assert dag["upstream"]["validate"] == ["check_raw_data"]
    assert (
        dag["groups"].items()
        >= {
            "check_environment": "checks",
            "check_raw_data": "checks",
            "validate": "data",
            "group_lots": "data",
            "prepare_lots": "data",
            "prepare_train": "data",
            "hyperopt": "model",
            "train": "model",
            "evaluate": "model",
            "label_doubt": "model",
            "archive": "release",
        }.items()
    )


def test_tasks_are_run_as_params_yaml_says_with_growing_pauses(dag: Any) -> None:
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["airflow"]
    assert dag["run_as"] == {task: settings for task, settings in section["tasks"].items() if task in dag["run_as"]}
    assert dag["retry_delays"] == [section["retry_delay"]]
    assert all(grows for _, grows in dag["retries"].values())
    timeout = yaml.safe_load((ROOT / "params.yaml").read_text())["hyperopt"]["timeout"]
    assert section["tasks"]["hyperopt"]["timeout"] > timeout


def test_lots_are_prepared_by_mapped_tasks_before_they_are_joined(dag: Any) -> None:
    assert dag["mapped"] == ["prepare_lots"]
    assert dag["upstream"]["group_lots"] == ["validate"]
    assert dag["upstream"]["prepare_lots"] == ["group_lots", "validate"]
    assert dag["upstream"]["prepare_train"] == ["prepare_lots", "validate"]


def test_tasks_that_may_use_a_gpu_wait_for_it(dag: Any) -> None:
    waiting = {"hyperopt", "train", "label_doubt"}
    expected = {
        task: [True, "gpu", "gpu"] if task in waiting else [False, "default_pool", "default"] for task in dag["gpu"]
    }
    assert dag["gpu"] == expected


def test_data_set_and_model_are_assets(dag: Any) -> None:
    found = "face_attributes_findings"
    assert dag["makes"] == {
        "validate": [found],
        "evaluate": [found],
        "label_doubt": [found],
        "prepare_train": ["face_attributes_data_set", found],
        "archive": ["face_attributes_model", found],
    }


def test_the_dag_and_every_task_say_what_they_are(dag: Any) -> None:
    assert all(dag["docs"].values())
    assert all("**In**" in dag["docs"][task] and "**Out**" in dag["docs"][task] for task in dag["images"])
    assert dag["owners"] == ["face-attributes"]
    assert dag["tags"] == ["face-attributes", "training"]
    (picture,) = re.findall(r"!\[.*\]\(reports/(.*)\)", dag["doc"])
    assert picture == "pipeline.svg"


def test_what_a_task_imports_is_there_before_it_is_forked(tmp_path: Path) -> None:
    """Each library would be imported again for every task, by a process of its own."""
    code = f"""
import runpy, sys
runpy.run_path({str(ROOT / "images/airflow/bin/run-tasks")!r})
before = set(sys.modules)
import airflow.sdk.execution_time.task_runner, airflow.dag_processing.dagbag, {DAG_ID}
print(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "dags")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(["airflow", DAG_ID, "shared_parts", "task_docs"])


def break_params(folder: Path, old: str, new: str) -> Path:
    """A params.yaml with something replaced in section `airflow`."""
    before, airflow, section = (ROOT / "params.yaml").read_text().partition("\nairflow:")
    assert old in airflow + section
    path = folder / "params.yaml"
    path.write_text(before + (airflow + section).replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("{retries: 3, ", "{", "airflow.tasks.check_raw_data.retries: Field required"),
        ("retries: 3", "retries: x", "airflow.tasks.check_raw_data.retries: Input should be a valid integer (got 'x')"),
        ("mem_limit: 4g", "mem_limit: 4 GB", "airflow.tasks.check_raw_data.mem_limit: String should match pattern"),
        ("mem_limit: 4g", "mem_limit: 4g, cpus: -1", "airflow.tasks.check_raw_data.cpus: Input should be greater than"),
        ("retry_delay: ", "retry_pause: ", "airflow.retry_delay: Field required; airflow.retry_pause: Extra inputs"),
        ("airflow:", "airflows:", "airflow: Input should be"),
        ('ml_pipeline_face_attributes: "@daily"', "", "airflow.schedules.ml_pipeline_face_attributes: Field required"),
        ('"@weekly"', "every week", "retraining: Value error, not a cron expression such as"),
        ("tasks:", "tasks: {", "cannot read parameters from"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path, old: str, new: str, problem: str) -> None:
    path = break_params(tmp_path, old, new)
    with pytest.raises(ValueError, match=re.escape(problem)) as refusal:
        load_settings(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_container_may_be_kept_from_taking_all_cores(tmp_path: Path) -> None:
    settings = load_settings(break_params(tmp_path, "mem_limit: 4g}", "mem_limit: 4g, cpus: 1.5}"))
    assert settings.of("check_raw_data")["cpus"] == 1.5
    assert settings.of("validate")["cpus"] == 0


def read_dags(dag_reader: DagReader, folder: Path, old: str, new: str) -> tuple[list[str], dict[str, str]]:
    """Last lines of Airflow's errors, and DAG -> kind of its timetable, with something replaced in params.yaml."""
    break_params(folder, old, new)
    shutil.copytree(ROOT / "dags", folder / "dags")
    code = (
        "import json, sys; sys.path.insert(0, 'dags'); "
        "from airflow.dag_processing.dagbag import DagBag; bag = DagBag('dags'); print(json.dumps(["
        "[error.strip().splitlines()[-1] for error in bag.import_errors.values()],"
        "{name: type(dag.timetable).__name__ for name, dag in bag.dags.items()}]))"
    )
    errors, timetables = json.loads(dag_reader.run(code, folder).stdout.splitlines()[-1])
    return errors, timetables


def test_a_task_without_settings_is_an_import_error_that_names_it(dag_reader: DagReader, tmp_path: Path) -> None:
    errors, _ = read_dags(dag_reader, tmp_path, "    archive: {retries", "    archives: {retries")
    assert errors == [f"ValueError: {tmp_path / 'params.yaml'}: airflow.tasks.archive is missing"]


def test_a_dag_without_a_schedule_starts_when_somebody_triggers_it(dag_reader: DagReader, tmp_path: Path) -> None:
    errors, timetables = read_dags(dag_reader, tmp_path, '"@daily"', "null")
    assert errors == []
    assert timetables[DAG_ID] == "NullTimetable"


def test_each_parameter_of_a_run_reaches_a_stage(dag: Any) -> None:
    used = {name for settings in dag["settings"].values() for name in settings.values()}
    used |= {name for files in dag["files"].values() for name in files.values()}
    assert used | {"recipe", "recompute", "settings"} == set(dag["params"])


def test_the_form_refuses_what_no_stage_can_use(dag: Any) -> None:
    refusals = dag["refusals"]
    assert refusals[: len(ACCEPTED)] == [None] * len(ACCEPTED)
    accepted = [conf for conf, refusal in zip(REFUSED, refusals[len(ACCEPTED) :], strict=True) if refusal is None]
    assert accepted == []


def test_a_recipe_is_handed_to_every_stage_and_the_environment_may_name_one(dag_reader: DagReader) -> None:
    code = (
        "task = dag.get_task('check_raw_data'); params = dag.params.dump() | {}; "
        "print(json.dumps([params['recipe'], task._command({'params': params})]))"
    )
    plain, chosen = (
        json.loads(dag_reader.run_with(DAG_ID, code, FACE_ATTRIBUTES_RECIPE=recipe).stdout.splitlines()[-1])
        for recipe in ("", "photographs")
    )
    assert plain[0] == "none"
    assert "--params" not in plain[1]
    assert chosen[0] == "photographs"
    assert " --params params.yaml --params params-photographs.yaml " in " ".join(chosen[1])


def test_an_empty_field_says_what_that_means_today(dag_reader: DagReader) -> None:
    code = "print(json.dumps({name: dag.params.get_param(name).description for name in dag.params}))"
    told = json.loads(
        dag_reader.run_with(DAG_ID, code, FACE_ATTRIBUTES_ANNOTATIONS="/data/labels").stdout.splitlines()[-1]
    )
    usual, recipe = (yaml.safe_load((ROOT / name).read_text()) for name in ("params.yaml", "params-photographs.yaml"))
    assert f"Empty means {usual['train']['epochs']}" in told["epochs"]
    other = recipe.get("train", {}).get("epochs")
    assert (f", with recipe photographs {other}." in told["epochs"]) is (other is not None)
    assert told["lots"].endswith("Empty means all.")
    assert told["annotations"].endswith("Empty means /data/labels.")


def test_the_form_says_what_the_data_bring_and_can_do_without(dag_reader: DagReader, tmp_path: Path) -> None:
    (tmp_path / "expectations").mkdir()
    (tmp_path / "expectations/images.json").touch()
    (tmp_path / "params.yaml").write_text("train: {epochs: 77}\nhyperopt: {max_evals: 0}\n")
    code = (
        "from pathlib import Path; from task_settings import of_data, today; "
        f"own = Path({str(tmp_path)!r}, 'params.yaml'); commands = "
        "[dag.get_task('train')._command({'params': dag.params.dump() | {'settings': of}}) for of in ('data', 'image')"
        " if dag.get_task('train').inputs.clear() is None]; "
        "print(json.dumps([of_data(own.parent), *[today(name, data=own) for name in "
        "('train.epochs', 'hyperopt.max_evals', 'monitor.alpha')], *commands]))"
    )
    brought, epochs, evals, alpha, data, image = json.loads(dag_reader.run_with(DAG_ID, code).stdout.splitlines()[-1])
    assert brought == ["params.yaml", "images.json"]
    assert epochs == "Empty means 77, as params.yaml of the data says."
    assert evals == "Empty means 0, as params.yaml of the data says."
    assert alpha.startswith(f"Empty means {yaml.safe_load((ROOT / 'params.yaml').read_text())['monitor']['alpha']}")
    assert data[data.index("--data") + 1] == "/data"
    assert "--data" not in image


def test_another_annotation_file_is_taken_by_both_tasks_that_read_it(dag_reader: DagReader) -> None:
    code = (
        "params = dag.params.dump() | {'annotations': 'mended {{ 7*7 }}/a.csv'}; "
        "both = map(dag.get_task, ('check_raw_data', 'validate')); "
        "print(json.dumps([task._command({'params': params}) for task in both]))"
    )
    for command in json.loads(dag_reader.run_with(DAG_ID, code).stdout.splitlines()[-1]):
        assert command[command.index("--annotations") + 1] == "/data/mended {{ 7*7 }}/a.csv"
        assert command.count("--annotations") == 1


CHECK = (
    "from types import SimpleNamespace;"
    "dag.get_task('check_environment').python_callable(dag=dag, dag_run=SimpleNamespace(conf={conf}))"
)


def test_a_parameter_that_does_not_exist_is_refused_and_not_tried_again(dag_reader: DagReader) -> None:
    done = dag_reader.run_with(DAG_ID, CHECK.format(conf={"epoch": 3, "lots": ["s1"]}))
    assert done.stderr.splitlines()[-1] == (
        "airflow.sdk.exceptions.AirflowFailException: unknown parameter epoch: there are annotations, epochs, force, "
        "lots, max_evals, recipe, recompute, settings"
    )


@pytest.mark.docker
def test_what_the_environment_lacks_is_said_in_a_line_each_and_not_tried_again(
    docker: Any, dag_reader: DagReader
) -> None:
    absent = {"FACE_ATTRIBUTES_TAG": "never-built", "FACE_ATTRIBUTES_DATA_VOLUME": "face-attributes-never-filled"}
    done = dag_reader.run_with(DAG_ID, CHECK.format(conf={}), **absent)
    *images, volume = done.stderr.partition("AirflowFailException: ")[2].splitlines()
    assert images == [
        f"image face-attributes/{stage}:never-built is missing: build it with `make images`" for stage in TRAINING
    ]
    assert volume == (
        "volume face-attributes-never-filled with the raw data is missing: fill it, or set FACE_ATTRIBUTES_DATA_VOLUME"
    )
