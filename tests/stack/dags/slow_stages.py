"""DAGs of the slow stage, for tests of the stack: one task, and lots that spread over workers."""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG
from stage_operator import StageOperator

LOTS = [[f"s{number}"] for number in range(8)]
STAGE: dict[str, Any] = {
    "stage": "slow_stage",
    "inputs": {"raw": "/data"},
    "settings": {"slow_stage.word": "word", "slow_stage.seconds": "seconds"},
    "mem_limit": "256m",
}
DAG_ARGUMENTS: dict[str, Any] = {
    "schedule": None,
    "params": {"word": "", "seconds": 0.0, "force": False, "settings": "image"},
    "default_args": {"retries": 3, "retry_delay": timedelta(seconds=2)},
}

with DAG("slow_stage", **DAG_ARGUMENTS):
    StageOperator(task_id="slow_stage", **STAGE)

with DAG("slow_lots", **DAG_ARGUMENTS):
    lots = StageOperator.partial(task_id="lots", map_index_template="{{ task.label }}", **STAGE).expand(lots=LOTS)
    StageOperator.partial(task_id="on_gpu", queue="gpu", **STAGE).expand(lots=LOTS[:2]) << lots
