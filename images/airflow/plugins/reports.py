"""Reports of the stages inside Airflow: behind its login, read-only, and only reports.

People correct labels on them; their corrections go to another folder (`corrections`).

Serves files below FACE_ATTRIBUTES_REPORTS (the artifact store, mounted read-only; default /artifacts) under
`/reports/`: an index, a page per DAG run, the files of reports, and the registry's page of all versions.
"""

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, nullcontext, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple
from urllib.parse import urlencode, urlsplit

import corrections
import store_paths
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.configuration import conf
from airflow.models import TaskInstance
from airflow.models.xcom import XComModel
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import Receive, Scope, Send

DAG_ID = "ml_pipeline_face_attributes"  # who may read this DAG may read its reports
ROOT = Path(os.environ.get("FACE_ATTRIBUTES_REPORTS", "/artifacts")).resolve()
PREFIX = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")  # of Airflow behind a proxy
PAGE_ROWS = 100
FIGURES = 5  # of a headline, in a row
FIGURE_LENGTH = 80  # characters; a longer text is cut

STAGE, KEY = (re.compile(form) for form in (store_paths.STAGE, store_paths.KEY))
VERSIONS = ("registry", "page")  # folder of the page of all versions, beside the artifacts
VERSIONS_PAGE = "versions.html"
MANIFEST_BYTES = 16 * 1024**2  # of 50,000 files; a page reads up to `PAGE_ROWS` manifests
CHUNK = 256 * 1024
MEDIA_TYPES = {  # models and shards have no type here, so they are never served
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".csv": "text/plain; charset=utf-8",  # shown as text, not opened by a spreadsheet, which would run formulas
    ".txt": "text/plain; charset=utf-8",
    ".yaml": "text/plain; charset=utf-8",
    ".xml": "text/plain; charset=utf-8",
}
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data: 'self'; "
    "frame-ancestors 'self'; form-action 'none'; base-uri 'none'"
)
# An artifact must not run code in the browser of a logged-in user. So pages have no script except two of ours, which
# show data as text and send nothing before a person presses a button: that of all versions
# (stages/archive/versions.js), and, on reports, that for corrections of labels (stages/common/reports/corrections.js).
SCRIPT = "sha256-GnEbsjNLa/s3DBldcdGa4xJeWPUOUDOyqNxjvYHkCzk="
CORRECTING = "sha256-c/9B4j0JFwUwDH2GPB1Mf4+r4z9ycY87Kx1ziq1x5Jg="
# The same two as pages of 1.0.0 have them.
EARLIER_SCRIPT = "sha256-lnszaJX+mpmOy4HIyxJ305osgNo5hTqyqqPBzhc1npY="
EARLIER_CORRECTING = "sha256-ISp9dAyMq6RlfMf71CHgMbd/aq1MiTVbophcAdtWVKQ="
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='%23888' "
    "stroke-width='2'%3E%3Cpath d='M6 2h9l4 4v16H6zM9 12v6M12.5 9v9M16 14v4'/%3E%3C/svg%3E"
)


def open_file(stage: str, key: str, path: str) -> BinaryIO | None:
    """The open file of a report; None for anything else: links, dotfiles, other kinds, other places.

    Every folder on the way is opened relative to the one before, without following links, so a name that is replaced
    meanwhile is not followed; and the file that is read is the file that was checked.
    """
    parts = path.split("/")
    artifact = STAGE.fullmatch(stage) and KEY.fullmatch(key)
    if not (artifact or (stage, key) == VERSIONS) or any(part[:1] in {"", "."} for part in parts):
        return None
    if Path(parts[-1]).suffix not in MEDIA_TYPES:
        return None
    with ExitStack() as opened:
        try:
            folder = os.open(ROOT, os.O_PATH | os.O_DIRECTORY)
            opened.callback(os.close, folder)
            for name in (stage, key, *parts[:-1]):
                folder = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                opened.callback(os.close, folder)
            # A FIFO without a writer would block.
            file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except (OSError, ValueError):  # absent, a link, too long or not readable; a NUL
            return None
    if stat.S_ISREG(os.fstat(file).st_mode):
        return os.fdopen(file, "rb")
    os.close(file)
    return None


def exists(stage: str, key: str, path: str) -> bool:
    """Whether there is such a file of a report."""
    file = open_file(stage, key, path)
    with file or nullcontext():
        return bool(file)


class OpenFile(Response):
    """Answers with an open file, and closes it."""

    def __init__(self, file: BinaryIO, media_type: str) -> None:
        """The whole file, in its size at the beginning."""
        super().__init__(media_type=media_type)
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self.headers["Content-Length"] = str(self._size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (the form of ASGI)
        """Send it."""
        with self._file as file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = 0 if scope["method"] == "HEAD" else self._size
            while left and (data := await run_in_threadpool(file.read, min(CHUNK, left))):
                left -= len(data)
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


class Artifact(NamedTuple):
    """A folder of the store; `moment` is the time of its last change, in seconds since the epoch."""

    stage: str
    key: str
    moment: float

    @property
    def failed(self) -> bool:
        """Whether it is the report of a failed stage."""
        return self.key.startswith("failed-")

    @property
    def report(self) -> str:
        """Address of its report relative to the index, empty if it has none."""
        return f"{self.stage}/{self.key}/report.html" if exists(self.stage, self.key, "report.html") else ""

    @property
    def time(self) -> str:
        """`moment` for people."""
        return datetime.fromtimestamp(self.moment, UTC).strftime("%Y-%m-%d %H:%M UTC")

    @property
    def verdict(self) -> str:
        """The first figures of its headline, or its failure."""
        if self.failed:
            return "failed"
        try:
            with open_file(self.stage, self.key, "manifest.json") or BytesIO() as manifest:
                return told(json.loads(manifest.read(MANIFEST_BYTES))["headline"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return "its manifest cannot be read"


def told(headline: dict[str, object]) -> str:
    """The first figures of a headline."""
    return ", ".join(f"{name} {_figure(value)}" for name, value in list(headline.items())[:FIGURES])


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)[:FIGURE_LENGTH]


def artifacts() -> list[Artifact]:
    """All artifacts of the store, the newest first."""
    found = []
    for home in _folders(ROOT, STAGE):
        for entry in _folders(Path(home), KEY):
            with suppress(OSError):  # a failed one is removed by the next run of its stage; a folder may be unreadable
                found.append(Artifact(home.name, entry.name, entry.stat(follow_symlinks=False).st_mtime))
    return sorted(found, key=lambda artifact: (-artifact.moment, artifact.stage, artifact.key))


def _folders(parent: Path, name: re.Pattern[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(parent) as entries:
            return [entry for entry in entries if name.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)]
    except OSError:  # no store yet
        return []


# ---- the application ----

app = FastAPI(
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(requires_access_dag("GET", param_dag_id=DAG_ID))],
)
READ = ["GET", "HEAD"]
app.include_router(corrections.router)
pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)


def page(**content: Any) -> HTMLResponse:
    """The page template, filled."""
    text = pages.get_template("reports.html").render(**content)
    return HTMLResponse(text.encode("utf-8", "replace"))  # JSON may contain half a surrogate pair


@app.middleware("http")
async def set_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Headers of every answer."""
    response = await call_next(request)
    response.headers.update(HEADERS)
    response.headers.setdefault("Content-Security-Policy", POLICY)
    return response


@app.exception_handler(AnyHTTPException)
async def refuse(request: Request, error: AnyHTTPException) -> Response:
    """One line of text; a person who opens a page without a login is redirected to the login."""
    if error.status_code == 401 and request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        path = request.url.path if request.url.path.startswith(f"{PREFIX}/") else PREFIX + request.url.path
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{PREFIX}/api/v2/auth/login?{urlencode({'next': path + query})}")
    return PlainTextResponse(str(error.detail), error.status_code, error.headers)


@app.exception_handler(RequestValidationError)
async def refuse_nonsense(request: Request, error: RequestValidationError) -> Response:  # noqa: ARG001 (as FastAPI calls)
    """One line, about the first error."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return PlainTextResponse(f"{where}: {first['msg']}", 422)


@app.api_route("/", methods=READ)
def index(stage: str = "", number: Annotated[int, Query(alias="page", ge=1, le=10**6)] = 1) -> Response:
    """All reports or those of one stage, the newest first, in pages of `PAGE_ROWS`."""
    found = artifacts()
    counts = Counter(artifact.stage for artifact in found)
    chosen = [artifact for artifact in found if stage in {"", artifact.stage}]
    start = (number - 1) * PAGE_ROWS
    shown = chosen[start : start + PAGE_ROWS]

    def address(to: int) -> str:
        return f"?{urlencode({'stage': stage, 'page': to})}"

    return page(
        title="Reports",
        subtitle=f"{start + 1:,} to {start + len(shown):,} of {len(chosen):,}, the newest first"
        if shown
        else "none here",
        stages=[("all", len(found), "./")]
        + [(name, counts[name], f"?{urlencode({'stage': name})}") for name in sorted(counts)],
        stage=stage or "all",
        columns=("Made", "Stage", "Result", "Report"),
        rows=[(made.time, made.stage, made.verdict, made.report, made.failed) for made in shown],
        newer=address(number - 1) if number > 1 else "",
        older=address(number + 1) if start + len(shown) < len(chosen) else "",
        versions=f"{'/'.join(VERSIONS)}/{VERSIONS_PAGE}" if exists(*VERSIONS, VERSIONS_PAGE) else "",
    )


@app.api_route(
    "/dag-run/{dag_id}/{run_id:path}",  # names of stages have no hyphen
    methods=READ,
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.XCOM))],
)
def run(dag_id: str, run_id: str, session: SessionDep) -> Response:
    """Reports of the stages in one DAG run, in the order of their start."""
    tasks = session.scalars(
        select(TaskInstance)
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        .where(TaskInstance.operator == "StageOperator")
        .order_by(TaskInstance.start_date.is_(None), TaskInstance.start_date, TaskInstance.task_id)
    ).all()
    xcoms = session.execute(
        select(XComModel.task_id, XComModel.map_index, XComModel.key, XComModel.value).where(
            XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key.in_(("report", "headline"))
        )
    ).all()
    values = {(xcom.task_id, xcom.map_index, xcom.key): xcom.value for xcom in xcoms}  # stored as they are
    rows = []
    for task in tasks:
        artifact = of_report(values.get((task.task_id, task.map_index, "report")))
        headline = values.get((task.task_id, task.map_index, "headline"))
        name = task.task_id if task.map_index < 0 else f"{task.task_id} [{task.rendered_map_index or task.map_index}]"
        started = task.start_date.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if task.start_date else ""
        state = str(task.state or "not yet run")
        figures = told(headline) if isinstance(headline, dict) else ""
        if artifact and not artifact.failed:
            figures = artifact.verdict  # in the stage's order; PostgreSQL sorts the keys of an XCom by length
        text = f"{state}: {figures}" if figures else state
        report = artifact.report if artifact else ""
        rows.append((started, name, text, report and f"../../{report}", task.state == "failed"))
    return page(
        title="Reports of this run",
        subtitle=run_id if rows else f"{run_id}: no stage has run",
        columns=("Started", "Task", "Result", "Report"),
        rows=rows,
    )


def of_report(path: object) -> Artifact | None:
    """The artifact that an XCom `report` (as stages see it: /artifacts/<stage>/<key>/report.html) belongs to."""
    found = store_paths.parse(path)
    return Artifact(found.stage, found.key, moment=0) if found and found.rest == "report.html" else None


@app.api_route("/pipeline.svg", methods=READ)
def picture() -> Response:
    """The picture in the documentation of the DAG; Airflow only shows pictures from its own address."""
    found = Path(conf.get("core", "dags_folder"), f"{DAG_ID}.svg")
    if not found.is_file():
        raise HTTPException(404, "There is no picture of the DAG.")
    return FileResponse(found, media_type="image/svg+xml")


@app.api_route("/{stage}/{key}/{path:path}", methods=READ)
def file(stage: str, key: str, path: str) -> Response:
    """One file of a report."""
    found = open_file(stage, key, path)
    if not found:
        raise HTTPException(404, "There is no such report. The next run of a failed stage removes its report.")
    answer = OpenFile(found, MEDIA_TYPES[Path(path).suffix])
    if (stage, key, path) == (*VERSIONS, VERSIONS_PAGE):
        answer.headers["Content-Security-Policy"] = f"{POLICY}; script-src '{SCRIPT}' '{EARLIER_SCRIPT}'"
    if stage != VERSIONS[0] and Path(path).name == "report.html":  # perhaps a copy in the archive of a version
        scripts = f"script-src '{CORRECTING}' '{EARLIER_CORRECTING}'"
        answer.headers["Content-Security-Policy"] = f"{POLICY}; {scripts}; connect-src 'self'"
    return answer


@app.api_route("/{path:path}", methods=READ)
def nothing(path: str) -> Response:  # noqa: ARG001 (so that this, too, needs a login)
    """404 for all other paths."""
    raise HTTPException(404, "There is no such page.")


class ReportsPlugin(AirflowPlugin):
    """Reports in the navigation and on every DAG run. Addresses are relative, so they keep Airflow's prefix."""

    name = "reports"
    fastapi_apps = [{"name": "reports", "app": app, "url_prefix": "/reports"}]  # noqa: RUF012 (as Airflow wants it)
    external_views = [  # noqa: RUF012
        {"name": "Reports", "destination": "nav", "category": "browse", "href": "reports/", "url_route": "reports"}
        | {"icon": ICON},
        {
            "name": "Reports",
            "destination": "dag_run",
            "href": "reports/dag-run/{DAG_ID}/{RUN_ID}",
            "url_route": "run-reports",
            "icon": ICON,
        },
    ]
