"""The note of a DAG run: what came of it, in a line a task, so that a person sees it in the list of runs.

No task can write it, for tasks reach Airflow by an API that sets no note of a run that is there. So the scheduler does,
which ends the run: it tells listeners before it stores the end, and a note goes with that.
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
"""Task -> which figures of its headline; the verdict comes first."""
LENGTH = 1000
"""Characters that Airflow keeps of a note."""


def note_of(headlines: dict[str, object]) -> str:
    """The note: what was found comes first, so that a run with findings does not look like one without.

    Args:
        headlines: task -> headline, of whatever tasks gave one.
    """
    found = [
        text
        for task in verdicts.STAGES
        if isinstance(headline := headlines.get(task), dict)
        for text in verdicts.findings(task, headline).values()
    ]
    lines = [f"**To look at**: {'; '.join(found)}"] if found else []
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
        """Say what came of it."""
        self._write(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: "DagRun") -> None:
        """Say what came of the tasks before the one that failed."""
        self._write(dag_run)

    def _write(self, dag_run: "DagRun") -> None:
        # not needed where plugins are loaded only to be known, as before each task
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
            dag_run.note = note  # stored with the end of the run, in the transaction that holds its row


class NotesPlugin(AirflowPlugin):
    """Tells Airflow of the listener."""

    name = "notes"
    listeners = [NoteWriter()]  # noqa: RUF012 (as Airflow wants it)
