"""Removes what nobody needs any more, every week: old artifacts, and logs of old tasks.

The artifact store keeps what a run has used within the time to keep, the newest artifact of each stage, the versions in
the registry, and what a run is using now. The rest is removed. A run that needs something removed makes it again.
Airflow's own database is cleaned by the scheduler's container, once a day, for a task does not reach it; its log
(`docker compose logs airflow-scheduler`) says what went.

**Results**: the report of `prune` says what was freed, what stays and why, and what could not be removed, which fails
the task.

**Run with parameters**: `dry_run` only says what would go. `keep` is a time such as 12h, 30d or 2w; give more than a
run takes. What it is for the runs that start by themselves stands in section `airflow` of params.yaml.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.configuration import conf
from airflow.sdk import Context, Param, dag, task
from airflow.sdk.exceptions import AirflowFailException
from shared_parts import DEFAULTS, END, SETTINGS, at, check_environment, stage
from task_logs import remove_old
from task_settings import KEEP, duration


def command(context: Context) -> Sequence[str]:
    """What the stage is asked to do."""
    params = context["params"]
    return ["prune", "--keep", params["keep"], *(["--dry-run"] if params["dry_run"] else [])]


@task(multiple_outputs=False)
def remove_task_logs(**context: Any) -> dict[str, int | float]:
    """Remove the logs of tasks that nothing was written to within the time to keep.

    Returns:
        Figures, for people.
    """
    params = context["params"]
    told = remove_old(Path(conf.get("logging", "base_log_folder")), duration(params["keep"]), dry_run=params["dry_run"])
    goes = "would go" if params["dry_run"] else "removed"
    print(f"{goes}: {told.removed:,} files, {told.removed_bytes / 1e6:,.1f} MB")
    print(f"kept: {told.kept:,} files, {told.kept_bytes / 1e6:,.1f} MB")
    if told.problems:
        raise AirflowFailException(f"{len(told.problems)} could not be removed; the first: {told.problems[0]}")
    return {"removed": told.removed, "removed_mb": round(told.removed_bytes / 1e6, 1), "kept": told.kept}


@dag(
    schedule=at(SETTINGS.schedules.clean_up),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["face-attributes", "upkeep"],
    default_args=DEFAULTS,
    params={
        "keep": Param(
            SETTINGS.keep,
            "What was used within this time stays, such as 12h, 30d or 2w.",
            schema={"type": "string", "pattern": f"{KEEP}{END}"},
        ),
        "dry_run": Param(False, "Only say what would go.", type="boolean"),
    },
)
def clean_up() -> None:
    """See that everything is there, clean up the store and the logs of tasks."""
    check_environment() >> [stage("prune", stage="archive", inputs={}, asks=command), remove_task_logs()]


clean_up()
