"""DAGs of one task each, for tests: the operator on a fake stage, with the limits that a fault needs."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG
from stage_operator import StageOperator, volumes

CASES: dict[str, dict[str, Any]] = {
    "plain": {"cpus": 1},
    "small": {"mem_limit": "64m"},
    "hasty": {"execution_timeout": timedelta(seconds=2)},
    "unbuilt": {"image": "face-attributes/never-built:latest"},
    "unplugged": {"docker_url": "unix:///nonexistent/docker.sock"},
    "proxied": {"docker_url": f"unix://{os.environ.get('FAKE_ENGINE', '')}"},
}

for name, options in CASES.items():
    with DAG(
        name,
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        params={"behaviour": "succeed", "name": "", "force": False},
        default_args={"retries": 1, "retry_delay": timedelta(0)},
    ):
        StageOperator(
            **{
                "task_id": "stage",
                "stage": "fake",
                "image": "face-attributes/test-stage:latest",
                "inputs": {"raw": "/data/raw.sh"},
                "settings": {"fake.behaviour": "behaviour", "fake.name": "name"},
                "mounts": volumes("face-attributes-test-data", "face-attributes-test-artifacts"),
                "mem_limit": "256m",
                **options,
            }
        )
