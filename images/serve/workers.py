"""The processes of the service: one, or several under uvicorn's supervisor, each a whole server at the same port.

The kernel distributes connections over the listening sockets (SO_REUSEPORT). With one shared socket, the process that
wakes first would accept nearly all of them. A process listens as soon as it can answer, and a dead process no longer
listens, so new connections go to the others.
"""

import logging
import os
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess

from images.serve import metrics
from images.serve.app import create_app
from images.serve.large import SharedLocks, ThreadsRoom
from images.serve.limits import Patient
from images.serve.settings import Settings
from stages.common.contract.errors import ExitCode
from stages.common.contract.logs import log, start_logging
from stages.common.images import room
from stages.common.workers.pool import follow_parent

STOP_S = 10
"""Seconds for requests to end after SIGTERM."""
KILL_S = 5
"""Further seconds until a process that has not ended is killed."""
HUNG_S = 120
"""Seconds until a process that does not react is replaced. On a busy machine (load 25 on two cores) a start took over
30 s, so with 30 the process was replaced again and again."""


def serve(settings: Settings) -> ExitCode:
    """Serve until SIGTERM."""
    _quiet()
    try:
        _bind(settings.host, settings.port).close()
    except OSError as error:
        told = f"{settings.host}:{settings.port} ({error.strerror or error})"
        log.error("cannot listen at %s: stop the program that does, or choose another port with SERVE_PORT", told)
        return ExitCode.UNAVAILABLE
    log.info("serving at http://%s:%d by %d", settings.host, settings.port, settings.workers)
    if settings.workers == 1:
        try:
            uvicorn.Server(_config(settings)).run()
        except SystemExit:  # it has logged the cause
            return ExitCode.UNAVAILABLE
        return ExitCode.DONE
    places = os.memfd_create("room")
    supervisor = _Supervisor(
        _config(settings, f"/proc/{os.getpid()}/fd/{places}"), _Bound(settings.host, settings.port)
    )
    with metrics.shared():
        supervisor.run()
    failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
    return ExitCode.UNAVAILABLE if failed else ExitCode.DONE


def _config(settings: Settings, places: str = "") -> uvicorn.Config:
    return uvicorn.Config(
        partial(_app, settings, places),
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=Patient,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.limits.connections,
        timeout_graceful_shutdown=STOP_S,
        timeout_worker_healthcheck=HUNG_S,
    )


def _app(settings: Settings, places: str) -> ASGIApp:
    """Application of a process. `places` is the file in which several share the room for large pictures."""
    if places:
        start_logging()
        _quiet()
        follow_parent()
    room.enter(ThreadsRoom(SharedLocks(Path(places)) if places else threading))
    Patient.limits = settings.limits
    return create_app(settings)


def _quiet() -> None:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def _bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that does not listen yet; several at the same address are possible if all are `shared`."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    try:
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


class _Bound(list[socket.socket]):
    """Sockets for the processes. The supervisor pickles this list; unpickled, it is a new socket of that process."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._address = host, port

    def __reduce__(self) -> Any:
        return _bound, self._address


def _bound(host: str, port: int) -> list[socket.socket]:
    try:
        return [_bind(host, port, shared=True)]
    except OSError as error:
        start_logging()
        log.error("cannot listen at %s:%d (%s)", host, port, error.strerror or error)
        sys.exit(STARTUP_FAILURE)


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which logs when it replaces a process, and does not wait for a process for ever."""

    def keep_subprocess_alive(self) -> None:
        before = [*self.processes]
        super().keep_subprocess_alive()
        for old, new in zip(before, self.processes, strict=True):
            if old is not new:
                log.warning("process %d ended (%d): starting another", old.pid, old.exitcode)
                metrics.ended(old.pid)

    def join_all(self) -> None:
        deadline = time.monotonic() + STOP_S + KILL_S
        for child in self.processes:
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.is_alive():
                log.warning("process %d has not ended in time: it is killed", child.pid)
                child.kill()
                child.process.join()
