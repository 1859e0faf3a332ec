"""Profile `metrics`: the figures of Airflow and of the service in Prometheus, and its dashboard."""

import json
import subprocess
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from tests.stack.stack import ROOT, Stack, free_port, wait_until

pytestmark = pytest.mark.docker


def test_heartbeats_of_the_scheduler_reach_prometheus_and_its_dashboard(stack: Stack) -> None:
    subprocess.run([ROOT / "images/base/services", "prometheus"], check=True)
    port = str(free_port())
    up = ("--profile", "metrics", "up", "--detach", "--wait", "--no-deps")
    stack.compose(*up, "airflow-metrics", "prometheus", PROMETHEUS_PORT=port)
    stack.compose(*up, "airflow-scheduler", AIRFLOW_METRICS="True")

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
            return str(answer.read().decode())

    def found(query: str) -> Any:
        return json.loads(get(f"api/v1/query?query={quote(query)}"))["data"]["result"]

    try:
        wait_until(lambda: found("airflow_scheduler_heartbeat_total"), 120, "a heartbeat", pause=2)
        of_service = 'face_attributes_request_seconds_count{path="/health",status="200"}'
        wait_until(lambda: found(of_service), 120, "figures of the service", pause=2)
        assert "Heartbeats of the scheduler" in get("consoles/airflow.html")
        ports = stack.inspect(stack.compose("--profile", "metrics", "ps", "--quiet", "prometheus").strip())[0]
        assert [one["HostIp"] for one in ports["NetworkSettings"]["Ports"]["9090/tcp"]] == ["127.0.0.1"]
    finally:
        stack.compose("--profile", "metrics", "rm", "--stop", "--force", "airflow-metrics", "prometheus")
        stack.compose("up", "--detach", "--wait", "--no-deps", "airflow-scheduler")
