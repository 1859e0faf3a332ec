"""The stack of docker-compose.yml under a name, with secrets, a database and volumes of the tests' own."""

import json
import os
import re
import subprocess
import sys
import urllib.parse
import uuid
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.airflow_user import ask, log_in
from tests.waiting import free_port, wait_until

ROOT = Path(__file__).parents[2]
DAG_ID = "ml_pipeline_face_attributes"
RUN_S = 1800.0  # for a run of the pipeline to end, or for a stack to start: minutes on two idle cores


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
        folder: of its `.env`.
        file: its `.env`.
        files: of Compose: docker-compose.yml, and those that override it.
    """

    def __init__(
        self, folder: Path, data: Path, profiles: Iterable[str] = (), files: Iterable[Path] = (), **settings: str
    ) -> None:
        """Describe a stack with `data`; `folder` gets its `.env`; `files` override docker-compose.yml."""
        self.project = f"face-attributes-test-{uuid.uuid4().hex[:8]}"
        self.artifacts = settings.get("FACE_ATTRIBUTES_ARTIFACTS_VOLUME", f"{self.project}-artifacts")
        self.folder = folder
        self.file = folder / f"{self.project}.env"
        self._profiles = [argument for name in profiles for argument in ("--profile", name)]
        self.files = [str(ROOT / "docker-compose.yml"), *map(str, files)]
        self._volumes_before = self._data_volumes()
        port = str(free_port())
        self.url = f"http://127.0.0.1:{port}"
        own = {"AIRFLOW_PORT": port, "AIRFLOW_URL": self.url, "FACE_ATTRIBUTES_ARTIFACTS_VOLUME": self.artifacts}
        own["SERVE_PORT"] = str(free_port())
        self.file.write_text("".join(f"{name}={value}\n" for name, value in (own | settings).items()))
        subprocess.run([ROOT / "scripts/compose"], check=True)
        subprocess.run(
            [sys.executable, ROOT / "scripts/stack_settings.py", "--env-file", self.file, "--data", data],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.settings = dict(line.split("=", 1) for line in self.file.read_text().splitlines() if "=" in line)

    def __enter__(self) -> "Stack":
        """Start it, and wait until it is healthy and knows the pipeline."""
        try:
            self.compose("up", "--detach", "--wait", "--wait-timeout", f"{RUN_S:.0f}")
            wait_until(lambda: self.api(f"/dags?dag_id_pattern={DAG_ID}")["dags"], "the DAG")
        except AssertionError:
            print(self.compose("ps", "--all"), self.compose("logs", "--tail", "40"))
            self.__exit__()
            raise
        return self

    def wait_until_it_answers(self) -> None:
        """Wait until the API server answers, and the database behind it, after they were restarted."""

        def answers() -> bool:
            try:
                return bool(self.ask("/api/v2/monitor/health")["metadatabase"]["status"] == "healthy")
            except OSError:
                return False

        wait_until(answers, "an answer of the API server")

    def __exit__(self, *_: object) -> None:
        """Stop it, and remove all that was its own."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "3")
        shown = {self.settings[f"FACE_ATTRIBUTES_{name}_VOLUME"] for name in ("DATA", "CORRECTIONS")}
        mine = [self.artifacts, *shown - self._volumes_before]
        subprocess.run(["docker", "volume", "rm", "--force", *mine], check=True, capture_output=True)

    @staticmethod
    def _data_volumes() -> set[str]:
        command = ["docker", "volume", "ls", "--quiet", "--filter", "name=face-attributes-data-"]
        return set(subprocess.check_output(command, text=True).split())

    def compose(self, *arguments: str, **environment: str) -> str:
        """Standard output of `docker compose` for this stack; it fails where the command does."""
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`docker compose` for this stack, however it ends; a later --env-file replaces that of the stack."""
        files = [argument for file in self.files for argument in ("--file", file)]
        command = ["docker", "compose", "-p", self.project, "--env-file", str(self.file), *files, *self._profiles]
        # Compose prefers the environment to the file.
        environment = {key: value for key, value in os.environ.items() if key not in self._settings_names} | environment
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)

    @cached_property
    def _settings_names(self) -> set[str]:
        return set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))

    def container(self, service: str) -> str:
        """Id of the container of a service."""
        return self.compose("ps", "--quiet", service).strip()

    def airflow(self, *arguments: str) -> str:
        """Output of the command `airflow`, called as its users do."""
        return self.compose("exec", "-T", "airflow-scheduler", "airflow", *arguments)

    @property
    def password(self) -> str:
        """Of the user `airflow`, an administrator."""
        return self.settings["AIRFLOW_ADMIN_PASSWORD"]

    def log_in(self, user: str = "airflow", password: str = "") -> str:
        """A token of the user; an HTTPError 401 where the password is wrong."""
        return log_in(self.url, user, password or self.password)

    @cached_property
    def _token(self) -> str:
        return self.log_in()

    def api(self, path: str, body: Any = None, method: str = "") -> Any:
        """JSON that Airflow's API (below /api/v2) answers the administrator; with a `body`, to a POST."""
        return self.ask(f"/api/v2{path}", body, self._token, method)

    def ask(self, path: str, body: Any = None, token: str = "", method: str = "") -> Any:
        """JSON that the API server answers to the owner of a token, None where it answers nothing."""
        return ask(self.url + path, token, body, method)

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
        wait_until(lambda: self.run_state(run_id, dag_id) in {"success", "failed"}, f"end of run {run_id}", seconds)
        return self.run_state(run_id, dag_id)

    def end_run(self, run_id: str, dag_id: str = DAG_ID) -> None:
        """Mark a run as failed, as its users do, and wait until the containers of its stages are gone."""
        self.api(f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}", {"state": "failed"}, "PATCH")
        wait_until(lambda: not self.stage_containers(run_id), f"end of the containers of {run_id}")

    def stage_containers(self, run_id: str, task_id: str = "") -> list[str]:
        """Ids of the containers of a run's stages, or of one task, running or not."""
        labels = [f"label=face-attributes.run={run_id}"] + [f"label=face-attributes.task={task_id}"] * bool(task_id)
        filters = [argument for label in labels for argument in ("--filter", label)]
        return subprocess.check_output(["docker", "ps", "--all", "--quiet", "--no-trunc", *filters], text=True).split()

    def inspect(self, *containers: str) -> list[dict[str, Any]]:
        """The engine's description of containers; those that are gone are left out."""
        done = subprocess.run(["docker", "inspect", *containers], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return list(json.loads(done.stdout or "[]"))
