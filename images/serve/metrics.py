"""Counts of all processes of the service together, as Prometheus reads them at /metrics.

With several processes, each counts in memory-mapped files, and the process that gets the request adds up all files (the
multiprocess mode of prometheus_client). The files are in /dev/shm: on a full disk, a write to a mapped file would kill
the process.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that prometheus_client reads at its import."""
PLACE, PREFIX = Path("/dev/shm"), "serve-metrics-"  # noqa: S108 (a folder of its own is made in it)

REQUESTS = Histogram(
    "face_attributes_request_seconds",
    "Seconds from the head of a request to the end of its answer, by path of the API (empty: none, or no token)",
    ["path", "status"],
)
IMAGES = Counter("face_attributes_images", "Images that were answered or refused", ["version", "result"])
BATCH = Histogram("face_attributes_batch_images", "Images answered at once", buckets=[1, 2, 4, 8, 16, 32, 64])
SERVING = Gauge("face_attributes_serving", "Processes that serve a version", ["version"], multiprocess_mode="livesum")

router = APIRouter()


@router.get("/metrics", response_class=Response)
async def metrics() -> Response:
    """Counts of the service, in the text format of Prometheus."""
    return Response(await asyncio.to_thread(_told), media_type=CONTENT_TYPE_LATEST)


def _told() -> bytes:
    registry = REGISTRY
    if FOLDER in os.environ:
        MultiProcessCollector(registry := CollectorRegistry())  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class Counted:
    """Middleware: counts all requests."""

    def __init__(self, app: ASGIApp) -> None:
        """Count requests to `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), "none"

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "")  # the pattern of the path, so that there are not too many
            REQUESTS.labels(path, status).observe(time.perf_counter() - started)


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Let processes that start inside count together."""
    for left in PLACE.glob(f"{PREFIX}*"):
        if not Path("/proc", left.name.split("-")[2]).exists():  # of a killed process
            shutil.rmtree(left, ignore_errors=True)
    place = PLACE if os.access(PLACE, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=place) as folder:
        os.environ[FOLDER] = folder
        yield


def ended(process: int | None) -> None:
    """Drop the gauges of a process that has ended; its counts stay."""
    if FOLDER in os.environ:
        mark_process_dead(process)  # type: ignore[no-untyped-call]
