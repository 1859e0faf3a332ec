"""Predicts every lot with the champion as soon as it arrives.

It starts when lots arrive or change in the raw folder, which the triggerer watches, and when there is a new model. Lots
that this version has already predicted are cached. Each file of predictions names the version; images that cannot be
decoded are listed with the reason. Before any version is released it does nothing, and says so.

**Results**: `outputs/predictions_<lot>.csv` in the artifact of `predict`, with classes and confidences; its report; and
the asset `face_attributes_predictions`.

**Run with parameters**: `version` predicts with a version other than the champion, for example `v3`.
"""

from airflow.sdk import Asset, AssetWatcher, Param, dag
from new_lots import NewLots
from shared_parts import (
    MODEL,
    OF_DAG,
    PREDICTIONS,
    RAW,
    RECIPE,
    RECOMPUTE,
    REGISTRY,
    SETTINGS,
    SETTINGS_OF,
    VERSION,
    check_environment,
    lots,
    stage,
)
from task_settings import today

RAW_DATA = Asset(
    "face_attributes_raw_data", watchers=[AssetWatcher("new_lots", NewLots(RAW, SETTINGS.new_lots_interval))]
)


@dag(
    schedule=(RAW_DATA | MODEL),
    doc_md=__doc__,
    tags=["face-attributes", "prediction"],
    **OF_DAG,
    params={
        "lots": lots("predict.lots"),
        "version": Param(None, f"Version to predict with. {today('champion.version', 'the champion')}", schema=VERSION),
        "recipe": RECIPE,
        "settings": SETTINGS_OF,
        "recompute": RECOMPUTE,
    },
)
def predict_new_lots() -> None:
    """Fetch the champion, predict."""
    champion = stage("champion", inputs={"registry": REGISTRY}, settings={"champion.version": "version"})
    made = {"inlets": [PREDICTIONS], "outlets": [PREDICTIONS]}
    predict = stage("predict", inputs={"raw": RAW, **champion.artifact}, settings={"predict.lots": "lots"}, **made)
    check_environment() >> champion >> predict


predict_new_lots()
