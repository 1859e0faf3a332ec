"""The stack of docker-compose.yml under a name, with secrets, a database and volumes of the tests' own."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DAG_ID = "ml_pipeline_face_attributes"
START_S = 300  # for all services to be healthy; some 40 s on two idle cores
RUN_S = 600  # for a run of the pipeline to end


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.5) -> Any:
    """What `condition` answers as soon as it is true; it fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(pause)
    return found


class Stack:
    """A running stack.

    Usage:
        with Stack(folder, data) as stack:
            run_id = stack.trigger(epochs=1)
            assert stack.wait_for_run(run_id) == "success"

    Attributes:
        project: name of the Compose project, before the names of its containers and volumes.
        url: of Airflow, without a slash at the end.
        settings: what stands in its `.env`.
        artifacts: name of its artifacts volume.
    """

    def __init__(
        self, folder: Path, data: Path, profiles: Iterable[str] = (), files: Iterable[Path] = (), **settings: str
    ) -> None:
        """Describe a stack with `data`; `folder` gets its `.env`; `files` override docker-compose.yml."""
        self.project = f"face-attributes-test-{uuid.uuid4().hex[:8]}"
        self.artifacts = f"{self.project}-artifacts"
        self._file = folder / f"{self.project}.env"
        self._profiles = [argument for name in profiles for argument in ("--profile", name)]
        self._files = [argument for file in files for argument in ("--file", str(file))]
        port = str(free_port())
        self.url = f"http://127.0.0.1:{port}"
        own = {"AIRFLOW_PORT": port, "AIRFLOW_URL": self.url, "FACE_ATTRIBUTES_ARTIFACTS_VOLUME": self.artifacts}
        self._file.write_text("".join(f"{name}={value}\n" for name, value in (own | settings).items()))
        subprocess.run([ROOT / "scripts/compose"], check=True)
        subprocess.run(
            [sys.executable, ROOT / "scripts/stack_settings.py", "--env-file", self._file, "--data", data],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.settings = dict(line.split("=", 1) for line in self._file.read_text().splitlines() if "=" in line)

    def __enter__(self) -> "Stack":
        """Start it and wait until it is healthy."""
        try:
            self.compose("up", "--detach", "--wait", "--wait-timeout", str(START_S))
        except AssertionError:
            print(self.compose("ps", "--all"), self.compose("logs", "--tail", "40"))
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, and remove all that was its own."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "3")
        subprocess.run(["docker", "volume", "rm", "--force", self.artifacts], check=True, capture_output=True)

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Standard output of `docker compose` for this stack; with `check` it fails where the command does."""
        files = ["--file", str(ROOT / "docker-compose.yml"), *self._files]
        command = ["docker", "compose", "-p", self.project, "--env-file", str(self._file), *files, *self._profiles]
        # Compose prefers the environment to the file.
        environment = {name: value for name, value in os.environ.items() if name not in self._settings_names}
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)
        assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    @cached_property
    def _settings_names(self) -> set[str]:
        return set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))

    def container(self, service: str) -> str:
        """Id of the container of a service."""
        return self.compose("ps", "--quiet", service).strip()

    def airflow(self, *arguments: str) -> str:
        """What Airflow's command prints, asked as its users do."""
        return self.compose("exec", "-T", "airflow-scheduler", "airflow", *arguments)

    @property
    def password(self) -> str:
        """Of the user `airflow`, an administrator."""
        return self.settings["AIRFLOW_ADMIN_PASSWORD"]

    def log_in(self, user: str = "airflow", password: str = "") -> str:
        """A token of the user; an HTTPError 401 where the password is wrong."""
        answer = self._ask("/auth/token", {"username": user, "password": password or self.password}, token="")
        return str(answer["access_token"])

    @cached_property
    def _token(self) -> str:
        return self.log_in()

    def api(self, path: str, body: Any = None, method: str = "") -> Any:
        """JSON that Airflow's API (below /api/v2) answers the administrator; with a `body`, to a POST."""
        return self._ask(f"/api/v2{path}", body, self._token, method)

    def _ask(self, path: str, body: Any, token: str, method: str = "") -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        content = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, content, headers, method=method or None)  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            return json.load(response)

    def trigger(self, dag_id: str = DAG_ID, **conf: Any) -> str:
        """Trigger a run with parameters; its id."""
        body = {"dag_run_id": f"test-{uuid.uuid4().hex[:8]}", "logical_date": None, "conf": conf}
        return str(self.api(f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def run_state(self, run_id: str, dag_id: str = DAG_ID) -> str:
        """State of a run."""
        return str(self.api(f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}")["state"])

    def tasks(self, run_id: str, dag_id: str = DAG_ID) -> list[dict[str, Any]]:
        """The task instances of a run, as the API describes them."""
        path = f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances?limit=200"
        return list(self.api(path)["task_instances"])

    def wait_for_run(self, run_id: str, seconds: float = RUN_S, dag_id: str = DAG_ID) -> str:
        """The state in which a run ends."""
        wait_until(lambda: self.run_state(run_id, dag_id) in {"success", "failed"}, seconds, f"end of run {run_id}")
        return self.run_state(run_id, dag_id)
