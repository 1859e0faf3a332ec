"""From raw annotations to an archived face-attribute model, every day.

```
checks    check_environment -> check_raw_data
data          -> validate -> prepare_train
model                            -> hyperopt -> train -> evaluate, label_doubt
release                                                                   -> archive
```

Each stage runs in its own image, `face-attributes/<stage>`, and hands over the path of its artifact by XCom: the edges
are the data. An artifact that is already in the store is not made again, so a day without news costs seconds.

**Run with parameters**: a field left empty means *as in params.yaml*.

**When a task fails**: the end of its log names the cause and the remedy. Bad data and wrong parameters are not tried
again; a killed worker, an engine that restarts or a passing fault is.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Param, TaskGroup, dag, task
from airflow.sdk.exceptions import AirflowFailException
from stage_operator import ARTIFACTS_VOLUME, DATA_VOLUME, StageOperator, connect, missing_images

RAW = os.environ.get("FACE_ATTRIBUTES_RAW", "/data/raw")
ANNOTATIONS = os.environ.get("FACE_ATTRIBUTES_ANNOTATIONS", "/data/annotations.csv")
COUNT = {"type": ["null", "integer"], "minimum": 1, "maximum": 1000}
LOTS = {"type": ["null", "array"], "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9-]*$"}}


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


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["face-attributes", "training"],
    default_args={
        "owner": "face-attributes",
        "retries": 3,  # after 1, 2 and 4 minutes: an engine or a machine that restarts is back by then
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
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

    with TaskGroup("checks", prefix_group_id=False) as checks:
        raw_data = StageOperator(
            task_id="check_raw_data", stage="validate", inputs=annotated, settings=lots, check=True
        )
        check_environment() >> raw_data

    with TaskGroup("data", prefix_group_id=False):
        validate = StageOperator(task_id="validate", inputs=annotated, settings=lots)
        checks >> validate  # the only edge that no data makes
        prepare_train = StageOperator(task_id="prepare_train", inputs={"raw": RAW, **validate.artifact})
        prepared = prepare_train.artifact

    with TaskGroup("model", prefix_group_id=False):
        evals, epochs = {"hyperopt.max_evals": "max_evals"}, {"train.epochs": "epochs"}
        hyperopt = StageOperator(task_id="hyperopt", inputs=prepared, settings=evals, mem_limit="8g", gpu=True)
        found = prepared | hyperopt.artifact
        train = StageOperator(task_id="train", inputs=found, settings=epochs, mem_limit="8g", gpu=True)
        trained = prepared | train.artifact
        evaluate = StageOperator(task_id="evaluate", inputs=trained)
        label_doubt = StageOperator(task_id="label_doubt", inputs=trained, mem_limit="8g", gpu=True)

    with TaskGroup("release", prefix_group_id=False):
        everything = validate.artifact | found | train.artifact | evaluate.artifact | label_doubt.artifact
        StageOperator(task_id="archive", inputs=everything)


ml_pipeline_face_attributes()
