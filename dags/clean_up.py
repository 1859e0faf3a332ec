"""Removes unused artifacts and old task logs every week.

The artifact store keeps what a run has used within the time `keep`, the newest artifact of each stage, the versions in
the registry, and what a run is using now. The rest is removed. A run that needs something removed computes it again. A
task cannot reach Airflow's own database, so the scheduler's container cleans it once a day; its log
(`docker compose logs airflow-scheduler`) says what was removed.

**Results**: the report of `prune` says what was freed, what was kept and why. If something could not be removed, it
says so, and the task fails.

**Run with parameters**: `dry_run` only lists what would be removed. `keep` is a time such as 12h, 30d or 2w; give more
than a run takes. Section `airflow` of params.yaml sets it for scheduled runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.configuration import conf
from airflow.sdk import Context, Param, dag, task
from airflow.sdk.exceptions import AirflowFailException
from shared_parts import END, OF_DAG, SETTINGS, at, check_environment, stage
from task_logs import remove_old
from task_settings import KEEP, duration


def command(context: Context) -> Sequence[str]:
    """The command line of the stage."""
    params = context["params"]
    return ["prune", "--keep", params["keep"], *(["--dry-run"] if params["dry_run"] else [])]


@task(multiple_outputs=False)
def remove_task_logs(**context: Any) -> dict[str, int | float]:
    """Remove logs of tasks that have not been written to within the time to keep.

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
    doc_md=__doc__,
    tags=["face-attributes", "upkeep"],
    **OF_DAG,
    params={
        "keep": Param(
            SETTINGS.keep,
            "Keep artifacts used within this time, such as 12h, 30d or 2w.",
            schema={"type": "string", "pattern": f"{KEEP}{END}"},
        ),
        "dry_run": Param(False, "Only list what would be removed.", type="boolean"),
    },
)
def clean_up() -> None:
    """Check the environment, clean up the store and the logs of tasks."""
    check_environment() >> [stage("prune", stage="archive", inputs={}, asks=command), remove_task_logs()]


clean_up()
