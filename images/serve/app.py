"""The application: its middleware, its parts, and its errors.

A part is a module with a `router`; it gets shared state from `ServiceDep`.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, FileSystemLoader
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from images.serve import metrics, predict, protocol, search
from images.serve.limits import COOKIE, Bodies, Guard, RefusedError, is_token
from images.serve.service import Json, Service, ServiceDep, in_thread
from images.serve.settings import Settings

PAGES = Path(__file__).with_name("page")


class Login(BaseModel):
    """The token, which a person enters once so that pages may send requests."""

    token: str


def create_app(settings: Settings) -> ASGIApp:
    """The application, with its middleware."""
    service = Service(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await in_thread(service.champion.look)  # before it listens: other processes may answer already
        following = asyncio.create_task(service.champion.follow())
        yield
        following.cancel()
        service.close()
        metrics.ended(os.getpid())

    app = FastAPI(
        title="Face Attributes",
        description="What the model says about a picture of a face.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    for part in (predict, protocol, search, metrics):
        app.include_router(part.router)
    _add_pages(app)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _wrong)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(Exception, _defect)
    return metrics.Counted(Guard(Bodies(app, settings.limits), settings.token, settings.limits))


def _add_pages(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=PAGES), name="static")

    frame = Environment(loader=FileSystemLoader(PAGES), autoescape=True, trim_blocks=True)
    for path, name in (("/", "index"), ("/gallery", "gallery"), ("/docs", "docs")):
        app.add_api_route(path, _page(frame.get_template(f"{name}.html").render()), include_in_schema=False)

    @app.post("/login", status_code=204)
    def login(shown: Login, service: ServiceDep) -> Response:
        """Get a cookie for the token, so that a browser need not store it."""
        if not is_token(shown.token, service.settings.token):
            raise RefusedError(401, "wrong token: the right one is SERVE_TOKEN in .env")
        response = Response(status_code=204)
        response.set_cookie(COOKIE, shown.token, httponly=True, samesite="strict")
        return response


def _page(text: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return HTMLResponse(text)

    return answer


async def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return Json({"error": str(error.detail)}, error.status_code, error.headers)
    assert isinstance(error, RefusedError)  # noqa: S101 (registered only for this class)
    return Json({"error": str(error)}, error.status, error.headers)


async def _wrong(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return Json({"error": f"{where}: {first['msg']}"}, 422)


async def _defect(_: Request, error: Exception) -> Response:
    return Json({"error": f"a defect of the service ({type(error).__name__}): its log says more"}, 500)
