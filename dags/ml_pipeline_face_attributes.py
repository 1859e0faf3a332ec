"""From raw annotations to a released face-attribute model, every day.

![The pipeline: what each task makes of what](reports/pipeline.svg)

Each stage runs in its own image, `face-attributes/<stage>`, and hands over the path of its artifact by XCom: the edges
are the data. An artifact that is already in the store is not made again, so a day without news costs seconds.

**Release**: the last task makes a version of the model and compares it with the champion, the released version, on the
same test images. The version becomes the champion if its accuracy (or balanced accuracy: `evaluate.metric` in
params.yaml) is high enough, it is not significantly worse in any attribute, and not far below the best version so far.
Otherwise it is archived with the reason. `force` overrides that. `release_version` promotes it later or rolls back.
`predict_new_lots` predicts with the champion, and `model_monitoring_and_retraining` monitors it.

**Run with parameters**: each field says what it means if it is left empty, which is what params.yaml has; `recipe`
takes the values that differ from those out of `params-<name>.yaml`, for example for photographs. `max_evals` 0 skips
the search; `annotations` takes another file of the data volume; `settings` says whether suites and parameters that the
data bring are taken.

**Results**: the note of a run, which the list of runs opens, says which version it made, whether that was released, and
how good it is. The tab *Reports* of a run has the headline figures and the report of every task; *XCom* of a task has
its whole result. A new data set and a new model are events of the assets `face_attributes_data_set` and
`face_attributes_model`, with the same figures: schedule your own DAG on one of them with
`schedule=[Asset("face_attributes_model")]`.

**When a task fails**: the end of its log names the cause and the remedy. Bad data and wrong parameters are not tried
again; a killed worker, an engine that restarts or a passing fault is. A run keeps to the images that it began with:
after `make images`, trigger a new one. Of a very long log the beginning, the errors and the end are kept. Retries, time
and memory of a task, and the hour of the daily run, are set in section `airflow` of params.yaml. Messages by e-mail or
webhook: see `dags/notifications.py`.
"""

from airflow.sdk import Param, TaskGroup, XComArg, dag
from notifications import on_new_version
from shared_parts import (
    CHOSEN,
    DATA_SET,
    DEFAULTS,
    EPOCHS,
    GPU,
    MAX_EVALS,
    MODEL,
    OTHER_ANNOTATIONS,
    RAW,
    RECIPE,
    RECOMPUTE,
    REGISTRY,
    SETTINGS,
    SETTINGS_OF,
    at,
    check_environment,
    described,
    lots,
    stage,
)
from stage_operator import DATA, StageOperator

RUNS = "/artifacts/run"
FORCE = "Release the new version whatever the gate says; the registry keeps that it was forced."


@dag(
    schedule=at(SETTINGS.schedules.ml_pipeline_face_attributes),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["face-attributes", "training"],
    default_args=DEFAULTS,
    params={
        "max_evals": MAX_EVALS,
        "epochs": EPOCHS,
        "lots": lots("validate.lots"),
        "annotations": OTHER_ANNOTATIONS,
        "recipe": RECIPE,
        "settings": SETTINGS_OF,
        "force": Param(False, FORCE, type="boolean"),
        "recompute": RECOMPUTE,
    },
)
def ml_pipeline_face_attributes() -> None:
    """Check, validate, prepare, search, train, evaluate, doubt labels, archive and release."""
    chosen = {**CHOSEN, "settings": {"validate.lots": "lots"}}

    with TaskGroup("checks", prefix_group_id=False, tooltip="Is everything there?") as checks:
        look = stage("check_raw_data", stage="validate", **chosen, check=True)
        check_environment() >> look

    with TaskGroup("data", prefix_group_id=False, tooltip="From raw data to a data set"):
        validate = stage("validate", **chosen)
        checks >> validate  # the only edge that no data makes
        raw = {"raw": RAW, **validate.artifact}
        spread = {"map_index_template": "{{ task.label }}", "max_active_tis_per_dagrun": SETTINGS.lot_groups_at_once}
        prepare = {"stage": "prepare_train", "inputs": raw}
        group_lots = stage("group_lots", **prepare, check=True, groups=SETTINGS.lot_groups)
        ahead = StageOperator.partial(**described("prepare_lots"), **prepare, **spread)
        prepare_lots = ahead.expand(lots=XComArg(group_lots))
        # Joins the lots, whose shards are then in the cache; without any group it prepares them itself.
        made = {"inlets": [DATA_SET], "outlets": [DATA_SET], "trigger_rule": "none_failed"}
        prepare_train = stage("prepare_train", inputs=raw, **made)
        prepare_lots >> prepare_train
        prepared = prepare_train.artifact

    with TaskGroup("model", prefix_group_id=False, tooltip="From a data set to a measured model"):
        evals, epochs = {"hyperopt.max_evals": "max_evals"}, {"train.epochs": "epochs"}
        hyperopt = stage("hyperopt", inputs=prepared, settings=evals, **GPU)
        found = prepared | hyperopt.artifact
        train = stage("train", inputs=found, settings=epochs, **GPU)
        trained = prepared | train.artifact
        evaluate = stage("evaluate", inputs=trained)
        label_doubt = stage("label_doubt", inputs=trained, **GPU)

    with TaskGroup("release", prefix_group_id=False, tooltip="One version, with all that led to it"):
        stages = (validate, prepare_train, hyperopt, train, evaluate, label_doubt)
        everything = {name: path for one in stages for name, path in one.artifact.items()}
        kept = {"card": DATA, "registry": REGISTRY, "runs": RUNS}
        told = {"inlets": [MODEL], "outlets": [MODEL], "on_success_callback": on_new_version(MODEL)}
        stage("archive", inputs=everything | kept, settings={"archive.force": "force"}, tells=stages, **told)


ml_pipeline_face_attributes()
