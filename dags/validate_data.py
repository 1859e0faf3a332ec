"""Checks annotations and images, without a training.

It starts when the annotations change or somebody saves corrections on a report, which the triggerer watches. You can
also trigger it. Rows that cannot be used are listed with the reason. The report shows the differences from the previous
validation: rows and labels added, changed and removed. `ml_pipeline_face_attributes` reuses the artifact, so nothing is
checked twice.

**Results**: the report of `validate`, with pictures; `changes.csv`, `rejected.csv` and `warnings.csv` beside it.

**Run with parameters**: `annotations` checks another file of the data volume, for example before it replaces the
current one.
"""

from airflow.sdk import Asset, AssetWatcher, dag
from new_lots import NewAnnotations
from shared_parts import (
    ANNOTATIONS,
    CHOSEN,
    OF_DAG,
    OTHER_ANNOTATIONS,
    RECIPE,
    RECOMPUTE,
    SETTINGS,
    SETTINGS_OF,
    check_environment,
    lots,
    stage,
)

WATCHER = AssetWatcher("new_annotations", NewAnnotations(ANNOTATIONS, SETTINGS.new_lots_interval))


@dag(
    schedule=Asset("face_attributes_annotations", watchers=[WATCHER]),
    doc_md=__doc__,
    tags=["face-attributes", "data"],
    **OF_DAG,
    params={
        "annotations": OTHER_ANNOTATIONS,
        "lots": lots("validate.lots"),
        "recipe": RECIPE,
        "settings": SETTINGS_OF,
        "recompute": RECOMPUTE,
    },
)
def validate_data() -> None:
    """Check the environment, validate."""
    check_environment() >> stage("validate", **CHOSEN, settings={"validate.lots": "lots"})


validate_data()
