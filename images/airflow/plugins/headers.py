"""Security headers of every answer of the API server.

An answer that already has such a header keeps it, as the reports do.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline'",  # the login page has inline scripts
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "worker-src": "'self' blob:",
    "frame-ancestors": "'self'",  # Airflow shows the reports in a frame
    "base-uri": "'self'",
    "form-action": "'self'",
    "object-src": "'none'",
}
HEADERS = {
    b"content-security-policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()).encode(),
    b"x-frame-options": b"SAMEORIGIN",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}

Channel = Callable[..., Awaitable[Any]]


class Headers:
    """Middleware that adds them."""

    def __init__(self, app: Channel) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Channel, send: Channel) -> None:
        """Pass a request on, and its answer back."""

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                names = {name.lower() for name, _ in own}
                message["headers"] = own + [(name, value) for name, value in HEADERS.items() if name not in names]
            await send(message)

        await self._app(scope, receive, with_headers)


class HeadersPlugin(AirflowPlugin):
    """Puts the middleware before all of Airflow's applications."""

    name = "headers"
    fastapi_root_middlewares = [{"name": "headers", "middleware": Headers}]  # noqa: RUF012 (as Airflow does)
