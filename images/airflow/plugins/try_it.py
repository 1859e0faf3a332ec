"""The prediction service inside Airflow: behind its login; the token stays on the server.

Passes requests below `/try/` on to FACE_ATTRIBUTES_SERVE_URL, for users who may read the DAG. All addresses in the
service's pages are relative, and its limits apply here, too, because a body is passed on as it comes.
"""

import os
from typing import Any
from urllib.parse import quote

import httpx
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

DAG_ID = "ml_pipeline_face_attributes"  # users who may read this DAG may use the service
SERVICE = os.environ.get("FACE_ATTRIBUTES_SERVE_URL", "http://serve:8090").rstrip("/")
TOKEN = os.environ.get("FACE_ATTRIBUTES_SERVE_TOKEN", "")
TIMEOUT = httpx.Timeout(150, connect=5)  # seconds; the service itself gives up after 120
TO_SERVICE = ("accept", "content-encoding", "content-length", "content-type", "inference-header-content-length")
FROM_SERVICE = (
    "allow", "cache-control", "content-disposition", "content-security-policy", "content-type",
    "inference-header-content-length", "permissions-policy", "retry-after",
)  # fmt: skip
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='%23888' "
    "stroke-width='2' stroke-linecap='round'%3E%3Ccircle cx='12' cy='12' r='9'/%3E%3Cpath d='M8.5 10v.5M15.5 10v.5M8 "
    "15q4 3 8 0'/%3E%3C/svg%3E"
)

app = FastAPI(
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(requires_access_dag("GET", param_dag_id=DAG_ID))],
)
client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False)


@app.api_route("/{path:path}", methods=["GET", "POST"])
async def pass_on(path: str, request: Request) -> Response:
    """Pass a request on to the service, and its answer back."""
    headers = {name: request.headers[name] for name in TO_SERVICE if name in request.headers}
    asked = client.build_request(
        request.method,
        f"{SERVICE}/{quote(path)}",
        params=request.url.query.encode(),
        headers=headers | {"Authorization": f"Bearer {TOKEN}"},
        content=request.stream() if request.method == "POST" else None,
    )
    try:
        answer = await client.send(asked)
    except httpx.HTTPError as error:
        told = f"the service at {SERVICE} does not answer ({type(error).__name__}): docker compose up -d serve"
        return JSONResponse({"error": told}, 502)
    kept = {name: answer.headers[name] for name in FROM_SERVICE if name in answer.headers}
    return Response(answer.content, answer.status_code, kept)


class TryItPlugin(AirflowPlugin):
    """The service's page in the navigation. Addresses are relative, so they keep Airflow's prefix."""

    name = "try_it"
    fastapi_apps = [{"name": "try it", "app": app, "url_prefix": "/try"}]  # noqa: RUF012 (as Airflow wants it)
    external_views: list[dict[str, Any]] = [  # noqa: RUF012
        {"name": "Try it", "destination": "nav", "category": "browse", "href": "try/", "url_route": "try", "icon": ICON}
    ]
