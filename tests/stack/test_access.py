"""Who gets at what in the stack: routes without login, roles, passwords, secrets, ports and sockets."""

import http.client
import json
import re
import subprocess
import time
import uuid
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin, urlsplit

import pytest

from tests.pipeline import STAGES, TRAINING
from tests.stack.conftest import Run
from tests.stack.stack import DAG_ID, ROOT, Stack
from tests.waiting import PATIENCE_S, free_port, wait_until

pytestmark = pytest.mark.docker

OPEN = {  # answers without login, whole
    "/api/v2/monitor/health",
    "/api/v2/version",
    "/auth/login/",  # the form
    "/auth/token",  # asks for a password
    "/auth/token/cli",
    "/auth/api/v1/security/login",
    "/auth/health",
    "/execution/health",
    "/execution/health/ping",
}
FILES = r"/static/.*|/auth/(static/.*|appbuilder/static/.*)"  # of the login page and of Airflow's pages


def answer(address: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Message, bytes]:
    """Status, headers and body of what an API server answers."""
    with closing(http.client.HTTPConnection(address, timeout=PATIENCE_S)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def request(stack: Stack, method: str, path: str, body: bytes = b"") -> tuple[int, Message, bytes]:
    """The answer to somebody who has not logged in."""
    return answer(urlsplit(stack.url).netloc, method, path, body, {"Content-Type": "application/json"} if body else {})


@pytest.fixture(scope="module")
def routes(stack: Stack) -> list[tuple[str, str]]:
    """Method and path of every route, and of some that are none; those of things name things that are there."""
    program = (Path(__file__).parent / "list_routes.py").read_text(encoding="utf-8")
    printed = stack.compose("exec", "-T", "airflow-apiserver", "python", "-W", "ignore", "-c", program)
    found = {
        (method, path) for method, path in json.loads(printed.splitlines()[-1]) if method not in {"HEAD", "OPTIONS"}
    }
    assert len(found) > 200
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
        found |= {("GET", f"{prefix}{path}") for prefix in ("", "/auth", "/execution", "/reports", "/ui")}
    return sorted(found)


def test_who_is_not_logged_in_gets_nothing(stack: Stack, first: Run, routes: list[tuple[str, str]]) -> None:
    real = {
        "dag_id": DAG_ID,
        "dag_run_id": first.run_id,
        "run_id": first.run_id,
        "task_id": "train",
        "pool_name": "gpu",
    }
    _, _, shell = request(stack, "GET", "/")  # the page that loads Airflow's scripts, the same at every address
    assert b"<script" in shell
    assert len(shell) < 3000
    told = []
    for method, path in routes:
        address = re.sub(r"[{<](?:\w+:)?(\w+)(?::\w+)?[}>]", lambda name: real.get(name[1], "1"), path)
        status, headers, body = request(stack, method, address, b"{}" if method in {"POST", "PUT", "PATCH"} else b"")
        refused = status in {401, 403, 404, 405} or (status == 400 and b"CSRF token" in body)
        sent_away = status in {302, 307} and (not body or b"Redirecting..." in body)
        if not (refused or sent_away or body == shell or address in OPEN or re.fullmatch(FILES, address)):
            told.append((method, address, status, headers.get("location", ""), body[:200]))
    assert told == []


def test_what_is_open_says_little(stack: Stack, first: Run) -> None:
    health = json.loads(request(stack, "GET", "/api/v2/monitor/health")[2])
    assert all(
        set(part) <= {"status"} | {name for name in part if name.startswith("latest_")} for part in health.values()
    )
    assert set(json.loads(request(stack, "GET", "/api/v2/version")[2])) == {"version", "git_version"}


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/execution/docs", "/execution/openapi.json"])
def test_the_descriptions_of_the_apis_are_switched_off(stack: Stack, path: str) -> None:
    assert request(stack, "GET", path)[0] == 404
    assert request(stack, "GET", f"/auth{path}")[0] == 404


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "is empty"),
        ("short7", "has 6 characters"),
        ("airflowairflow", "is well known"),
        ("airflow-12345", "is well known"),
        ("Password!2026", "is well known"),
        ("face-attributes", "is well known"),
        ("aaaaaaaaaaaaaaa", "is well known"),
        ("1234567890123", "is well known"),
        ("abc123456789", "is well known"),
    ],
)
def test_a_password_that_anybody_would_try_is_refused(password: str, reason: str) -> None:
    command = ["docker", "run", "--rm", "--entrypoint", "check-password", "--env", "AIRFLOW_ADMIN_USER=airflow"]
    command += ["--env", f"AIRFLOW_ADMIN_PASSWORD={password}", "face-attributes/airflow"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert reason in done.stderr
    assert done.stdout + done.stderr == done.stderr.splitlines()[0] + "\n"


def test_the_stack_does_not_start_with_a_known_password(stack: Stack) -> None:
    file = stack.folder / "known.env"
    file.write_text("AIRFLOW_ADMIN_PASSWORD=airflow\n")  # all else as in the stack's own
    done = stack.run("--env-file", str(file), "run", "-T", "--rm", "--no-deps", "airflow-init")
    assert done.returncode == 64
    assert "\nAIRFLOW_ADMIN_PASSWORD has 7 characters: set one of 12" in f"\n{done.stdout}{done.stderr}"


def test_behind_a_proxy_with_tls_who_logs_in_stays_on_https(stack: Stack) -> None:
    file = stack.folder / "https.env"
    file.write_text("AIRFLOW_URL=https://airflow.example.com\n")  # all else as in the stack's own
    address = f"127.0.0.1:{free_port()}"
    options = ["-T", "--detach", "--no-deps", "--publish", f"{address}:8080"]
    container = stack.compose("--env-file", str(file), "run", *options, "airflow-apiserver").strip()

    def passed_on(method: str, body: bytes = b"", **headers: str) -> tuple[int, Message, bytes]:
        """Answer to a proxy that sends the headers which docs/operate.md sets for nginx."""
        headers |= {"Host": "airflow.example.com", "X-Forwarded-Proto": "https"}
        return answer(address, method, "/auth/login/?next=%2F", body, headers)

    def form() -> tuple[int, Message, bytes] | None:
        try:
            return passed_on("GET")
        except OSError:  # it is starting
            return None

    try:
        _, headers, page = wait_until(form, "the form of the login")
        token = re.findall(r'name="csrf_token"[^>]* value="([^"]+)"', page.decode())[0]
        fields = {"username": "airflow", "password": stack.password, "csrf_token": token}
        status, headers, _ = passed_on(
            "POST", urlencode(fields).encode(), Cookie=headers["Set-Cookie"].partition(";")[0],
            Referer="https://airflow.example.com/auth/login/", **{"Content-Type": "application/x-www-form-urlencoded"},
        )  # fmt: skip
        assert status == 302
        assert urljoin("https://airflow.example.com/auth/login/", headers["Location"]) == "https://airflow.example.com/"
        cookies = {cookie.partition("=")[0]: cookie for cookie in headers.get_all("Set-Cookie") or []}
        assert cookies.keys() == {"_token", "session"}
        assert all("; Secure" in cookie for cookie in cookies.values())
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)


def test_compose_without_settings_says_what_to_do(tmp_path: Path) -> None:
    command = ["docker", "compose", "--file", f"{ROOT}/docker-compose.yml", "--env-file", "/dev/null", "up", "--detach"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "is missing in .env; make up writes it" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def add_user(stack: Stack, role: str) -> str:
    """A token of a new user with one role."""
    name, password = f"test-{role.lower()}-{uuid.uuid4().hex[:6]}", uuid.uuid4().hex
    user = {
        "username": name,
        "password": password,
        "first_name": "Test",
        "last_name": role,
        "email": f"{name}@x.invalid",
    }
    stack.ask("/auth/fab/v1/users", user | {"roles": [{"name": role}]}, stack.log_in())
    return stack.log_in(name, password)


def status_of(stack: Stack, path: str, token: str, body: Any = None) -> int:
    """Status of the answer to the owner of a token."""
    try:
        stack.ask(path, body, token)
    except HTTPError as error:
        return error.code
    except json.JSONDecodeError:
        pass  # a page
    return 200


def test_who_may_only_look_cannot_trigger(stack: Stack, first: Run) -> None:
    token = add_user(stack, "Viewer")
    runs = f"/api/v2/dags/{DAG_ID}/dagRuns"
    assert status_of(stack, runs, token) == 200
    assert status_of(stack, f"/reports/dag-run/{DAG_ID}/{first.run_id}", token) == 200
    assert status_of(stack, "/try/versions", token) == 200  # by the service, which asks for a token of its own
    assert status_of(stack, runs, token, {"logical_date": None}) == 403
    assert status_of(stack, "/auth/fab/v1/users", token) == 403
    assert status_of(stack, "/api/v2/config", token) == 403


def test_corrections_of_labels_go_into_one_folder_of_the_data_and_the_api_server_writes_nowhere_else(
    stack: Stack, first: Run
) -> None:
    body = {"corrections": [{"filename": "s1_0.png", "column": "hat", "class": "cap"}]}
    assert status_of(stack, "/reports/corrections", add_user(stack, "Viewer"), body) == 403
    told = stack.ask("/reports/corrections", body, add_user(stack, "User"))
    saved = Path(stack.settings["DATA"]) / "corrections" / told["file"]
    text = saved.read_text(encoding="utf-8")
    saved.unlink()  # before the watcher starts a validation
    assert re.fullmatch(r"filename,hat,corrected_by,corrected_at\ns1_0.png,cap,test-user-\w+,20.*Z\n", text)
    mounts = services(stack)["airflow-apiserver"]["Mounts"]
    assert {mount["Destination"] for mount in mounts if mount["RW"]} == {"/opt/airflow/logs", "/corrections"}


def test_a_version_that_the_gate_refused_is_released_by_whom_may_decide_and_by_name(stack: Stack, first: Run) -> None:
    """The first run has trained for one epoch, so that its version is not fit."""
    viewer, user = add_user(stack, "Viewer"), add_user(stack, "User")

    def asked() -> str:
        """The run that waits, without a slot of a worker."""
        found = stack.api("/dags/approve_version/dagRuns/~/taskInstances?task_id=approval&state=awaiting_input")
        return str(found["task_instances"][0]["dag_run_id"]) if found["task_instances"] else ""

    run_id = wait_until(asked, "the question")
    question = f"/api/v2/dags/approve_version/dagRuns/{run_id}/taskInstances/approval/-1/hitlDetails"
    told = stack.ask(question, token=viewer)
    assert told["subject"] == "Release v1 although the gate refused it?"
    assert "is below monitor.min_accuracy" in told["body"]
    assert "| mean accuracy | 0." in told["body"]
    assert "](/plugin/reports/reports/run/" in told["body"]
    answer = {"chosen_options": ["Approve"], "params_input": {"reason": "good enough for a test"}}

    def respond(token: str) -> Any:
        return stack.ask(question, answer, token, "PATCH")

    with pytest.raises(HTTPError, match="403"):
        respond(viewer)
    time.sleep(3)  # nobody answers faster; within half a second Airflow 3.3.2 takes the wait for a lost task, asks anew
    name = respond(user)["responded_by"]["name"]
    assert name.startswith("test-user-")
    assert stack.wait_for_run(run_id, dag_id="approve_version") == "success"
    assert f"promote  v1    {name}: good enough for a test" in versions(stack)


def versions(stack: Stack) -> str:
    """Output of `archive versions`."""
    volume = f"{stack.artifacts}:/artifacts"
    command = ["docker", "run", "--rm", "--network=none", "--volume", volume, "face-attributes/archive", "versions"]
    return subprocess.check_output(command, text=True)


def test_only_who_may_trigger_decides_in_the_form_and_nonsense_is_refused(stack: Stack, first: Run) -> None:
    viewer, user = add_user(stack, "Viewer"), add_user(stack, "User")
    runs = "/api/v2/dags/release_version/dagRuns"

    def decide(**conf: str) -> dict[str, Any]:
        return {"logical_date": None, "conf": conf}

    good = decide(action="promote", version="v1", reason="a test")
    assert status_of(stack, runs, viewer, good) == 403
    assert status_of(stack, runs, user, decide(action="promote", version="v1")) in {400, 422}
    run_id = stack.ask(runs, decide(action="promote", reason="a test"), user)["dag_run_id"]
    assert stack.wait_for_run(run_id, dag_id="release_version") == "failed"
    assert not stack.stage_containers(run_id)
    log = stack.api(f"/dags/release_version/dagRuns/{run_id}/taskInstances/release/logs/1?full_content=true")
    assert "promote needs a version, for example v3" in json.dumps(log)


def test_who_has_no_role_sees_nothing(stack: Stack, first: Run) -> None:
    token = add_user(stack, "Public")
    for path in (
        "/reports/",
        f"/reports/dag-run/{DAG_ID}/{first.run_id}",
        f"/api/v2/dags/{DAG_ID}/dagRuns",
        "/api/v2/pools",
    ):
        assert status_of(stack, path, token) == 403, path


def secrets_of(stack: Stack) -> dict[str, str]:
    return {name: value for name, value in stack.settings.items() if re.search("PASSWORD|SECRET|KEY|TOKEN", name)}


def test_secrets_are_in_no_log_no_xcom_and_no_report(stack: Stack, first: Run) -> None:
    secrets = secrets_of(stack)
    assert len(secrets) == 7
    logs = stack.compose("logs", "--no-color")
    assert "airflow-scheduler" in logs
    dump = stack.compose("exec", "-T", "postgres", "pg_dump", "--username", "airflow", "airflow")
    assert "mean_accuracy" in dump  # XComs are in it
    for name, value in secrets.items():
        assert value not in logs, name
        assert value not in dump, name

    def files_with(*texts: str) -> str:
        patterns = [argument for text in texts for argument in ("-e", text)]
        command = ["grep", "-rlF", *patterns, "/opt/airflow/logs", "/artifacts"]
        return stack.run("exec", "-T", "airflow-apiserver", *command).stdout

    assert {"/opt/airflow/logs", "/artifacts"} == set(
        re.findall("^/opt/airflow/logs|^/artifacts", files_with("face"), re.M)
    )
    assert files_with(*secrets.values()) == ""


def test_secrets_are_in_no_image(stack: Stack) -> None:
    names = [f"face-attributes/{name}" for name in ("airflow", "engine_proxy", "serve", *STAGES)]
    names += [stack.settings["POSTGRES_IMAGE"], stack.settings["REDIS_IMAGE"]]
    told = subprocess.check_output(["docker", "image", "inspect", *names], text=True)
    for name in names:
        told += subprocess.check_output(["docker", "history", "--no-trunc", name], text=True)
    for name, value in secrets_of(stack).items():
        assert value not in told, name


def test_two_ports_are_published_and_only_on_this_machine(stack: Stack) -> None:
    published = [
        (service, binding["HostIp"], binding["HostPort"])
        for service, container in services(stack).items()
        for bindings in container["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    ]
    ports = {"airflow-apiserver": "AIRFLOW_PORT", "serve": "SERVE_PORT"}
    assert sorted(published) == [(name, "127.0.0.1", stack.settings[setting]) for name, setting in ports.items()]
    described = json.loads(stack.compose("--profile", "*", "config", "--format", "json"))["services"]
    assert {"redis", "airflow-worker"} <= described.keys()
    reached = {
        name: {port["host_ip"] for port in service["ports"]}
        for name, service in described.items()
        if service.get("ports")
    }
    assert reached == {name: {"127.0.0.1"} for name in (*ports, "prometheus")}  # which only profile metrics starts


def services(stack: Stack) -> dict[str, dict[str, Any]]:
    """Service -> what the engine says about its container."""
    containers = stack.inspect(*stack.compose("ps", "--all", "--quiet").split())
    return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in containers}


def test_the_engine_is_reached_through_its_proxy_and_by_who_runs_tasks(stack: Stack) -> None:
    def with_mount(source: str) -> set[str]:
        mounts = {name: container["Mounts"] for name, container in services(stack).items()}
        return {
            name for name, those in mounts.items() for mount in those if source in {mount["Source"], mount.get("Name")}
        }

    assert with_mount(stack.settings["ENGINE_SOCKET"]) == {"engine-proxy"}
    assert with_mount(f"{stack.project}_engine") == {"engine-proxy", "airflow-scheduler"}
    for service, container in services(stack).items():
        assert not container["HostConfig"]["Privileged"], service
        assert container["HostConfig"]["CapDrop"] == ["ALL"], service
        assert all(".sock" not in mount["Source"] for mount in container["Mounts"] if service != "engine-proxy"), (
            service
        )


def test_stages_have_neither_socket_nor_network_nor_secrets(stack: Stack, first: Run) -> None:
    assert {container["Config"]["Labels"]["face-attributes.task"] for container in first.containers.values()} >= set(
        TRAINING
    )
    for task, container in first.containers.items():
        mounts = {mount["Destination"]: mount for mount in container["Mounts"]}
        assert mounts.keys() == {"/data", "/artifacts", "/result"}, task
        assert {mount["Type"] for mount in mounts.values()} == {"volume"}, task
        assert not mounts["/data"]["RW"], task
        assert container["HostConfig"]["NetworkMode"] == "none", task
        for name, value in secrets_of(stack).items():
            assert value not in json.dumps(container), (task, name)
