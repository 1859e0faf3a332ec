"""Shared parts of the DAGs: places, assets, settings, the task of a stage, and the first task."""

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, CronTriggerTimetable, Param, task
from airflow.sdk.exceptions import AirflowFailException
from notifications import on_failure, on_finding, on_new_version
from stage_operator.engine import ARTIFACTS_VOLUME, DATA, DATA_VOLUME, connect, image_ids, missing_image
from stage_operator.operator import NEWS, OF_DATA, StageOperator
from task_docs import DOCS
from task_settings import RECIPES, load_settings, of_data, today
from verdicts import STAGES

RAW = os.environ.get("FACE_ATTRIBUTES_RAW", "/data/raw")
ANNOTATIONS = os.environ.get("FACE_ATTRIBUTES_ANNOTATIONS", "/data/annotations.csv")
# Without it, validate uses the attributes.yaml beside the annotations, or else the one in its image; likewise the
# folder of corrections beside the annotations, which is absent if a form names annotations elsewhere.
ATTRIBUTES = os.environ.get("FACE_ATTRIBUTES_ATTRIBUTES") or None
ANNOTATED = {
    "inputs": {"raw": RAW, "annotations": ANNOTATIONS, "attributes": ATTRIBUTES, "corrections": None},
    "optional": ["attributes", "corrections"],
}
CHOSEN = {**ANNOTATED, "files": {"annotations": "annotations"}}
"""The same, or other annotations of a run's form."""
REGISTRY = "/artifacts/registry"

DATA_SET = Asset("face_attributes_data_set")
MODEL = Asset("face_attributes_model")
PREDICTIONS = Asset("face_attributes_predictions")
FINDINGS = Asset("face_attributes_findings", extra={NEWS: "verdict"})
TELL_FINDINGS = on_finding(FINDINGS)
# One GPU task at a time (the pool has as many slots as there are GPUs), on workers that listen to this queue.
GPU = {"gpu": True, "pool": "gpu", "queue": "gpu"}
SETTINGS = load_settings()
DEFAULTS: dict[str, Any] = {
    "owner": "face-attributes",
    "retries": 3,
    "retry_delay": timedelta(seconds=SETTINGS.retry_delay),
    "retry_exponential_backoff": True,
    "execution_timeout": timedelta(minutes=5),
    "on_failure_callback": on_failure(),
}

OF_DAG: dict[str, Any] = {"catchup": False, "max_active_runs": 1, "default_args": DEFAULTS}
"""Arguments of every DAG, except the one that asks people: several runs of it may wait."""
NEWS_OF_MODEL: dict[str, Any] = {"inlets": [MODEL], "outlets": [MODEL], "on_success_callback": on_new_version(MODEL)}
"""Arguments of a task that may make or release a version."""

END = r"$(?!\n)"
"""End of a pattern, here and in a browser: Python's `$` alone would allow a line end."""
_NAME = r"[^/\x00-\x20\x7f.-][^/\x00-\x1f\x7f]*"
"""Pattern of a file: not hidden, not outside its folder, and not an option."""
_LOT = r"[^\x00-\x2f:-@\[-`{-\xa0][^\x00-\x1f!-,/:-@\[-^`{-\xa0]*"
"""Pattern of a lot, which may be a folder: letters of any language and digits, then also `_`, `.`, `-`, blanks."""
VERSION = {"type": ["null", "string"], "pattern": f"^v[1-9][0-9]*{END}"}
REASON = {"type": "string", "maxLength": 500, "pattern": rf"^[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*{END}"}
"""Pattern of one line of text."""
RECIPE = Param(
    os.environ.get("FACE_ATTRIBUTES_RECIPE") or "none",
    "Recipe: the keys that differ from params.yaml, in params-<name>.yaml.",
    schema={"type": "string", "enum": ["none", *RECIPES]},
)
SETTINGS_OF = Param(
    OF_DATA,
    "Which suites and parameters to use. data: those in expectations/ and params.yaml of the data volume override "
    f"those of the image. image: only those of the image. The data volume has: {', '.join(of_data(DATA)) or 'none'}.",
    schema={"type": "string", "enum": [OF_DATA, "image"]},
)
RECOMPUTE = Param(False, "Compute again what the store already holds.", type="boolean")


def at(cron: str | None) -> CronTriggerTimetable | None:
    """Schedule of a DAG: with no start date and no look back, it does not run at the moment of installation."""
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0)) if cron else None


def number(text: str, dotted: str, **schema: Any) -> Param:
    """A field of a run's form for a number; its text names the value in params.yaml."""
    kind = "integer" if all(isinstance(bound, int) for bound in schema.values()) else "number"
    return Param(None, f"{text} {today(dotted)}", schema={"type": ["null", kind], **schema})


def lots(dotted: str) -> Param:
    """A field of a run's form for names of lots."""
    name = {"type": "string", "pattern": f"^{_LOT}{END}"}
    text = f"Lots to use: s5_00017.png belongs to lot s5. {today(dotted, 'all')}"
    return Param(None, text, schema={"type": ["null", "array"], "items": name})


EPOCHS = number("Epochs of the final training.", "train.epochs", minimum=1, maximum=1000)
MAX_EVALS = number(
    "Trials of the hyperparameter search; 0 skips it and trains with hyperopt.first.", "hyperopt.max_evals",
    minimum=0, maximum=1000,
)  # fmt: skip
OTHER_ANNOTATIONS = Param(
    None,
    "Annotation file or folder to use, by its path in the data volume, for example labels_2026-11-27.csv. "
    f"Empty means {ANNOTATIONS}.",
    schema={"type": ["null", "string"], "maxLength": 1000, "pattern": f"^{_NAME}(/{_NAME})*{END}"},
)


@task(multiple_outputs=False)
def check_environment(**context: Any) -> dict[str, str]:
    """Check that the engine answers, every stage's image is built, the volumes are there, and parameters are known.

    Returns:
        Image -> its id, which all tasks of the run then use.
    """
    dag = context["dag"]
    if unknown := sorted(set(context["dag_run"].conf or {}) - set(dag.params)):
        raise AirflowFailException(f"unknown parameter {', '.join(unknown)}: there are {', '.join(sorted(dag.params))}")
    client = connect()
    images = image_ids(client, dict.fromkeys(task.image for task in dag.tasks if isinstance(task, StageOperator)))
    problems = [missing_image(image) for image, found in images.items() if not found]
    if not client.volumes(filters={"name": f"^{DATA_VOLUME}$"})["Volumes"]:
        problems.append(
            f"volume {DATA_VOLUME} with the raw data is missing: fill it, or set FACE_ATTRIBUTES_DATA_VOLUME"
        )
    if problems:
        raise AirflowFailException("\n".join(problems))
    client.create_volume(ARTIFACTS_VOLUME)
    return images


def described(task_id: str) -> dict[str, Any]:
    """Arguments of every task of a stage: its name, its documentation, and its settings in params.yaml."""
    return {"task_id": task_id, "doc_md": DOCS[task_id], **SETTINGS.of(task_id)}


def stage(task_id: str, **arguments: Any) -> StageOperator:
    """The task of a stage, which reports its findings; further arguments are those of `StageOperator`."""
    if task_id in STAGES:
        for name, more in (("inlets", [FINDINGS]), ("outlets", [FINDINGS]), ("on_success_callback", TELL_FINDINGS)):
            arguments[name] = [*arguments.get(name, ()), *more]
    return StageOperator(**described(task_id), **arguments)
