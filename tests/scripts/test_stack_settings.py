"""The `.env` of the stack: read as docker compose reads it, and what people have written into it stays."""

import runpy
from pathlib import Path
from typing import Any

import pytest

SETTINGS: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "scripts/stack_settings.py"))
BY_HAND = """# the port of last year
#AIRFLOW_PORT=8081
AIRFLOW_PORT=8080 # as the proxy expects

AIRFLOW_URL="https://faces.example.com/a#b" # TLS
NAME=first
NAME='a # b'
"""


def test_a_new_setting_leaves_comments_quotes_and_other_lines_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(BY_HAND)
    known = SETTINGS["read_settings"](file)
    assert known == {"AIRFLOW_PORT": "8080", "AIRFLOW_URL": "https://faces.example.com/a#b", "NAME": "a # b"}
    SETTINGS["write_settings"](file, known | {"AIRFLOW_PORT": "9090", "DATA": "/faces"})
    assert file.read_text() == BY_HAND.replace("8080 # as the proxy expects", "9090") + "DATA=/faces\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_first_one_says_what_it_is(tmp_path: Path) -> None:
    SETTINGS["write_settings"](tmp_path / ".env", {"DATA": "/faces"})
    head, line = (tmp_path / ".env").read_text().splitlines()
    assert head.startswith("# Secrets and settings")
    assert line == "DATA=/faces"


def test_the_engine_in_use_is_that_of_docker_host(monkeypatch: pytest.MonkeyPatch) -> None:
    restored = {"ENGINE_SOCKET": "/run/other.sock"}
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert SETTINGS["engine_socket"]({}) == "/var/run/docker.sock"
    assert SETTINGS["engine_socket"](restored) == "/run/other.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/mine.sock")
    assert SETTINGS["engine_socket"](restored) == "/run/mine.sock"
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    assert SETTINGS["engine_socket"](restored) == "/run/other.sock"
