"""`python -m images.serve`: the service, on loopback, or at SERVE_HOST and SERVE_PORT."""

import logging
import resource
import sys

import uvicorn

from images.serve.app import create_app
from images.serve.limits import Patient
from images.serve.settings import read_settings
from stages.common.contract.errors import ExitCode, StageError
from stages.common.contract.logs import log, start_logging

STOP_S = 10
"""Seconds that requests have to end after SIGTERM."""


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    start_logging()
    try:
        settings = read_settings()
    except StageError as error:
        log.error("%s", error)
        return error.exit_code
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2 * settings.limits.connections), most))
    Patient.limits = settings.limits
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            http=Patient,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=settings.limits.connections,
            timeout_graceful_shutdown=STOP_S,
        )
    )
    log.info("serving at http://%s:%d", settings.host, settings.port)
    try:
        server.run()
    except SystemExit:  # it has said why, for example that somebody else listens there
        return ExitCode.UNAVAILABLE
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
