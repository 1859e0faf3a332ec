"""`python -m images.serve`: the service, at SERVE_HOST and SERVE_PORT."""

import logging
import os
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
        host, port = os.environ.get("SERVE_HOST", "127.0.0.1"), int(os.environ.get("SERVE_PORT", "8090"))
    except StageError as error:
        log.error("%s", error)  # noqa: TRY400 (the cause is in the line)
        return error.exit_code
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2 * settings.limits.connections), most))
    Patient.limits = settings.limits
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=host,
            port=port,
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
    log.info("serving at http://%s:%d", host, port)
    server.run()
    return ExitCode.DONE if server.started else ExitCode.UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
