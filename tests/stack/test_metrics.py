"""Profile `metrics`: Airflow's figures in Prometheus, and its dashboard."""

import json
import subprocess
import urllib.request

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

    try:
        query = "api/v1/query?query=airflow_scheduler_heartbeat_total"
        wait_until(lambda: json.loads(get(query))["data"]["result"], 120, "a heartbeat", pause=2)
        assert "Heartbeats of the scheduler" in get("consoles/airflow.html")
        ports = stack.inspect(stack.compose("--profile", "metrics", "ps", "--quiet", "prometheus").strip())[0]
        assert [one["HostIp"] for one in ports["NetworkSettings"]["Ports"]["9090/tcp"]] == ["127.0.0.1"]
    finally:
        stack.compose("--profile", "metrics", "rm", "--stop", "--force", "airflow-metrics", "prometheus")
        stack.compose("up", "--detach", "--wait", "--no-deps", "airflow-scheduler")
