"""News that Airflow sends about a run: events of assets that start other DAGs, and messages to people."""

import hashlib
import json
import os
import socketserver
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from email import message_from_string
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.dags.worker import Worker

pytestmark = pytest.mark.docker


class Webhook(HTTPServer):
    """Takes what is posted to it, and answers with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _TakePost)
        self.status = 200
        self.taken: list[dict[str, Any]] = []


class _TakePost(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        self.server.taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class MailServer(socketserver.TCPServer):
    """As much of SMTP as it takes to be sent a message."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _TakeMail)
        self.taken: list[tuple[list[str], Message]] = []


class _TakeMail(socketserver.StreamRequestHandler):
    server: MailServer

    def _say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self) -> None:
        self._say("220 here")
        receivers = []
        while line := self.rfile.readline().decode().strip():
            match line[:4].upper():
                case "RCPT":
                    receivers.append(line.partition("<")[2].partition(">")[0])
                    self._say("250 ok")
                case "DATA":
                    self._say("354 go on")
                    lines = iter(lambda: self.rfile.readline().decode(), ".\r\n")
                    self.server.taken.append((receivers, message_from_string("".join(lines))))
                    self._say("250 ok")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def mail() -> Iterator[MailServer]:
    with MailServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def worker(
    engine: Any, webhook: Webhook, mail: MailServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """A worker that knows where to send messages."""
    host, port = webhook.server_address[:2]
    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com"}
    smtp = {"conn_type": "smtp", "host": host, "port": mail.server_address[1], "extra": extra}
    environment = {
        "FACE_ATTRIBUTES_NOTIFY_EMAIL": "one@example.com, two@example.com",
        "FACE_ATTRIBUTES_NOTIFY_WEBHOOK": "hook",
        "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(smtp),
        "AIRFLOW_CONN_HOOK": json.dumps({"conn_type": "http", "host": f"http://{host!s}:{port}/in"}),
        "AIRFLOW__API__BASE_URL": "https://airflow.example.com/team",
    }
    worker = Worker(tmp_path_factory.mktemp("airflow"), environment)
    yield worker
    worker.close()


@pytest.fixture(autouse=True)
def nothing_sent(webhook: Webhook, mail: MailServer) -> None:
    webhook.status = 200
    webhook.taken.clear()
    mail.taken.clear()


def query(worker: Worker, sql: str) -> list[Any]:
    with closing(sqlite3.connect(Path(worker.home, "airflow.db"))) as database:
        return database.execute(sql).fetchall()


def test_a_new_version_is_an_event_that_starts_other_dags_and_the_same_again_is_none(
    worker: Worker, webhook: Webhook, mail: MailServer
) -> None:
    for version in ("one", "one", "two", "one"):
        assert worker.run("announced", f"version {version}").state == "success"
    events = [json.loads(extra) for (extra,) in query(worker, "SELECT extra FROM asset_event ORDER BY id")]
    keys = [hashlib.sha256(name.encode()).hexdigest() for name in ("one", "two", "one")]
    assert [event["key"] for event in events] == keys
    assert events[0]["headline"] == {"accuracy": 0.5}
    assert events[0]["report"] == f"/artifacts/fake/{keys[0]}/report.html"
    assert [message["text"] for message in webhook.taken] == [
        f"version: new version {key[:12]}: accuracy 0.5" for key in keys
    ]
    assert len(mail.taken) == 3

    command = [str(Path(sys.executable).with_name("airflow")), "scheduler", "--num-runs", "10"]
    subprocess.run(command, env=os.environ | worker.environment, check=True, capture_output=True)
    runs = query(worker, "SELECT run_type, state FROM dag_run WHERE dag_id = 'consumer'")
    assert ("asset_triggered", "success") in runs


def test_a_decision_is_an_event_each_time_and_makes_no_version_of_a_stage_new(worker: Worker, webhook: Webhook) -> None:
    before = len(query(worker, "SELECT id FROM asset_event"))
    assert worker.run("announced", "version three").state == "success"
    webhook.taken.clear()
    for _ in range(2):
        outcome = worker.run("asked", "decided")
        assert outcome.state == "success"
    assert outcome.xcoms["headline"]["words"] == ["promote", "{{ 7*7 }}.sh", "--reason=; rm -rf / $(id)"]
    assert [message["event"] for message in webhook.taken] == ["release", "release"]
    assert webhook.taken[0]["text"].startswith("version: action promote, words ")
    assert worker.run("announced", "version three").state == "success"
    assert len(query(worker, "SELECT id FROM asset_event")) == before + 3


def test_people_are_told_once_when_there_are_findings_and_once_when_there_are_none_any_more(
    worker: Worker, webhook: Webhook
) -> None:
    path = f"/artifacts/validate/{'0' * 64}"
    artifact = {"stage": "validate", "path": path, "key": "0" * 64, "outputs": {}, "report": f"{path}/report.html"}
    for rejected in (0, 5, 7, 0, 0):
        handed = json.dumps(artifact | {"headline": {"rejected": rejected}}, separators=(",", ":"))
        assert worker.run("found", f"hand-over {handed}").state == "success"
    assert [(message["event"], message["text"]) for message in webhook.taken] == [
        ("finding", "stage: 5 rows rejected"),
        ("finding", "stage: nothing to inspect any more (before: rejects)"),
    ]


def test_people_are_told_of_a_failure_with_its_cause_and_where_to_look(
    worker: Worker, webhook: Webhook, mail: MailServer
) -> None:
    run_id = worker.start_run("announced", "fail-saying <b>{{ 7*7 }}</b>")
    assert worker.run_try(run_id).result().state == "failed"
    cause = "fake: the data are bad, exit code 65: fake: <b>{{ 7*7 }}</b>"
    log = f"https://airflow.example.com/team/dags/announced/runs/{run_id}/tasks/stage?try_number=1"
    task = {"dag_id": "announced", "run_id": run_id, "task_id": "stage", "log": log}
    assert webhook.taken == [{"event": "failed", "text": f"stage failed: {cause}", "cause": cause, **task}]
    ((receivers, message),) = mail.taken
    assert receivers == ["one@example.com", "two@example.com"]
    assert message["Subject"] == f"[announced] stage failed: {cause}"
    assert message["From"] == "airflow@example.com"
    (part,) = (part for part in message.walk() if part.get_content_type() == "text/html")
    body = part.get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert "&lt;b&gt;{{ 7*7 }}&lt;/b&gt;" in body
    assert f'href="{log}"' in body


def test_what_is_tried_again_disturbs_nobody(worker: Worker, webhook: Webhook, mail: MailServer) -> None:
    run_id = worker.start_run("announced", "exit 75")
    assert worker.run_try(run_id).result().state == "up_for_retry"
    assert not webhook.taken + mail.taken
    assert worker.run_try(run_id).result().state == "failed"
    assert len(webhook.taken) == len(mail.taken) == 1


def test_a_message_that_cannot_be_sent_hides_neither_the_cause_nor_the_others(
    worker: Worker, webhook: Webhook, mail: MailServer
) -> None:
    webhook.status = 500
    outcome = worker.run("announced", "exit 65")
    assert outcome.state == "failed"
    assert outcome.error.splitlines()[0].endswith("exit code 65: fake: the cause: the remedy")
    assert any("500" in line for line in outcome.log)
    assert len(mail.taken) == 1
