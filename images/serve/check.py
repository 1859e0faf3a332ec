"""Whether the service answers, for the container's health: `python -m images.serve.check`.

A service without a version is healthy, because its answers say so.
"""

import http.client
import os
import sys


def main() -> int:
    """Exit code: 0 if it answers."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("SERVE_PORT", "8090")), timeout=4)
    try:
        connection.request("GET", "/health")
        return int(connection.getresponse().status != http.HTTPStatus.OK)
    except (OSError, http.client.HTTPException) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
