"""Watches the champion every week, and has it trained again when that is called for.

It measures the champion on newly annotated images, and compares what new images look like with those that the champion
was measured on. An image is new if the champion has neither learned from its picture nor was measured on it, whatever
lot it came into. If the champion's mean accuracy (or balanced accuracy: `evaluate.metric` in params.yaml) has fallen
below `min_accuracy`, or the data have drifted, it starts `ml_pipeline_face_attributes`, whose release gate decides;
never twice for one cause, so if `train_again` itself fails, clear it. A lot without labels that drifted, or of which a
low accuracy is expected, starts no training, which would learn nothing new: it asks for labels, and `to_label.csv`
lists the images that are most worth them. Where there is not enough data to tell, it says so. If `validate` fails,
drift is told all the same, for it needs no labels.

**Results**: the report of `monitor` shows what moved, by how much, with pictures of then and now; every check is a line
of `logs/monitoring_log.json` among the artifacts. The note of a run has the verdict in a line.

**Run with parameters**: each field says what it means if it is left empty; `epochs` and `max_evals` are for the
training that it may start.
"""

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import XComArg, dag, task
from airflow.sdk.exceptions import AirflowFailException
from shared_parts import (
    ANNOTATED,
    DEFAULTS,
    EPOCHS,
    MAX_EVALS,
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
    """Go on only if the check asks for a new training, and says for which cause."""
    told = headline if isinstance(headline, dict) else {}
    if not (told.get("retrain") in {"yes", "no"} and isinstance(told.get("cause_id"), str)):
        raise AirflowFailException("the headline that monitor gave says neither yes nor no: clear that task")
    return bool(told["retrain"] == "yes")


@dag(
    schedule=at(SETTINGS.schedules.model_monitoring_and_retraining),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["face-attributes", "monitoring"],
    default_args=DEFAULTS,
    params={
        "min_accuracy": number(
            "Mean of evaluate.metric below which it is trained again.", "monitor.min_accuracy", minimum=0.0, maximum=1.0
        ),
        "min_labels": number("Labels of new images that a measurement needs.", "monitor.min_labels", minimum=1),
        "min_images": number("Images of a new lot that telling drift needs.", "monitor.min_images", minimum=10),
        "alpha": number(
            "Probability of saying drift where there is none.", "monitor.alpha", minimum=0.0001, maximum=0.5
        ),
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
    """Take the champion, check labels, predict, compare, train again if need be."""
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
