"""Profile `metrics`: the figures of Airflow and of the service in Prometheus, its page, and Grafana's dashboard."""

import json
import re
import subprocess
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from tests.stack.stack import ROOT, Stack
from tests.waiting import free_port, wait_until

pytestmark = pytest.mark.docker

DASHBOARDS = (ROOT / "images/base/prometheus/consoles/airflow.html", ROOT / "docs/grafana_dashboard.json")


def asked_for(prefix: str) -> set[str]:
    """The metrics of so beginning names that the dashboards ask for."""
    return {name for file in DASHBOARDS for name in re.findall(rf"\b{prefix}_\w+", file.read_text(encoding="utf-8"))}


def test_what_the_dashboards_ask_airflow_reaches_prometheus(stack: Stack) -> None:
    subprocess.run([ROOT / "images/base/services", "prometheus"], check=True)
    port = str(free_port())
    up = ("--profile", "metrics", "up", "--detach", "--wait", "--no-deps")
    stack.compose(*up, "airflow-metrics", "prometheus", PROMETHEUS_PORT=port)
    told = ("airflow-scheduler", "airflow-dag-processor")
    stack.compose(*up, *told, AIRFLOW_METRICS="True")

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
            return str(answer.read().decode())

    def found(query: str) -> Any:
        return json.loads(get(f"api/v1/query?query={quote(query)}"))["data"]["result"]

    try:
        assert stack.wait_for_run(stack.trigger("validate_data"), dag_id="validate_data") == "success"
        asked = asked_for("airflow")
        assert "airflow_ti_finish_total" in asked
        wait_until(lambda: all(map(found, asked)), f"one of {asked}", pause=2)
        of_service = 'face_attributes_request_seconds_count{path="/health",status="200"}'
        wait_until(lambda: found(of_service), "figures of the service", pause=2)
        wait_until(lambda: "<td>validate_data</td>" in get("consoles/airflow.html"), "the run on the page", pause=2)
        ports = stack.inspect(stack.compose("--profile", "metrics", "ps", "--quiet", "prometheus").strip())[0]
        assert [binding["HostIp"] for binding in ports["NetworkSettings"]["Ports"]["9090/tcp"]] == ["127.0.0.1"]
    finally:
        stack.compose("--profile", "metrics", "rm", "--stop", "--force", "airflow-metrics", "prometheus")
        stack.compose("up", "--detach", "--wait", "--no-deps", *told)
