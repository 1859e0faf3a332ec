"""The note of a run, as a real scheduler writes it when the run ends."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.dags.worker import Worker

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DAG = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import dag

@dag(schedule=None, is_paused_upon_creation=False)
def noted():
    validate = EmptyOperator(task_id="validate")
    validate >> [EmptyOperator(task_id=task) for task in ("evaluate", "label_doubt", "archive")]

noted()
"""
EVALUATED = {"images": 200, "mean_accuracy": 0.9489, "no_better": "hat", "mean_balanced_accuracy": 0.8512, "hat": 0.96}
VALIDATED = {"rows": 10, "rejected": 0, "success": True, "warnings": "2 repeats", "notices": "hat is never answered"}
NOTE = """**To inspect**: rows with a warning: 2 repeats; about the whole table: hat is never answered; \
no better than the most frequent class: hat; 12 doubtful labels; v3 is not fit: worse than v2

archive: version v3, champion v2, fit no

evaluate: mean accuracy 0.9489, mean balanced accuracy 0.8512, no better hat"""


def test_a_run_says_what_came_of_it_unless_a_person_has(tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "noted.py").write_text(DAG)
    environment = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "images/airflow/plugins"),
    }
    worker = Worker(tmp_path / "home", environment)
    told, by_a_person, silent = (worker.start_run("noted") for _ in range(3))
    for run in (told, by_a_person):
        worker.set_xcom(run, "validate", VALIDATED, "headline")
        worker.set_xcom(run, "label_doubt", {"doubts": 12}, "headline")
        worker.set_xcom(run, "evaluate", EVALUATED, "headline")
        worker.set_xcom(
            run, "archive", {"fit": "no", "version": "v3", "champion": "v2", "why": "worse than v2"}, "headline"
        )
    worker.close()
    with closing(sqlite3.connect(worker.home / "airflow.db")) as database, database:
        database.execute(
            "INSERT INTO dag_run_note (dag_run_id, content, user_id, created_at, updated_at) "
            "SELECT id, 'look at this', '1', start_date, start_date FROM dag_run WHERE run_id = ?",
            (by_a_person,),
        )
    command = [str(Path(sys.executable).with_name("airflow")), "scheduler", "--num-runs", "10", "--skip-serve-logs"]
    subprocess.run(command, env=os.environ | worker.environment, check=True, capture_output=True)
    with closing(sqlite3.connect(worker.home / "airflow.db")) as database:
        found = "SELECT run_id, state, content FROM dag_run LEFT JOIN dag_run_note ON dag_run.id = dag_run_id"
        notes = {run: (state, note) for run, state, note in database.execute(found)}
    assert notes == {
        told: ("success", NOTE), by_a_person: ("success", "look at this"), silent: ("success", None)
    }  # fmt: skip
