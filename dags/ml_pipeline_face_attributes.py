"""From raw annotations to an archived face-attribute model, every day.

![The pipeline: what each task makes of what](reports/pipeline.svg)

Each stage runs in its own image, `face-attributes/<stage>`, and hands over the path of its artifact by XCom: the edges
are the data. An artifact that is already in the store is not made again, so a day without news costs seconds.

**Run with parameters**: a field left empty means *as in params.yaml*.

**Results**: the tab *Reports* of a run has the headline figures and the report of every task; *XCom* of a task has all
it handed over. A new data set and a new model are events of the assets `face_attributes_data_set` and
`face_attributes_model`, with the same figures: schedule your own DAG on one of them with
`schedule=[Asset("face_attributes_model")]`.

**When a task fails**: the end of its log names the cause and the remedy. Bad data and wrong parameters are not tried
again; a killed worker, an engine that restarts or a passing fault is. Retries, time and memory of a task are set in
section `airflow` of params.yaml. Messages by e-mail or webhook: see `dags/notifications.py`.
"""

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, CronTriggerTimetable, Param, TaskGroup, XComArg, dag, task
from airflow.sdk.exceptions import AirflowFailException
from notifications import on_failure, on_new_version
from stage_operator import ARTIFACTS_VOLUME, DATA_VOLUME, StageOperator, connect, missing_images
from task_docs import DOCS
from task_settings import load_settings

RAW = os.environ.get("FACE_ATTRIBUTES_RAW", "/data/raw")
ANNOTATIONS = os.environ.get("FACE_ATTRIBUTES_ANNOTATIONS", "/data/annotations.csv")
COUNT = {"type": ["null", "integer"], "minimum": 1, "maximum": 1000}
LOTS = {"type": ["null", "array"], "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9-]*$"}}

DATA_SET = Asset("face_attributes_data_set")
MODEL = Asset("face_attributes_model")
# One GPU task at a time (the pool has as many slots as there are GPUs), on workers that listen to this queue.
GPU = {"gpu": True, "pool": "gpu", "queue": "gpu"}
SETTINGS = load_settings()


@task
def check_environment(**context: Any) -> None:
    """See that the engine answers, that every stage's image is built, and that the volumes are there."""
    client = connect()
    images = dict.fromkeys(task.image for task in context["dag"].tasks if isinstance(task, StageOperator))
    problems = missing_images(client, images)
    if not client.volumes(filters={"name": f"^{DATA_VOLUME}$"})["Volumes"]:
        problems.append(
            f"volume {DATA_VOLUME} with the raw data is missing: fill it, or set FACE_ATTRIBUTES_DATA_VOLUME"
        )
    if problems:
        raise AirflowFailException("\n".join(problems))
    client.create_volume(ARTIFACTS_VOLUME)


@task
def group_lots(lots: Any) -> list[list[str]]:
    """Share the lots out among `airflow.lot_groups` containers at most, about as many images for each.

    A task costs 1 to 2 s beside its work, so it is not worth it to have one for each of thousands of lots.

    Args:
        lots: lot -> images; None if there are too many to tell, and `prepare_train` does them all.
    """
    groups: list[list[str]] = [[] for _ in range(min(SETTINGS.lot_groups, len(lots or ())))]
    if not groups:
        return []
    images = [0] * len(groups)
    for lot, count in sorted(lots.items(), key=lambda item: -item[1]):
        smallest = images.index(min(images))
        groups[smallest].append(lot)
        images[smallest] += count
    return [sorted(group) for group in groups]


def stage(task_id: str, **arguments: Any) -> dict[str, Any]:
    """Arguments of a stage's task: its settings in params.yaml, and its documentation."""
    return {"task_id": task_id, "doc_md": DOCS[task_id], **SETTINGS.of(task_id), **arguments}


@dag(
    # Without a start date and with no look back, the first run is the next midnight and not the moment of installation.
    schedule=CronTriggerTimetable("@daily", timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["face-attributes", "training"],
    default_args={
        "owner": "face-attributes",
        "retries": 3,
        "retry_delay": timedelta(seconds=SETTINGS.retry_delay),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(minutes=5),
        "on_failure_callback": on_failure(),
    },
    params={
        "max_evals": Param(None, "Trials of the hyperparameter search.", schema=COUNT),
        "epochs": Param(None, "Epochs of the final training.", schema=COUNT),
        "lots": Param(None, "Lots to use: `s5_00017.png` belongs to lot `s5`.", schema=LOTS),
        "force": Param(False, "Compute again what the store already holds.", type="boolean"),
    },
)
def ml_pipeline_face_attributes() -> None:
    """Check, validate, prepare, search, train, evaluate, doubt labels, archive."""
    annotated = {"raw": RAW, "annotations": ANNOTATIONS}
    lots = {"validate.lots": "lots"}

    with TaskGroup("checks", prefix_group_id=False, tooltip="Is everything there?") as checks:
        look = stage("check_raw_data", stage="validate", inputs=annotated, settings=lots, check=True)
        check_environment() >> StageOperator(**look)

    with TaskGroup("data", prefix_group_id=False, tooltip="From raw data to a data set"):
        validate = StageOperator(**stage("validate", inputs=annotated, settings=lots))
        checks >> validate  # the only edge that no data makes
        raw = {"raw": RAW, **validate.artifact}
        spread = {"map_index_template": "{{ task.label }}", "max_active_tis_per_dagrun": SETTINGS.lot_groups_at_once}
        ahead = stage("prepare_lots", stage="prepare_train", inputs=raw, **spread)
        prepare_lots = StageOperator.partial(**ahead).expand(lots=group_lots(XComArg(validate, "lots")))
        # Joins the lots, whose shards are then in the cache; without any group it prepares them itself.
        join = stage("prepare_train", inputs=raw, inlets=[DATA_SET], outlets=[DATA_SET], trigger_rule="none_failed")
        prepare_train = StageOperator(**join)
        prepare_lots >> prepare_train
        prepared = prepare_train.artifact

    with TaskGroup("model", prefix_group_id=False, tooltip="From a data set to a measured model"):
        evals, epochs = {"hyperopt.max_evals": "max_evals"}, {"train.epochs": "epochs"}
        hyperopt = StageOperator(**stage("hyperopt", inputs=prepared, settings=evals, **GPU))
        found = prepared | hyperopt.artifact
        train = StageOperator(**stage("train", inputs=found, settings=epochs, **GPU))
        trained = prepared | train.artifact
        evaluate = StageOperator(**stage("evaluate", inputs=trained))
        label_doubt = StageOperator(**stage("label_doubt", inputs=trained, **GPU))

    with TaskGroup("release", prefix_group_id=False, tooltip="One version, with all that led to it"):
        everything = validate.artifact | found | train.artifact | evaluate.artifact | label_doubt.artifact
        told = {"inlets": [MODEL], "outlets": [MODEL], "on_success_callback": on_new_version(MODEL)}
        StageOperator(**stage("archive", inputs=everything, **told))


ml_pipeline_face_attributes()
