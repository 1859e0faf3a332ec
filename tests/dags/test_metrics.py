"""Metrics: what Airflow's own StatsD client sends, as Prometheus reads it."""

import re
import subprocess
import sys
import urllib.request
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.dags.dag_reader import DagReader
from tests.waiting import free_port, wait_until

ROOT = Path(__file__).parents[2]
SEND = """
from airflow.observability.metrics import stats_utils

logger = stats_utils.get_stats_factory()()
for state in ("success", "success", "failed"):
    logger.incr("ti.finish", tags={"dag_id": "a.b", "task_id": "train", "state": state})
logger.timing("task.duration", 2500, tags={"dag_id": "a.b", "task_id": "train"})
logger.gauge("pool.open_slots", 3, tags={"pool_name": "gpu"})
logger.gauge("pool.open_slots", 2, tags={"pool_name": "gpu"})
"""


def test_what_airflow_sends_is_what_prometheus_reads(dag_reader: DagReader) -> None:
    statsd, http = str(free_port()), str(free_port())
    bridge = subprocess.Popen([sys.executable, ROOT / "images/airflow/bin/metrics", statsd, http, "0"])

    def read() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics") as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    try:
        wait_until(read, "an answer")
        settings = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["x-airflow"]["environment"]
        own = {name: value for name, value in settings.items() if name.startswith("AIRFLOW__METRICS__")}
        own |= {f"AIRFLOW__METRICS__STATSD_{name}": value for name, value in
                {"ON": "True", "HOST": "127.0.0.1", "PORT": statsd}.items()}  # fmt: skip
        assert dag_reader.run(SEND, environment=own).returncode == 0
        page = wait_until(lambda: "open_slots{" in (page := read()) and page, "all that was sent")
    finally:
        bridge.kill()
        bridge.wait()
    found = {name: float(value) for name, value in re.findall(r"^(airflow_.*) (\S+)$", page, re.MULTILINE)}
    expected = {
        "airflow_metrics_left_out_total": 0,
        'airflow_ti_finish_total{dag_id="a.b",state="success",task_id="train"}': 2,
        'airflow_ti_finish_total{dag_id="a.b",state="failed",task_id="train"}': 1,
        'airflow_task_duration_seconds_count{dag_id="a.b",task_id="train"}': 1,
        'airflow_task_duration_seconds_sum{dag_id="a.b",task_id="train"}': 2.5,
        'airflow_pool_open_slots{pool_name="gpu"}': 2,
    }
    assert {name: value for name, value in found.items() if name in expected} == expected


@pytest.fixture
def metrics() -> Any:
    """The program as a module."""
    loader = SourceFileLoader("metrics", str(ROOT / "images/airflow/bin/metrics"))
    module = module_from_spec(spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module


def test_what_counts_reads_0_at_first_so_that_prometheus_sees_it_rise(
    metrics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: now[0]))
    bridge = metrics.Bridge(30)
    bridge.take("a:2|c\nb:2|g")

    def read() -> dict[str, float]:
        return {sample.name: sample.value for family in bridge.collect() for sample in family.samples}

    assert {"a_total": 0, "b": 2}.items() <= read().items()
    now[0] = 31.0
    assert {"a_total": 2, "b": 2}.items() <= read().items()


def test_what_is_no_statsd_is_counted_and_ends_nothing(metrics: Any) -> None:
    bridge = metrics.Bridge(0)
    bridge.take("a:1.2.3|c\na:.|g\na:1|c|@0\na:1|c|@0.0\nnothing\na:1|c|@.5\na:-2.5e-1|g\na:1|c|@0.5")
    assert bridge.left_out == 6
    assert bridge.values["c"] == {("a", ()): [2.0, 0.0]}
