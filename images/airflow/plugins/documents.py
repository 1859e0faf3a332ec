"""Hides the descriptions of Airflow's APIs, which need no login.

No setting of Airflow 3.3 switches them off: `api.enable_swagger_ui` removes only two pages, not their source.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from starlette.responses import PlainTextResponse

PREFIX = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")  # of Airflow behind a proxy
DOCUMENT = re.compile(f"({re.escape(PREFIX)})?(/auth|/execution)?/(openapi\\.json|docs|docs/.*|redoc|changelog)/?")

Channel = Callable[..., Awaitable[Any]]


class NoDocuments:
    """Middleware that answers 404 instead."""

    def __init__(self, app: Channel) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Channel, send: Channel) -> None:
        """Answer a request, or pass it on."""
        hidden = scope["type"] == "http" and DOCUMENT.fullmatch(scope["path"])
        await (PlainTextResponse("Not Found", 404) if hidden else self._app)(scope, receive, send)


class DocumentsPlugin(AirflowPlugin):
    """Puts the middleware before all of Airflow's applications."""

    name = "documents"
    fastapi_root_middlewares = [{"name": "no documents", "middleware": NoDocuments}]  # noqa: RUF012 (as Airflow does)
