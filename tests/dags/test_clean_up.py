"""The weekly clean-up: its DAG as Airflow reads it, and the logs of tasks that it removes."""

import json
import os
import runpy
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.dags.dag_reader import DagReader

ROOT = Path(__file__).parents[2]
ACCEPTED: list[dict[str, Any]] = [{}, {"keep": "12h", "dry_run": True}, {"keep": "2w"}]
REFUSED: list[dict[str, Any]] = [{"keep": "30"}, {"keep": "0d"}, {"keep": "30d; rm"}, {"keep": "30d\n"}, {"keep": None},
           {"keep": "{{ 7*7 }}"}, {"dry_run": "yes"}]  # fmt: skip


@pytest.mark.slow
def test_it_runs_every_week_and_its_form_takes_a_time_and_a_dry_run(dag_reader: DagReader) -> None:
    dag = dag_reader.describe("clean_up", *ACCEPTED, *REFUSED)
    following = datetime.fromisoformat(dag["next_run"])
    assert (
        timedelta(0)
        <= following - datetime.fromisoformat(dag["asked"]) + timedelta(minutes=1)
        <= timedelta(days=7, minutes=1)
    )
    first = ["check_environment"]
    assert dag["upstream"] == {"check_environment": [], "prune": first, "remove_task_logs": first}
    assert dag["params"] == ["keep", "dry_run"]
    assert dag["refusals"][: len(ACCEPTED)] == [None] * len(ACCEPTED)
    refusals = dag["refusals"][len(ACCEPTED) :]
    assert [conf for conf, refusal in zip(REFUSED, refusals, strict=True) if refusal is None] == []
    assert (dag["max_active_runs"], dag["catchup"], dag["owners"]) == (1, False, ["face-attributes"])
    assert "Run with parameters" in dag["doc"]
    assert "**In**" in dag["docs"]["prune"]


@pytest.mark.slow
@pytest.mark.parametrize(("dry_run", "more"), [(False, []), (True, ["--dry-run"])])
def test_the_stage_is_asked_for_a_command_that_it_has(dag_reader: DagReader, dry_run: bool, more: list[str]) -> None:
    code = f"print(json.dumps(dag.get_task('prune')._command({{'params': {{'keep': '2w', 'dry_run': {dry_run}}}}})))"
    words = json.loads(dag_reader.run_with("clean_up", code).stdout.splitlines()[-1])
    assert words[:3] == ["prune", "--keep", "2w"]
    assert [word for word in words if word == "--dry-run"] == more
    done = subprocess.run(  # the parser takes them all; the store is elsewhere
        [sys.executable, "-m", "stages.archive", *(word.replace("/artifacts", "/nowhere") for word in words)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "--store /nowhere is not a folder" in done.stderr


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """An old run and a new one, a folder that is long empty, and links."""
    old, new = (tmp_path / "logs" / f"dag_id=a/run_id={name}/task_id=b/attempt=1.log" for name in ("old", "new"))
    for path in (old, new):
        path.parent.mkdir(parents=True)
        path.write_text("x" * 1000)
    (tmp_path / "logs/empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/old.log").write_text("x")
    (tmp_path / "logs/latest").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "logs/link.log").symlink_to(tmp_path / "elsewhere/old.log")
    for path in (old, *(tmp_path / "logs").iterdir(), tmp_path / "elsewhere/old.log"):
        os.utime(path, (0, 0), follow_symlinks=False)
    return tmp_path / "logs"


def remove_old(folder: Path, *, dry_run: bool = False) -> Any:
    return runpy.run_path(str(ROOT / "dags/task_logs.py"))["remove_old"](folder, timedelta(days=1), dry_run=dry_run)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def test_old_logs_go_and_links_are_not_followed(logs: Path) -> None:
    tried = remove_old(logs, dry_run=True)
    assert len(files(logs)) == 4
    told = remove_old(logs)
    assert (told.removed, told.removed_bytes, told.problems) == (1, 1000, []) == (tried.removed, 1000, tried.problems)
    assert files(logs) == ["dag_id=a/run_id=new/task_id=b/attempt=1.log", "latest", "link.log"]
    assert (logs.parent / "elsewhere/old.log").exists()
    assert not (logs / "empty").exists()
    for folder, _, _ in os.walk(logs, topdown=False):  # a folder that has lost its last log goes with a later pass
        os.utime(folder, (0, 0))
        remove_old(logs)
    assert not (logs / "dag_id=a/run_id=old").exists()
    assert (logs / "dag_id=a/run_id=new").exists()


def test_a_log_that_may_not_be_removed_is_said(logs: Path) -> None:
    code = f"""
from tests.dags.test_clean_up import remove_old
from pathlib import Path
print(remove_old(Path({str(logs)!r})).problems)
"""
    folder = logs / "dag_id=a/run_id=old/task_id=b"
    folder.chmod(0o555)
    command = [sys.executable, "-c", code]
    if os.geteuid() == 0:  # or every door would be open
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    folder.chmod(0o755)
    assert f"{folder}/attempt=1.log: Permission denied: let uid" in done.stdout
    assert (folder / "attempt=1.log").exists()
