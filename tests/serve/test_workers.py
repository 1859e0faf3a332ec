"""Several processes at one port: what one answers all answer, and none of them ends with another or outlives all."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from images.serve.large import SharedLocks, ThreadsRoom
from images.serve.settings import Limits
from stages.common.registry.registry import Registry
from tests.serve.pictures import drawn
from tests.serve.search_service import predict
from tests.serve.serving import ROOT, Server, register, serving
from tests.serve.test_champion import asking, promote
from tests.stages.test_predict import Data
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

WORKERS = 2
ASKED = 20
"""New connections, which the kernel deals out by chance: that one of two processes gets none has a chance of 2e-6."""


def listening(server: Server) -> list[psutil.Process]:
    """The processes that answer at its port."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in family if any(each.status == "LISTEN" for each in _connections(process))]


def kill_one(server: Server) -> psutil.Process:
    """Kill a process, and wait until it listens no more: what comes in that moment goes with it."""
    killed = listening(server)[0]
    killed.kill()

    def left() -> list[Any]:
        found = [connection for connection in psutil.net_connections("tcp4") if connection.status == "LISTEN"]
        return [
            connection
            for connection in found
            if connection.laddr.port == server.port and connection.pid in {None, killed.pid}
        ]

    wait_until(lambda: not left(), left)
    return killed


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended, whether somebody has asked for their exit code or not."""
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def _connections(process: psutil.Process) -> Any:
    try:
        return process.net_connections()
    except psutil.Error:  # it has ended
        return []


@pytest.fixture
def server(two_versions: Registry, tmp_path: Path) -> Iterator[Server]:
    """v2 is served by two processes, and what they predicted is searched."""
    with serving(tmp_path, two_versions.home.parent, WORKERS=str(WORKERS)) as server:
        wait_until(lambda: len(listening(server)) == WORKERS, server.log.read_text)
        yield server


def test_a_promotion_is_served_by_all_soon_and_no_request_fails(server: Server, two_versions: Registry) -> None:
    with asking(server) as answers:
        wait_until(lambda: answers, server.log.read_text)
        promote(two_versions, "v1")
        wait_until(
            lambda: {server.predict(drawn()).json["version"] for _ in range(ASKED)} == {"v1"}, server.log.read_text
        )
    assert {status for _, status, _, _ in answers} == {200}
    assert {version for _, _, version, _ in answers} == {"v1", "v2"}


def test_the_others_answer_while_a_killed_process_is_replaced(server: Server) -> None:
    killed = kill_one(server)
    while len(listening(server)) < WORKERS:
        assert server.predict(drawn()).status == 200
    assert killed.pid not in {connection.pid for connection in listening(server)}
    assert {server.predict(drawn()).status for _ in range(ASKED)} == {200}
    assert f"process {killed.pid} ended (-9): starting another" in server.log.read_text()


def test_all_end_when_they_are_told_to(server: Server) -> None:
    family = psutil.Process(server.process.pid).children(recursive=True)
    with server.connect():
        assert server.stop() == 0
    assert "it is killed" not in server.log.read_text()
    wait_until(lambda: not alive(family), lambda: family)


def test_none_is_left_when_the_first_process_is_killed(server: Server) -> None:
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert len(family) >= WORKERS
    server.process.kill()
    wait_until(lambda: not alive(family), lambda: family)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_is_told_in_a_line(tmp_path: Path, workers: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = {"SERVE_PORT": str(port), "SERVE_WORKERS": workers, "SERVE_ARTIFACTS": str(tmp_path)}
        command = [sys.executable, "-m", "images.serve"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | told, capture_output=True, text=True)
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert (
        f"cannot listen at 127.0.0.1:{port} (Address already in use): stop the program that does, or choose another"
        in line
    )


def test_one_process_makes_the_index_and_all_search_it(tmp_path: Path) -> None:
    data = Data(tmp_path)
    data.add("a", 10, (1, 0, 1, 3, 2))
    predict(data, "v1")
    register(Registry(data.store / "registry"), tmp_path / "content")
    with serving(tmp_path, data.store, RAW=str(data.raw), WORKERS=str(WORKERS)) as server:
        wait_until(lambda: len(listening(server)) == WORKERS, server.log.read_text)

        def said() -> set[Any]:
            return {server.get("/search").json.get("total") for _ in range(ASKED)}

        wait_until(lambda: said() == {10}, server.log.read_text)
        data.add("b", 5, (0, 1, 0, 0, 1))
        data.result()
        wait_until(lambda: said() == {15}, server.log.read_text)
        wait_until(lambda: server.log.read_text().count("images of v1 in") == 2, server.log.read_text)


HOLDING = """
import sys, time
from pathlib import Path
from images.serve.large import SharedLocks, ThreadsRoom
ThreadsRoom(SharedLocks(Path(sys.argv[1]))).claim(40)
print("held", flush=True)
time.sleep(60)
"""


def test_large_pictures_share_their_room_among_processes_and_a_killed_one_leaves_it(tmp_path: Path) -> None:
    (file := tmp_path / "room").touch()
    with subprocess.Popen([sys.executable, "-c", HOLDING, file], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        room, entered = ThreadsRoom(SharedLocks(file)), threading.Event()
        room.claim(10)

        def enter() -> None:
            room.claim(20)
            entered.set()
            room.claim(0)

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.5)
        room.claim(0)  # 10 are free, and 20 are waited for
        assert not entered.wait(0.5)
        other.send_signal(signal.SIGKILL)
        assert entered.wait(PATIENCE_S)
        waiting.join()
    room.claim(50)  # all of it is there again


def test_processes_divide_what_requests_share_and_each_takes_the_largest_request() -> None:
    usual = Limits()
    assert usual.divided(1) == usual
    four = usual.divided(4)
    assert (four.held_bytes, four.waiting, four.connections) == (
        usual.held_bytes / 4, usual.waiting / 4, usual.connections / 4,
    )  # fmt: skip
    many = usual.divided(100)
    assert (many.held_bytes, many.waiting) == (usual.body_bytes, usual.images)
    assert (four.body_bytes, four.images) == (usual.body_bytes, usual.images)
