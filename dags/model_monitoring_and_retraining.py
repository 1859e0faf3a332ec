"""Monitors the champion every week, and starts a training when needed.

It measures the champion on newly annotated images, and compares new images with the reference, the images that the
champion was evaluated on. An image is new if the champion was neither trained nor evaluated on its picture, in whatever
lot. If the champion's mean accuracy (or balanced accuracy: `evaluate.metric` in params.yaml) has fallen below
`min_accuracy`, or the data have drifted, it starts `ml_pipeline_face_attributes`, whose release gate decides. It never
starts two trainings for the same cause, so if `train_again` itself fails, clear it. A lot without labels that drifted,
or whose expected accuracy is low, starts no training, which would learn nothing new. It asks for labels instead, and
`to_label.csv` lists the images most worth labelling. If there is not enough data, it says so. If `validate` fails,
drift is still reported, because it needs no labels.

**Results**: the report of `monitor` shows which signals drifted, and by how much, with pictures of reference and new
images. Every check is a line of `logs/monitoring_log.json` among the artifacts. The note of a run has the verdict.

**Run with parameters**: each field shows what an empty field means; `epochs` and `max_evals` are for the training that
it may start.
"""

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import XComArg, dag, task
from airflow.sdk.exceptions import AirflowFailException
from shared_parts import (
    ANNOTATED,
    EPOCHS,
    MAX_EVALS,
    OF_DAG,
    RAW,
    RECIPE,
    RECOMPUTE,
    REGISTRY,
    SETTINGS,
    SETTINGS_OF,
    at,
    check_environment,
    number,
    stage,
)

LOGS = "/artifacts/logs"


@task.short_circuit
def retraining_is_due(headline: Any) -> bool:
    """Continue only if the check asks for a new training, and names the cause."""
    told = headline if isinstance(headline, dict) else {}
    if not (told.get("retrain") in {"yes", "no"} and isinstance(told.get("cause_id"), str)):
        raise AirflowFailException("the headline of monitor says neither yes nor no: clear that task")
    return bool(told["retrain"] == "yes")


@dag(
    schedule=at(SETTINGS.schedules.model_monitoring_and_retraining),
    doc_md=__doc__,
    tags=["face-attributes", "monitoring"],
    **OF_DAG,
    params={
        "min_accuracy": number(
            "Mean of evaluate.metric below which to retrain.", "monitor.min_accuracy", minimum=0.0, maximum=1.0
        ),
        "min_labels": number("Labels of new images needed to measure accuracy.", "monitor.min_labels", minimum=1),
        "min_images": number("Images of a new lot needed to test for drift.", "monitor.min_images", minimum=10),
        "alpha": number("Probability of a false alarm of drift.", "monitor.alpha", minimum=0.0001, maximum=0.5),
        "min_psi": number(
            "Population stability index that counts as drift.", "monitor.min_psi", minimum=0.0, maximum=100.0
        ),
        "epochs": EPOCHS,
        "max_evals": MAX_EVALS,
        "recipe": RECIPE,
        "settings": SETTINGS_OF,
        "recompute": RECOMPUTE,
    },
)
def model_monitoring_and_retraining() -> None:
    """Fetch the champion, check labels, predict, compare, train again if needed."""
    champion = stage("champion", inputs={"registry": REGISTRY})
    check_environment() >> champion
    validate = stage("validate", **ANNOTATED)
    champion >> validate
    predict = stage("predict", inputs={"raw": RAW, **champion.artifact})
    seen = champion.artifact | predict.artifact | validate.artifact
    names = ("min_accuracy", "min_labels", "min_images", "alpha", "min_psi")
    settings = {f"monitor.{name}": name for name in names}
    needs = {
        "inputs": {**seen, "raw": RAW, "logs": LOGS},
        "optional": ["validate"],
        "trigger_rule": "all_done_min_one_success",
    }
    monitor = stage("monitor", **needs, settings=settings, tells=())
    again = TriggerDagRunOperator(
        task_id="train_again",
        trigger_dag_id="ml_pipeline_face_attributes",
        # One id per cause: Airflow itself refuses a second run for it.
        trigger_run_id="retraining__{{ ti.xcom_pull(task_ids='monitor', key='headline')['cause_id'] }}",
        skip_when_already_exists=True,
        conf="{{ dict(epochs=params.epochs, max_evals=params.max_evals, recipe=params.recipe, settings=params.settings)"
        " | tojson }}",  # type: ignore[arg-type]
        doc_md="Starts `ml_pipeline_face_attributes`. **In**: the decision of monitor. **Out**: a run of that DAG.",
    )
    retraining_is_due(XComArg(monitor, "headline")) >> again


model_monitoring_and_retraining()
