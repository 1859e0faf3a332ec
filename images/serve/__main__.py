"""`python -m images.serve`: the service, on loopback, or at SERVE_HOST and SERVE_PORT."""

import resource
import sys

from images.serve.settings import read_settings
from images.serve.workers import serve
from stages.common.contract.errors import StageError
from stages.common.contract.logs import log, start_logging


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
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
