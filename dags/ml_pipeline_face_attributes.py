"""From raw annotations to a released face-attribute model, every day.

![The pipeline: inputs and outputs of each task](reports/pipeline.svg)

Each stage runs in its own image, `face-attributes/<stage>`, and passes the path of its artifact by XCom: the edges are
the data. Artifacts in the store are cached, so a day without changes takes seconds.

**Release**: the last task registers the model as a version and compares it with the champion, the released version, on
the same test images. The version becomes the champion if its accuracy (or balanced accuracy: `evaluate.metric` in
params.yaml) is high enough, it is not significantly worse in any attribute, and not far below the best version so far.
Otherwise it is archived with the reason. `force` overrides this gate. `release_version` promotes it later or rolls
back. `predict_new_lots` predicts with the champion, and `model_monitoring_and_retraining` monitors it.

**Run with parameters**: an empty field takes the value of params.yaml, which the form shows. `recipe` overrides
params.yaml with `params-<name>.yaml`, for example for photographs. `max_evals` 0 skips the search. `annotations` names
another file of the data volume. `settings` chooses whether to use the suites and parameters of the data volume.

**Results**: the note of a run, shown in the list of runs, names its version, whether it was released, and its accuracy.
The tab *Reports* of a run has the headline figures and the report of every task; *XCom* of a task has its whole result.
A new data set and a new model are events of the assets `face_attributes_data_set` and `face_attributes_model`, with the
same figures: schedule your own DAG on one of them with `schedule=[Asset("face_attributes_model")]`.

**When a task fails**: the end of its log names the cause and the remedy. Bad data and wrong parameters are not retried;
a killed worker, an engine that restarts and other passing faults are. A run uses the images that it began with: after
`make images`, trigger a new run. Very long logs are cut to the beginning, the errors and the end. Section `airflow` of
params.yaml sets the retries, timeout and memory of each task, and the hour of the daily run. For messages by e-mail or
webhook see `dags/notifications.py`.
"""

from airflow.sdk import Param, TaskGroup, XComArg, dag
from shared_parts import (
    CHOSEN,
    DATA_SET,
    EPOCHS,
    GPU,
    MAX_EVALS,
    NEWS_OF_MODEL,
    OF_DAG,
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
from stage_operator.engine import DATA
from stage_operator.operator import StageOperator

RUNS = "/artifacts/run"
FORCE = "Release the new version regardless of the gate; the registry records that it was forced."


@dag(
    schedule=at(SETTINGS.schedules.ml_pipeline_face_attributes),
    doc_md=__doc__,
    tags=["face-attributes", "training"],
    **OF_DAG,
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
        checks >> validate  # the only edge without data
        raw = {"raw": RAW, **validate.artifact}
        spread = {"map_index_template": "{{ task.label }}", "max_active_tis_per_dagrun": SETTINGS.lot_groups_at_once}
        prepare = {"stage": "prepare_train", "inputs": raw}
        group_lots = stage("group_lots", **prepare, check=True, groups=SETTINGS.lot_groups)
        ahead = StageOperator.partial(**described("prepare_lots"), **prepare, **spread)
        prepare_lots = ahead.expand(lots=XComArg(group_lots))
        # Joins the lots, whose shards are then in the cache; without any group, it prepares them itself.
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

    with TaskGroup("release", prefix_group_id=False, tooltip="One version with its lineage"):
        stages = (validate, prepare_train, hyperopt, train, evaluate, label_doubt)
        everything = {name: path for stage in stages for name, path in stage.artifact.items()}
        kept = {"card": DATA, "registry": REGISTRY, "runs": RUNS}
        stage("archive", inputs=everything | kept, settings={"archive.force": "force"}, tells=stages, **NEWS_OF_MODEL)


ml_pipeline_face_attributes()
