"""DAGs of one task each, for tests: the operator on a fake stage, with the limits that a fault needs."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset
from notifications import on_failure, on_finding, on_new_version
from stage_operator.engine import image_name, volumes
from stage_operator.operator import NEWS, StageOperator

VERSION = Asset("version")
FINDINGS = Asset("findings", extra={NEWS: "verdict"})
STAGE: dict[str, Any] = {
    "task_id": "stage",
    "stage": "fake",
    "image": "face-attributes/test-stage:latest",
    "inputs": {"raw": "/data/raw.sh"},
    "settings": {"fake.behaviour": "behaviour", "fake.name": "name"},
    "mounts": volumes("face-attributes-test-data", "face-attributes-test-artifacts"),
    "mem_limit": "256m",
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"cpus": 1},
    "small": {"mem_limit": "64m"},
    "hasty": {"execution_timeout": timedelta(seconds=2)},
    "unbuilt": {"image": "face-attributes/never-built:latest"},
    "locked": {"image": image_name("fake")},
    "unpulled": {"image": image_name("absent")},
    "unplugged": {"docker_url": "unix:///nonexistent/docker.sock"},
    "proxied": {"docker_url": f"unix://{os.environ.get('FAKE_ENGINE', '')}"},
    "announced": {
        "inlets": [VERSION],
        "outlets": [VERSION],
        "on_success_callback": on_new_version(VERSION),
        "on_failure_callback": on_failure(),
    },
    "found": {
        "stage": "validate",
        "inlets": [FINDINGS],
        "outlets": [FINDINGS],
        "on_success_callback": on_finding(FINDINGS),
    },
    "asked": {
        "task_id": "release",
        "inlets": [VERSION],
        "outlets": [VERSION],
        "on_success_callback": on_new_version(VERSION),
        "asks": lambda _context: ["promote", "{{ 7*7 }}.sh", "--reason=; rm -rf / $(id)"],
        "tells": (),
    },
}
DAG_ARGUMENTS: dict[str, Any] = {
    "schedule": None,
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "params": {"behaviour": "succeed", "name": "", "recompute": False},
    "default_args": {"retries": 1, "retry_delay": timedelta(0)},
}

for name, options in CASES.items():
    with DAG(name, **DAG_ARGUMENTS):
        StageOperator(**STAGE | options)

with DAG("spread", **DAG_ARGUMENTS):
    lots = [["s1"], ["{{ 7*7 }}", "s2.sh"], ["a", "b", "c", "d"]]
    StageOperator.partial(**STAGE, map_index_template="{{ task.label }}").expand(lots=lots)

with DAG("consumer", **DAG_ARGUMENTS | {"schedule": [Asset("version")]}, is_paused_upon_creation=False):
    EmptyOperator(task_id="use_it")

with DAG("chained", **DAG_ARGUMENTS):
    EmptyOperator(task_id="check_environment")
    first = StageOperator(**STAGE | {"task_id": "first", "stage": "first"})
    StageOperator(**STAGE | {"inputs": first.artifact, "tells": [first]})
