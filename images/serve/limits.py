"""Checks before the application: who may send a request, how large it may be, and how long it may take.

A body is read as a whole first, so the application gets only complete bodies within the limits. Nothing is written to a
disk. A refusal is one line, also for a client that sends without end: the line is sent, further bytes are dropped for a
second, and then the connection ends.
"""

import asyncio
import contextlib
import hmac
import json
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, ClassVar

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from images.serve.settings import Limits
from stages.common.contract.logs import log

COOKIE = "serve"
OPEN = re.compile(r"/|/health|/ready|/v2/health/(live|ready)|/login|/gallery|/docs|/static/[\w.-]+")
"""Paths that need no token: pages without data, and whether the service works."""
LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
DROP_S = 1.0
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class RefusedError(Exception):
    """The request ends with this status and one line."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        """Make an error; the text has cause and remedy."""
        super().__init__(text)
        self.status = status
        self.headers = dict(headers or {})


def is_token(shown: str, token: str) -> bool:
    """Whether the token is right; the comparison takes the same time for every wrong one."""
    return hmac.compare_digest(shown.encode("utf-8", "replace"), token.encode())


class Guard:
    """Middleware: requires the token, sets headers, and ends requests that take too long."""

    def __init__(self, app: ASGIApp, token: str, limits: Limits) -> None:
        """Guard `app`; without a token, only requests from this machine, by one of its names, are allowed."""
        self._app = app
        self._token = token
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = {name.lower() for name, _ in message.get("headers", ())}
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            async with asyncio.timeout(self._limits.request_s):
                self._require_token(scope["path"], Headers(scope=scope), scope.get("client"))
                await self._app(scope, receive, with_headers)
        except RefusedError as error:
            await refuse(error, receive, with_headers)
        except TimeoutError:
            if started:
                raise ConnectionAbortedError("the client did not read the answer in time") from None
            slow = RefusedError(503, f"no answer within {self._limits.request_s:g} s: try again", {"retry-after": "1"})
            await refuse(slow, receive, with_headers)

    def _require_token(self, path: str, headers: Headers, client: tuple[str, int] | None) -> None:
        if not self._token:
            # both: another machine may send any name, and a page of another site sends from this machine
            near = client is not None and ip_address(client[0]).is_loopback
            if not (near and LOOPBACK.fullmatch(headers.get("host", ""))):
                told = "this service has no token, so it answers only as localhost and from this machine"
                raise RefusedError(403, f"{told}: set SERVE_TOKEN for others")
            return
        if OPEN.fullmatch(path):
            return
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            # a browser also sends cookies of other services of this host, in any form
            shown = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if not is_token(shown.strip(), self._token):
            text = "token missing: send header 'Authorization: Bearer <token>', SERVE_TOKEN in .env"
            raise RefusedError(401, text, {"www-authenticate": "Bearer"})


class Bodies:
    """Middleware: reads bodies, with limits for each and for all together."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        """Read bodies for `app`."""
        self._app = app
        self._limits = limits
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its whole body; a client that goes before its end gets no answer."""
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        if not {"content-length", "transfer-encoding"} & {*headers}:
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []
        try:
            await self._read(headers, receive, parts)
            told: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

            async def again() -> Message:
                return told.pop() if told else await receive()

            await self._app(scope, again, send)
        except _GoneError:
            pass
        finally:
            self._held -= sum(map(len, parts))

    async def _read(self, headers: Mapping[str, str], receive: Receive, parts: list[bytes]) -> None:
        size, most, seconds = 0, self._limits.body_bytes, self._limits.body_s
        large = RefusedError(413, f"more than {most / 1e6:.3g} MB: send fewer or smaller images")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "send the body as it is, without Content-Encoding", {"accept-encoding": "identity"})
        if int(headers.get("content-length", "0")) > most:
            raise large
        try:
            async with asyncio.timeout(seconds):
                while (message := await receive())["type"] == "http.request":
                    part = message.get("body", b"")
                    if (size := size + len(part)) > most:
                        raise large
                    if self._held + len(part) > self._limits.held_bytes:
                        raise RefusedError(503, "too much is being answered: try again", {"retry-after": "1"})
                    self._held += len(part)
                    parts.append(part)
                    if not message.get("more_body"):
                        return
        except TimeoutError:
            raise RefusedError(408, f"the body did not come within {seconds:g} s: send it faster") from None
        raise _GoneError


class _GoneError(Exception):
    """The client has gone."""


async def refuse(error: RefusedError, receive: Receive, send: Send) -> None:
    """Answer with one line, and let the client read it before the connection ends."""
    body = error_body(str(error))
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    pairs = [(name.encode(), value.encode()) for name, value in (headers | error.headers).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DROP_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_body(text: str) -> bytes:
    """An error in ASCII JSON."""
    return json.dumps({"error": text}).encode()


class Patient(HttpToolsProtocol):
    """uvicorn's HTTP, with limits on the head of a request: uvicorn would wait for it, and keep it, for ever.

    Attributes:
        limits: of every connection.
    """

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Arguments as of uvicorn's class."""
        super().__init__(*arguments, **options)
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the client some seconds for its first request."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self._has_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read some bytes; start the timer with the first ones of a request."""
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()
        self._head += len(data)
        super().data_received(data)
        if self._head > self.limits.head_bytes:
            self._end(431, f"more than {self.limits.head_bytes} bytes of headers")

    def on_headers_complete(self) -> None:
        """Cancel the timer."""
        self._has_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count no body."""
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to count the next head."""
        self._head = 0
        super().on_message_complete()

    def _wait_for_head(self) -> None:
        self._head = 0
        self._timer = self.loop.call_later(
            self.limits.head_s, self._end, 408, f"no whole request within {self.limits.head_s:g} s"
        )

    def _has_head(self) -> None:
        self._head = 0
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _end(self, status: int, text: str) -> None:
        self._has_head()
        if self.transport.is_closing():
            return
        log.warning("%d %s", status, text)
        if self.cycle is None or self.cycle.response_complete:
            body = error_body(text)
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
