"""Bad input and bad clients: one clear answer each, the others are served meanwhile, and nothing is written."""

import asyncio
import contextlib
import json
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Send

from images.serve.limits import Bodies, Guard, RefusedError
from images.serve.settings import Limits, read_settings
from stages.common.contract.errors import UsageError
from tests.common.photograph import photograph
from tests.serve.pictures import encoded
from tests.serve.serving import TOKEN, Answer, Server, serving

pytestmark = pytest.mark.slow

PICTURE = encoded(photograph().resize((160, 190)))
HEAD = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"


def read(connection: socket.socket) -> tuple[int, str]:
    """Status and error of what comes back until the connection ends."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Traceback" not in answer
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.fixture(autouse=True)
def still_served(server: Server) -> Iterator[None]:
    """Whatever a test has done, the next client is answered."""
    yield
    assert server.predict(PICTURE).status == 200


def test_who_shows_no_token_gets_nothing(server: Server) -> None:
    paths = ["/predict", "/attributes", "/versions", "/openapi.json", "/v2", "/v2/models/network", "/nothing"]
    for path in paths:
        for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": "serve=wrong; a"}):
            for method in ("GET", "POST"):
                answer = server.ask(method, path, headers={"Authorization": ""} | shown)
                assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), path
                assert "token missing" in answer.json["error"]
    for path in ("/", "/docs", "/health", "/ready", "/v2/health/live", "/static/try.js"):
        assert server.ask("GET", path, headers={"Authorization": ""}).status == 200, path


def test_a_browser_shows_the_token_once(server: Server) -> None:
    def login(token: str) -> Answer:
        body = json.dumps({"token": token}).encode()
        return server.ask("POST", "/login", body, {"Content-Type": "application/json", "Authorization": ""})

    assert login("wrong").status == 401
    cookie = login(TOKEN).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    others = 'settings={"night": true}; a; b=x y; '  # of other services of this host
    shown = {"Authorization": "", "Cookie": others + cookie.partition(";")[0]}
    assert server.ask("GET", "/attributes", headers=shown).status == 200


@pytest.mark.parametrize("token", ["t\u00f6ken", " token", "to ken", "token\n"])
def test_a_token_that_no_header_can_hold_is_refused_at_once(token: str) -> None:
    with pytest.raises(UsageError, match="SERVE_TOKEN has a blank"):
        read_settings({"SERVE_TOKEN": token})


def test_without_a_token_only_this_machine_asks(sensitive: Path, tmp_path: Path) -> None:
    with serving(tmp_path, sensitive) as server:
        server.wait_for(ready=True)
        for host, status in {"localhost:1": 200, "127.0.0.1": 200, "evil.example.com": 403, "": 403}.items():
            assert server.ask("GET", "/attributes", headers={"Host": host}).status == status, host


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 204), ("::1", 204), ("192.0.2.7", 403)])
def test_without_a_token_who_comes_from_elsewhere_may_not_say_localhost(address: str, status: int) -> None:
    told: list[Any] = []

    async def answer(_scope: Any, _receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "path": "/", "headers": [(b"host", b"localhost:8090")], "client": (address, 4711)}
    asyncio.run(Guard(answer, "", Limits())(scope, receive, send))
    assert told[0]["status"] == status


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("GET", "/predict", "image/png", 405),
        ("DELETE", "/predict", "image/png", 405),
        ("POST", "/attributes", "image/png", 405),
        ("POST", "/predict", "text/html", 415),
        ("POST", "/predict", "application/x-www-form-urlencoded", 415),
        ("POST", "/predict", "application/json", 415),
        ("POST", "/predict", "multipart/form-data", 400),
        ("POST", "/predict", "multipart/form-data; boundary=x", 400),
        ("POST", "/nothing", "image/png", 404),
        ("GET", "/../etc/passwd", "image/png", 404),
        ("GET", "/static/..%2f..%2fsettings.py", "image/png", 404),
        ("GET", "/static/../settings.py", "image/png", 404),
    ],
)
def test_what_is_none_of_ours_is_refused_in_a_line(
    server: Server, method: str, path: str, kind: str, status: int
) -> None:
    answer = server.ask(method, path, PICTURE if method == "POST" else None, {"Content-Type": kind})
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.json["error"].splitlines()) == 1


def test_no_image_is_refused(server: Server) -> None:
    for answer in (server.predict(), server.ask("POST", "/predict", b"", {"Content-Type": "image/png"})):
        assert (answer.status, "no image came" in answer.json["error"]) == (400, True)


def test_a_compressed_body_is_refused(server: Server) -> None:
    answer = server.ask("POST", "/predict", PICTURE, {"Content-Type": "image/png", "Content-Encoding": "gzip"})
    assert answer.status == 415


def test_too_many_images_are_refused(server: Server) -> None:
    assert server.predict(*[PICTURE[:100]] * 24).status == 422
    answer = server.predict(*[PICTURE[:100]] * 25)
    assert (answer.status, answer.json["error"]) == (413, "more than 24 images: send them in several requests")


def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(f"{HEAD}Content-Length: 999999999999\r\nExpect: 100-continue\r\n\r\n".encode())
        assert read(connection) == (413, "more than 1 MB: send fewer or smaller images")


def test_a_body_that_never_ends_is_refused(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())

        def pour() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")

        pouring = threading.Thread(target=pour)
        pouring.start()
        assert read(connection) == (413, "more than 1 MB: send fewer or smaller images")
        pouring.join()


def slow_clients(server: Server, stack: contextlib.ExitStack) -> tuple[list[socket.socket], ...]:
    """Clients that send no request, those that have sent a piece of a head, and those that have sent one of a body."""
    silent, heads, bodies = ([stack.enter_context(server.connect()) for _ in range(20)] for _ in range(3))
    for client in bodies:
        client.sendall(f"{HEAD}Content-Length: {len(PICTURE)}\r\n\r\n".encode() + PICTURE[:3])
    for client in heads:
        client.sendall(HEAD[:3].encode())
    return silent, heads, bodies


def test_slow_clients_keep_nobody_waiting(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        clients = [client for those in slow_clients(server, stack) for client in those]
        for _ in range(10):
            assert server.predict(PICTURE).status == 200
        assert select.select(clients, [], [], 0)[0] == []  # they are still waited for


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("HEAD_S", "no whole request within 1.5 s"),
        ("BODY_S", "the body did not come within 1.5 s: send it faster"),
    ],
)
def test_slow_clients_are_sent_away(sensitive: Path, tmp_path: Path, limit: str, told: str) -> None:
    """Also those that send another piece now and then."""
    with serving(tmp_path, sensitive, TOKEN, **{limit: "1.5"}) as server, contextlib.ExitStack() as stack:
        silent, heads, bodies = slow_clients(server, stack)
        slow = [*silent, *heads] if limit == "HEAD_S" else bodies
        content = HEAD.encode() if limit == "HEAD_S" else PICTURE
        for at in range(3, 33, 3):
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                for client in heads if limit == "HEAD_S" else bodies:
                    client.sendall(content[at : at + 3])
        for client in slow:
            assert read(client) == (408, told)


@pytest.mark.parametrize("endless", [b"X-Long: " + bytes([97]) * 400, b"X: y\r\n" * 50], ids=["one", "many"])
def test_headers_without_end_are_refused(server: Server, endless: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(OSError):
            for _ in range(1000):
                connection.sendall(endless)
        assert read(connection)[0] == 431


def test_what_is_no_http_is_refused(server: Server) -> None:
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00", b"PREDICT\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        with server.connect() as connection:
            connection.sendall(noise)
            assert connection.recv(100).startswith(b"HTTP/1.1 4")


def test_a_thousand_connections_keep_nobody_waiting(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1000):
                stack.enter_context(server.connect())
            assert server.predict(PICTURE).status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


NAMES = ["../../etc/passwd", "/etc/passwd", "a\\b", "a\r\nSet-Cookie: x=y", "<script>alert(1)</script>.png", 'a"b', "\u202egnp.exe", "名前.png", "a\0b", "x" * 5000, "", "..", "CON"]  # fmt: skip  # noqa: E501


def test_hostile_names_are_told_again_escaped_and_open_nothing(server: Server, tmp_path: Path) -> None:
    folder = server.log.parent
    before = sorted(str(path) for path in folder.rglob("*"))
    for name in NAMES:
        answer = server.predict(PICTURE, names=[name])
        assert answer.status in {200, 400}, name
        assert answer.body.isascii()
        assert "set-cookie" not in answer.headers
        if answer.status == 200:
            assert len(answer.json["images"][0]["name"]) <= 255
    assert sorted(str(path) for path in folder.rglob("*")) == before


def test_nothing_is_written_anywhere(server: Server) -> None:
    """Not even for a moment: a large file of a form would go to a temporary file in many a server."""

    def written() -> int:
        told = Path(f"/proc/{server.process.pid}/io").read_text()
        return int(told.split("\nwrite_bytes: ")[1].split()[0])

    before = written()
    noise = encoded(photograph().resize((500, 580)))
    for _ in range(3):
        assert server.predict(noise, names=["large.png"]).status == 200
    open_files = [os.readlink(path) for path in Path(f"/proc/{server.process.pid}/fd").iterdir()]  # noqa: PTH115
    assert [path for path in open_files if path.startswith("/") and path not in {"/dev/null", str(server.log)}] == []
    assert written() - before < 65536  # its log


def test_what_takes_all_memory_is_refused() -> None:
    """Bodies that come at the same time share a limit; who is over it is told to come again."""
    sent = asyncio.Event()

    async def answer(_scope: Any, receive: Receive, _send: Any) -> None:
        assert len((await receive())["body"]) > 0

    async def send(_: Any) -> None:
        """Nobody listens."""

    async def story() -> None:
        bodies = Bodies(answer, Limits(body_bytes=1000, held_bytes=1500))

        async def ask(size: int) -> None:
            """Send so many bytes, and the end of the body when all are told to."""
            parts = [{"type": "http.request", "body": bytes(size), "more_body": True}]

            async def receive() -> Any:
                if parts:
                    return parts.pop()
                await sent.wait()
                return {"type": "http.request"}

            await bodies({"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}, receive, send)

        others = [asyncio.create_task(ask(700)) for _ in range(2)]
        await asyncio.sleep(0)  # until they wait
        with pytest.raises(RefusedError, match="too much is being answered: try again") as refusal:
            await ask(200)
        assert refusal.value.status == 503
        sent.set()
        await asyncio.gather(*others)
        await ask(900)  # there is room again

    asyncio.run(story())


def test_more_than_can_wait_are_told_to_come_again(sensitive: Path, tmp_path: Path) -> None:
    with serving(tmp_path, sensitive, WAITING="8") as server:
        server.wait_for(ready=True)
        large = encoded(photograph().resize((2000, 2400)), "PNG", compress_level=1)
        answers: list[Answer] = []
        threads = [threading.Thread(target=lambda: answers.append(server.predict(*[large] * 4))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status for answer in answers} == {200, 503}
        refused = next(answer for answer in answers if answer.status == 503)
        assert refused.headers["retry-after"] == "1"
        assert refused.json["error"] == "too many images wait: try again"
