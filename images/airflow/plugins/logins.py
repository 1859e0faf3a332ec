"""A limit for every way to log in: after wrong passwords, the wait grows, and only for that user and address.

Airflow's own limit covers only one of several ways to log in, and locks out all users of the same address, even with
the right password. Each process of the API server counts separately.
"""

import ipaddress
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from starlette.responses import JSONResponse

PREFIX = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")  # of Airflow behind a proxy
LOGIN = re.compile(f"({re.escape(PREFIX)})?/auth/(login|token|token/cli|api/v1/security/login)/*")
BODY_BYTES = 64 * 1024  # of a request to log in
FREE = 5  # wrong passwords for a user from an address before it has to wait
FREE_OF_ADDRESS = 50  # for all users together: a team may share an address
LONGEST_S = 300.0  # longest wait; 1 s at first, and twice as long after each further one
FORGET_S = 3600.0  # after the last wrong password
REMEMBERED = 20_000  # counts at most; some 300 bytes each

Channel = Callable[..., Awaitable[Any]]


class Guesses:
    """Counts of wrong passwords, by user and address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without counts; `clock` gives seconds."""
        self._clock = clock
        self._counts: OrderedDict[tuple[str, ...], tuple[int, float]] = OrderedDict()

    def wait(self, who: tuple[str, ...], free: int) -> float:
        """Seconds until the next try is allowed, 0 if at once."""
        count, last = self._counts.get(who, (0, 0.0))
        passed = self._clock() - last
        if count < free or passed > FORGET_S:
            return 0.0
        return max(0.0, min(2.0 ** min(count - free, 30), LONGEST_S) - passed)

    def add(self, who: tuple[str, ...]) -> None:
        """Count a wrong password."""
        count, last = self._counts.pop(who, (0, 0.0))
        now = self._clock()
        self._counts[who] = (count + 1 if now - last <= FORGET_S else 1, now)
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    def take_back(self, who: tuple[str, ...]) -> None:
        """Take back a count: it was not a wrong password."""
        count, last = self._counts.get(who, (0, 0.0))
        if count:
            self._counts[who] = (count - 1, last)

    def forget(self, who: tuple[str, ...]) -> None:
        """Forget the counts after a login."""
        self._counts.pop(who, None)


def network(address: str) -> str:
    """Addresses that one person has: a single IPv4 address, or an IPv6 network of 64 bits."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address


def user_of(body: bytes) -> str:
    """The name in a request to log in, JSON or a form; "" if there is none."""
    try:
        told = json.loads(body)
        name = told.get("username", "") if isinstance(told, dict) else ""
    except (ValueError, RecursionError):
        name = parse_qs(body.decode("utf-8", "replace")).get("username", [""])[0]
    return str(name)[:256].strip().lower()


class NoGuessing:
    """Middleware that counts wrong passwords, and answers 429 instead of the login."""

    def __init__(self, app: Channel, guesses: Guesses | None = None) -> None:
        self._app = app
        self._guesses = guesses or Guesses()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Channel, send: Channel) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["method"] == "POST" and LOGIN.fullmatch(scope["path"]):
            await self._log_in(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _log_in(self, scope: MutableMapping[str, Any], receive: Channel, send: Channel) -> None:
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > BODY_BYTES:
                await JSONResponse({"detail": "too much for a login"}, 413)(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        else:
            return  # the client has gone
        address = network((scope.get("client") or ("", 0))[0])
        user, everybody = (address, user_of(bytes(body))), (address,)
        if wait := max(self._guesses.wait(user, FREE), self._guesses.wait(everybody, FREE_OF_ADDRESS)):
            seconds = math.ceil(wait)
            text = f"Too many wrong passwords: try again in {seconds} s."
            await JSONResponse({"detail": text}, 429, {"Retry-After": str(seconds)})(scope, receive, send)
            return
        self._guesses.add(user)  # before the result is known, or a hundred parallel tries would be free
        self._guesses.add(everybody)
        told: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def again() -> Any:
            return told.pop() if told else await receive()

        async def count_and_send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._count(user, everybody, message)
            await send(message)

        await self._app(scope, again, count_and_send)

    def _count(self, user: tuple[str, ...], everybody: tuple[str, ...], answer: MutableMapping[str, Any]) -> None:
        cookies = [value for name, value in answer.get("headers", ()) if name.lower() == b"set-cookie"]
        status = answer["status"]
        if status < 300 or any(cookie.startswith(b"_token=") for cookie in cookies):
            self._guesses.forget(user)
            self._guesses.take_back(everybody)
        elif status not in {302, 303, 401, 403}:  # no password was checked
            self._guesses.take_back(user)
            self._guesses.take_back(everybody)


class LoginsPlugin(AirflowPlugin):
    """Puts the middleware before all of Airflow's applications."""

    name = "logins"
    fastapi_root_middlewares = [{"name": "no guessing", "middleware": NoGuessing}]  # noqa: RUF012 (as Airflow does)
