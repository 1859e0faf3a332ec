"""The note of a DAG run: its results, a line per task, for the list of runs.

A task cannot write it, because the tasks' API cannot set the note of an existing run. So the scheduler writes it at the
end of the run: it calls listeners before it stores the end, and the note is stored together with it.
"""

from typing import TYPE_CHECKING

import verdicts
from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models import DagRun

TOLD = {
    "archive": ("version", "champion", "fit"),
    "release": ("version", "action", "by", "reason"),
    "evaluate": ("mean_accuracy", "mean_balanced_accuracy", "mean_majority", "no_better", "never_answered"),
    "monitor": (
        "drift",
        "performance",
        "mean_accuracy",
        "mean_balanced_accuracy",
        "expected_accuracy",
        "retrain",
        "labels_needed",
    ),
    "predict": ("version", "images", "lots", "expected_accuracy"),
}
"""Task -> the figures of its headline in the note; the verdict comes first."""
LENGTH = 1000
"""Greatest number of characters of a note in Airflow."""


def note_of(headlines: dict[str, object]) -> str:
    """The note; findings come first, so that a run with findings does not look like one without.

    Args:
        headlines: task -> headline, of the tasks that have one.
    """
    found = [
        text
        for task in verdicts.STAGES
        if isinstance(headline := headlines.get(task), dict)
        for text in verdicts.findings(task, headline).values()
    ]
    lines = [f"**To inspect**: {'; '.join(found)}"] if found else []
    for task, names in TOLD.items():
        headline = headlines.get(task)
        if isinstance(headline, dict):
            told = [f"{name.replace('_', ' ')} {headline[name]}" for name in names if name in headline]
            lines.append(f"{task}: {', '.join(told)}")
    return "\n\n".join(lines)[:LENGTH]  # a note is Markdown


class NoteWriter:
    """Writes the note when a run ends."""

    @hookimpl
    def on_dag_run_success(self, dag_run: "DagRun") -> None:
        """Write the note of a successful run."""
        self._write(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: "DagRun") -> None:
        """Write the note of a failed run, about the tasks before the failed one."""
        self._write(dag_run)

    def _write(self, dag_run: "DagRun") -> None:
        # not at the top: plugins are loaded before each task, without need for this
        from airflow.models.xcom import XComModel
        from sqlalchemy import select
        from sqlalchemy.orm import object_session

        written, session = dag_run.dag_run_note, object_session(dag_run)
        if (written and written.user_id) or not session:
            return  # by a person
        found = select(XComModel.task_id, XComModel.value).where(
            XComModel.dag_run_id == dag_run.id,
            XComModel.key == "headline",
            XComModel.task_id.in_({*TOLD, *verdicts.STAGES}),
        )
        if note := note_of(dict(session.execute(found).tuples().all())):
            dag_run.note = note  # stored with the end of the run, in the same transaction


class NotesPlugin(AirflowPlugin):
    """Registers the listener."""

    name = "notes"
    listeners = [NoteWriter()]  # noqa: RUF012 (as Airflow wants it)
