"""The API server with our plugins, as the stack starts it: guessed passwords, and what its answers tell browsers."""

import http.client
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest

from tests.stack.stack import free_port, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PASSWORD = uuid.uuid4().hex
START_S = 180


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Server:
    """A running API server; users come from addresses of this machine, of which 127.0.0.0/8 has many."""

    port: int

    def ask(self, method: str, path: str, body: bytes = b"", address: str = "127.0.0.1", **headers: str) -> Answer:
        """Its answer to somebody at an address."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, 60, source_address=(address, 0))) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def by_api(self, path: str, user: str, password: str, address: str) -> Answer:
        """The answer to a log-in with JSON."""
        told = {"username": user, "password": password, "provider": "db"}
        return self.ask("POST", path, json.dumps(told).encode(), address, **{"Content-Type": "application/json"})

    def by_form(self, user: str, password: str, address: str) -> Answer:
        """The answer to a log-in with the form."""
        page = self.ask("GET", "/auth/login/", address=address)
        token = re.findall(r'name="csrf_token"[^>]* value="([^"]+)"', page.body.decode())[0]
        fields = urlencode({"username": user, "password": password, "csrf_token": token}).encode()
        headers = {"Cookie": str(page.headers["Set-Cookie"]).partition(";")[0]}
        headers |= {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", "/auth/login/", fields, address, **headers)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On SQLite, with two users."""
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "images/airflow/plugins"),
        "AIRFLOW__API_AUTH__JWT_SECRET": uuid.uuid4().hex * 2,
        "AIRFLOW__FAB__AUTH_RATE_LIMITED": "False",  # as in docker-compose.yml
        "PYTHONPATH": str(ROOT / "dags"),
    }
    airflow = [sys.executable, "-W", "ignore", "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=environment, check=True, capture_output=True)
    for name in ("owner", "other"):
        command = [*airflow, "users", "create", "--username", name, "--password", PASSWORD, "--role", "Admin"]
        command += ["--firstname", name, "--lastname", name, "--email", f"{name}@x.invalid"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    port = free_port()
    command = [*airflow, "api-server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        found = Server(port)

        def answers() -> bool:
            try:
                return found.ask("GET", "/api/v2/version").status == 200
            except OSError:
                return False

        wait_until(answers, START_S, "start of the API server")
        yield found
        process.terminate()


def test_guessing_is_slowed_on_every_way_and_shuts_out_nobody_elsewhere(server: Server) -> None:
    thief, owner = "127.0.0.66", "127.0.0.7"
    for path in ("/auth/token", "/auth/token/cli", "/auth/api/v1/security/login"):
        assert server.by_api(path, "owner", "wrong", thief).status == 401
    assert server.by_form("owner", "wrong", thief).status == 302
    assert server.by_api("/auth/token", "Owner", "wrong", thief).status == 401  # the fifth
    ways = [server.by_api(path, "owner", PASSWORD, thief) for path in ("/auth/token", "/auth/token/cli")]
    ways += [server.by_api("/auth/api/v1/security/login", "owner", PASSWORD, thief)]
    ways += [server.by_form("owner", PASSWORD, thief)]
    assert [way.status for way in ways] == [429] * 4
    assert all(1 <= int(way.headers["Retry-After"]) <= 2 for way in ways)
    assert b"Too many wrong passwords: try again in" in ways[0].body

    assert server.by_api("/auth/token", "owner", PASSWORD, owner).status == 201
    cookies = server.by_form("owner", PASSWORD, owner).headers.get_all("Set-Cookie") or []
    assert any(cookie.startswith("_token=") for cookie in cookies)
    assert server.by_api("/auth/token", "other", PASSWORD, thief).status == 201  # who shares the address


def test_a_thousand_names_from_one_address_are_slowed_too(server: Server) -> None:
    answers = [server.by_api("/auth/token", f"user{number}", "wrong", "127.0.0.99").status for number in range(60)]
    assert answers[:50] == [401] * 50
    assert 429 in answers[50:]


def test_who_knows_the_password_is_not_counted(server: Server) -> None:
    for _ in range(3):
        for _ in range(4):
            assert server.by_api("/auth/token", "owner", "wrong", "127.0.0.5").status == 401
        assert server.by_api("/auth/token", "owner", PASSWORD, "127.0.0.5").status == 201


def test_what_is_no_login_is_refused_at_once(server: Server) -> None:
    for body in (b"", b"[]", b"{", b'{"username": []}', b"[" * 60_000):
        assert server.ask("POST", "/auth/token", body, "127.0.0.4").status in {400, 401, 422}
    assert server.ask("POST", "/auth/token", b" " * 10**6, "127.0.0.4").status == 413


@pytest.mark.parametrize(
    "path", ["/", "/dags", "/auth/login/", "/api/v2/version", "/api/v2/dags", "/docs", "/absent", "/reports/"]
)
def test_every_answer_tells_browsers_what_is_forbidden(server: Server, path: str) -> None:
    headers = server.ask("GET", path).headers
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy
    assert policy.startswith("default-src 'none'" if path == "/reports/" else "default-src 'self'")
    assert len(headers.get_all("Content-Security-Policy") or []) == 1
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
