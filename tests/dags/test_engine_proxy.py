"""The proxy in front of the engine's socket, in its container, on the real engine, asked by Airflow and intruders."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound

from images.engine_proxy.policy import LABELS
from tests.dags.test_stage_operator import EngineLine, containers, is_working
from tests.dags.worker import ARTIFACT, IMAGE, VOLUMES, Worker
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[2]
ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
NAME = "face-attributes/engine_proxy"
AS_IN_COMPOSE = {
    "user": "0:50000",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "network_mode": "none",
    "mem_limit": "64m",  # a proxy that kept what it passes on would be killed
    "memswap_limit": "64m",
    "environment": dict(zip(("FACE_ATTRIBUTES_DATA_VOLUME", "FACE_ATTRIBUTES_ARTIFACTS_VOLUME"), VOLUMES, strict=True)),
    "detach": True,
}


def mounted(source: str | Path, target: str, mode: str = "rw") -> dict[str, dict[str, str]]:
    return {str(source): {"bind": target, "mode": mode}}


def socket_in(volume: Any, folder: Path) -> str:
    """The proxy's socket in a volume, by a short way through `folder`: an address of more than 107 bytes is none."""
    way = folder / "way"
    way.symlink_to(volume.attrs["Mountpoint"])
    return f"{way}/docker.sock"


@pytest.fixture(scope="module")
def sockets(engine: Any) -> Iterator[Any]:
    """The volume that holds the proxy's socket."""
    subprocess.run([ROOT / "scripts/images", "engine_proxy"], check=True)
    volume = engine.volumes.create()
    yield volume
    volume.remove()


@pytest.fixture(scope="module")
def path(engine: Any, sockets: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of a running proxy."""
    volumes = mounted(ENGINE, "/var/run/docker.sock") | mounted(sockets.name, "/run/engine")
    container = engine.containers.run(NAME, **AS_IN_COMPOSE, volumes=volumes)
    try:
        wait_until(lambda: answers(container), container.logs)
        before = open_files(container)
        yield socket_in(sockets, tmp_path_factory.mktemp("proxy"))
        wait_until(
            lambda: open_files(container) <= before, "the end of what is open"
        )  # nothing of what the tests broke off stays open
        container.reload()
        assert container.status == "running"
        assert "defect" not in container.logs().decode()
    finally:
        container.remove(force=True)


def answers(container: Any) -> bool:
    """Whether the proxy in a container does."""
    return bool(container.exec_run(["python", "-m", "engine_proxy.check"]).exit_code == 0)


def open_files(container: Any) -> int:
    """How many files and sockets the proxy has open."""
    return len(container.exec_run(["ls", "/proc/1/fd"]).output.split())


@pytest.fixture
def client(path: str) -> Iterator[Any]:
    """A client of the docker SDK that knows only the proxy."""
    client = docker.DockerClient(base_url=f"unix://{path}")
    yield client
    client.close()


@pytest.fixture
def run(make: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a container and starts it."""

    def call(command: str, **options: Any) -> Any:
        container = make(command, **options)
        container.start()
        return container

    return call


@pytest.fixture
def make(engine: Any) -> Iterator[Callable[..., Any]]:
    """Makes a container, by default with a stage's labels, for a shell command, without asking the proxy."""
    made = []

    def call(command: str, **options: Any) -> Any:
        settings = {"labels": dict.fromkeys(LABELS, uuid.uuid4().hex), "init": True} | options
        made.append(engine.containers.create(IMAGE, entrypoint=["sh", "-c", command], **settings))
        return made[-1]

    yield call
    for container in made:
        container.remove(force=True, v=True)


def ask(path: str, request: bytes, *, until: bytes = b"") -> bytes:
    """Send bytes, and read until the end of the connection or until something has come."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(path)
        connection.sendall(request)
        answer = b""
        while (data := connection.recv(65536)) and not (until and until in answer + data):
            answer += data
        return answer + data


def test_the_operator_runs_a_stage_through_it(airflow: Worker, engine: Any, path: str) -> None:
    def outcome(behaviour: str) -> Any:
        return airflow.run_try(airflow.start_run("proxied", behaviour), {"FAKE_ENGINE": path}).result()

    done = outcome("noise")
    assert done.state == "success"
    assert done.xcoms["path"] == ARTIFACT
    failed = outcome("exit 65")
    assert failed.state == "failed"
    assert "exit code 65: fake: the cause: the remedy" in failed.error
    assert not containers(engine)


def test_a_cancelled_run_ends_its_container_through_it(airflow: Worker, engine: Any, path: str) -> None:
    run_id = airflow.start_run("proxied", "ignore-sigterm")
    running = airflow.run_try(run_id, {"FAKE_ENGINE": path})
    wait_until(lambda: is_working(engine, run_id), "work in the container")
    airflow.cancel(run_id)
    wait_until(lambda: not containers(engine, run_id), "the end of the container")
    assert running.result().state == "failed"


CONFINED: dict[str, Any] = {"image": IMAGE, "user": "10001:10001"}


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda it: it.containers.run(**CONFINED, privileged=True), "HostConfig.Privileged true"),
        (lambda it: it.containers.run(**CONFINED, volumes=["/:/host"]), 'HostConfig.Binds ["/:/host"]'),
        (lambda it: it.containers.run(**CONFINED, network_mode="host"), 'HostConfig.NetworkMode "host"'),
        (lambda it: it.containers.run(**CONFINED, pid_mode="host"), 'HostConfig.PidMode "host"'),
        (lambda it: it.containers.run(**CONFINED, ipc_mode="host"), 'HostConfig.IpcMode "host"'),
        (lambda it: it.containers.run(**CONFINED, cap_add=["SYS_ADMIN"]), "HostConfig.CapAdd"),
        (lambda it: it.containers.run(**CONFINED, devices=["/dev/kmsg"]), "HostConfig.Devices"),
        (lambda it: it.containers.run(image=IMAGE, user="0"), 'User "0"'),
        (lambda it: it.containers.run(image=NAME), f'Image "{NAME}"'),
        (lambda it: it.volumes.create("x", driver_opts={"type": "none", "o": "bind", "device": "/"}), "DriverOpts"),
        (lambda it: it.images.build(fileobj=BytesIO(b"FROM scratch")), "POST /v1.41/build"),
        (lambda it: it.images.pull("debian:bookworm"), "POST /v1.41/images/create"),
        (lambda it: it.images.remove(IMAGE), "DELETE /v1.41/images"),
        (lambda it: it.containers.list(), "a call without filters"),
        (lambda it: it.networks.create("x"), "POST /v1.41/networks/create"),
        (lambda it: it.volumes.list(), "a call without filters"),
        (lambda it: it.secrets.list(), "GET /v1.41/secrets"),
    ],
)
def test_what_no_stage_needs_is_refused_in_one_line(client: Any, call: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(APIError) as caught:
        call(client)
    assert caught.value.status_code == 403
    line = str(caught.value.explanation)
    assert line.startswith("engine proxy: ")
    assert named in line
    assert " is not allowed: " in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "call",
    [
        lambda it, name: it.inspect_container(name),
        lambda it, name: it.logs(name),
        lambda it, name: it.get_archive(name, "/result/result.json"),
        lambda it, name: it.stop(name),
        lambda it, name: it.kill(name),
        lambda it, name: it.start(name),
        lambda it, name: it.wait(name),
        lambda it, name: it.attach(name),
        lambda it, name: it.remove_container(name, force=True),
    ],
)
def test_containers_of_others_are_out_of_reach(client: Any, run: Any, call: Callable[[Any, str], Any]) -> None:
    # A label that it shares with stages' containers does not make it one.
    other = run("sleep 3600", labels={"face-attributes.inputs": "x", "face-attributes.dag": "x"})
    for name in (other.id, other.id[:12], other.name):
        with pytest.raises(APIError, match="it is not a stage's"):
            call(client.api, name)
    other.reload()
    assert other.status == "running"


def test_not_even_a_stage_can_be_entered_or_changed(client: Any, run: Any) -> None:
    stage = run("sleep 3600")
    for call in (
        lambda: client.api.exec_create(stage.id, "id"),
        lambda: client.api.put_archive(stage.id, "/tmp", b""),
        lambda: client.api.get_archive(stage.id, "/etc/shadow"),
        lambda: client.api.rename(stage.id, "x"),
        lambda: client.api.update_container(stage.id, mem_limit="1g"),
        lambda: client.api.commit(stage.id),
    ):
        with pytest.raises(APIError, match=r"engine proxy: .* is not allowed: "):
            call()  # type: ignore[no-untyped-call]


def test_a_missing_container_is_the_engines_own_answer(client: Any) -> None:
    with pytest.raises(NotFound, match="No such container: never-made"):
        client.api.inspect_container("never-made")


def test_an_engine_that_refuses_a_stream_is_heard_and_the_connection_ends(path: str, run: Any) -> None:
    stage = run("sleep 3600")
    stage.pause()
    head, _, body = ask(path, attach(stage.id)).partition(b"\r\n\r\n")
    stage.unpause()
    assert head.startswith(b"HTTP/1.1 409 ")
    assert b"paused" in body


@pytest.mark.parametrize(
    ("request_", "status", "why"),
    [
        (
            b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            403,
            "chunks",
        ),
        (
            b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
            403,
            "chunks",
        ),
        (
            b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            400,
            "read this as HTTP",
        ),
        (b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n" + b" " * 2**21, 413, "larger"),
        (b"GET /info HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2**17 + b"\r\n\r\n", 431, "read this as HTTP"),
        (b"GET /info\r\n\r\n", 400, "read this as HTTP"),
        (b"GET //containers/json HTTP/1.1\r\nHost: x\r\n\r\n", 403, "no stage needs it"),
        (b"GET /containers%2fjson HTTP/1.1\r\nHost: x\r\n\r\n", 403, "no stage needs it"),
        (b"CONNECT docker:80 HTTP/1.1\r\nHost: x\r\n\r\n", 403, "no stage needs it"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403, "no stage needs it"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(path: str, request_: bytes, status: int, why: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(path)
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    message = json.loads(body)["message"]
    assert message.startswith("engine proxy: ")
    assert why in message


def test_a_connection_carries_one_request(path: str, run: Any) -> None:
    stage = run("sleep 3600")
    ping = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = ask(path, ping + f"POST /v1.41/containers/{stage.id}/kill HTTP/1.1\r\nHost: x\r\n\r\n".encode() + ping)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n\r\nOK")
    stage.reload()
    assert stage.status == "running"


def attach(container: str, query: str = "stdout=1&stream=1") -> bytes:
    return (
        f"POST /v1.41/containers/{container}/attach?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    ).encode()


def test_what_follows_a_request_never_reaches_the_engine(path: str, run: Any) -> None:
    stage = run("while read line; do echo heard $line; done; sleep 3600", stdin_open=True)
    smuggled = b"aloud\nGET /v1.41/info HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(attach(stage.id, "stdin=1&stdout=1&stream=1") + smuggled)
        assert b" 101 " in connection.recv(65536)
        connection.sendall(smuggled)
        stage.kill()
        assert b"".join(iter(lambda: connection.recv(65536), b"")) == b""
    assert stage.logs() == b""


def test_a_stream_is_passed_on_as_it_comes_until_the_container_is_killed(client: Any, path: str, run: Any) -> None:
    stage = run("while :; do echo tick; sleep 0.1; done")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(path)
        connection.sendall(attach(stage.id))
        read = b""
        while b"tick" not in read:
            read += connection.recv(65536)
        client.api.kill(stage.id)
        while connection.recv(65536):
            pass
    assert client.api.wait(stage.id)["StatusCode"] == 137


def test_a_client_that_goes_ends_the_engines_connection(path: str, run: Any) -> None:
    stage = run("while :; do echo tick; sleep 0.1; done")
    for request in (
        attach(stage.id),
        f"GET /containers/{stage.id}/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    ):
        assert b"tick" in ask(path, request, until=b"tick")
    assert b" 200 " in ask(
        path, f"POST /containers/{stage.id}/wait HTTP/1.1\r\nHost: x\r\n\r\n".encode(), until=b"\r\n\r\n"
    )
    # The fixture `path` sees that nothing stays open.


def test_a_slow_reader_holds_the_writer_back_and_loses_nothing(path: str, make: Any) -> None:
    size = 200 * 10**6  # bytes, three times the proxy's memory
    stage = make(f"head -c {size} /dev/zero", log_config={"type": "none"})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(path)
        connection.sendall(attach(stage.id))
        assert b" 101 " in connection.recv(65536)
        stage.start()
        time.sleep(1)  # in which nothing is taken
        taken = sum(map(len, iter(lambda: connection.recv(2**20), b"")))
    assert taken >= size


def test_only_airflows_group_may_use_the_socket_and_nobody_there_replace_it(
    engine: Any, sockets: Any, path: str
) -> None:
    code = (
        "import contextlib, os, socket\n"
        "with contextlib.suppress(OSError): os.rename('/run/engine/docker.sock', '/run/engine/other')\n"
        "with contextlib.suppress(OSError): os.unlink('/run/engine/docker.sock')\n"
        "connection = socket.socket(socket.AF_UNIX)\n"
        "connection.connect('/run/engine/docker.sock')\n"
        "connection.sendall(b'GET /_ping HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "print(connection.recv(15))\n"
    )

    def use(user: str) -> Any:
        container = engine.containers.run(
            IMAGE,
            entrypoint=["python3", "-c", code],
            user=user,
            volumes=mounted(sockets.name, "/run/engine"),
            detach=True,
        )
        try:
            return container.wait()["StatusCode"], container.logs().decode().splitlines()[-1]
        finally:
            container.remove()

    assert use("50000:50000") == (0, "b'HTTP/1.1 200 OK'")
    assert use("10001:10001") == (1, "PermissionError: [Errno 13] Permission denied")
    assert use("50000:50000") == (0, "b'HTTP/1.1 200 OK'")


def ended(container: Any) -> tuple[int, list[str]]:
    """Exit code and log, without the time of day, of a container that ends by itself; it is removed."""
    try:
        code = container.wait(timeout=PATIENCE_S)["StatusCode"]
        return code, [re.sub(r"^[\d:]{8} ", "", line) for line in container.logs().decode().splitlines()]
    finally:
        container.remove(force=True, v=True)


def test_wrong_settings_are_one_line(engine: Any, sockets: Any) -> None:
    assert ended(engine.containers.run(NAME, **AS_IN_COMPOSE)) == (
        69,
        [
            "ERROR no engine answers at /var/run/docker.sock: No such file or directory: "
            "start it, or mount its socket there, for a user who may write to it"
        ],
    )
    volumes = mounted(ENGINE, "/var/run/docker.sock") | mounted(sockets.name, "/run/engine", "ro")
    code, lines = ended(engine.containers.run(NAME, **AS_IN_COMPOSE, volumes=volumes))
    assert code == 69
    assert lines == [
        "ERROR /run/engine/docker.sock cannot be made: Read-only file system: let uid 0 write to its folder"
    ]


def test_an_engine_that_has_gone_is_said_and_ends_the_proxy_so_that_it_finds_the_new_socket(
    engine: Any, tmp_path: Path
) -> None:
    line = EngineLine(tmp_path / "engine.sock")
    volume = engine.volumes.create()
    volumes = mounted(tmp_path / "engine.sock", "/var/run/docker.sock") | mounted(volume.name, "/run/engine")
    container = engine.containers.run(NAME, **AS_IN_COMPOSE, volumes=volumes)
    try:
        wait_until(lambda: answers(container), container.logs)
        line.cut()
        answer = ask(socket_in(volume, tmp_path), b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 502 Bad Gateway")
        assert b"no engine answers at /var/run/docker.sock: Connection refused" in answer
    finally:
        code, lines = ended(container)
        volume.remove()
    assert code == 69
    assert lines[-1].startswith("ERROR no engine answers at /var/run/docker.sock: Connection refused: start it")


def test_bodies_that_never_end_leave_it_memory_and_others_a_turn(engine: Any, tmp_path: Path) -> None:
    volume = engine.volumes.create()
    volumes = mounted(ENGINE, "/var/run/docker.sock") | mounted(volume.name, "/run/engine")
    limits = {"mem_limit": "256m", "memswap_limit": "256m"}  # as in Compose
    container = engine.containers.run(NAME, **AS_IN_COMPOSE | limits, volumes=volumes)
    open_ones: list[socket.socket] = []
    try:
        wait_until(lambda: answers(container), container.logs)
        path = socket_in(volume, tmp_path)
        for _ in range(200):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(0.2)
            open_ones.append(connection)
            with contextlib.suppress(TimeoutError, BlockingIOError):  # it is not its turn
                connection.connect(path)
                connection.sendall(b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n{")
                connection.sendall(b" " * 499_000)
        (used,) = (container.stats(stream=False)["memory_stats"]["usage"],)
        assert used < 200 * 10**6
        assert b"200 OK" in ask(path, b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        container.reload()
        assert container.status == "running"
    finally:
        for connection in open_ones:
            connection.close()
        container.stop(timeout=60)  # then SIGKILL, which is 137
        code, lines = ended(container)
        volume.remove()
    assert code == 0
    assert not [line for line in lines if line.startswith("ERROR")]


def test_it_ends_at_once_amid_a_stream(engine: Any, run: Any, tmp_path: Path) -> None:
    volume = engine.volumes.create()
    path = socket_in(volume, tmp_path)
    volumes = mounted(ENGINE, "/var/run/docker.sock") | mounted(volume.name, "/run/engine")
    container = engine.containers.run(NAME, **AS_IN_COMPOSE, volumes=volumes)
    try:
        wait_until(lambda: answers(container), container.logs)
        stage = run("sleep 3600")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(attach(stage.id))
            assert b" 101 " in connection.recv(65536)
            container.stop(timeout=60)  # then SIGKILL, which is 137
            assert connection.recv(65536) == b""
        with pytest.raises(ConnectionRefusedError):
            ask(path, b"")
    finally:
        code, lines = ended(container)
        volume.remove()
    assert code == 0
    assert not [line for line in lines if not line.startswith("INFO ")]
