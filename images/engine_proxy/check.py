"""The health check: 0 if the proxy and the engine behind it answer, else 69. A small program: it runs every 5 s."""

import os
import socket
import sys
from pathlib import Path

SOCKET = Path(os.environ.get("ENGINE_PROXY_SOCKET", "/run/engine/docker.sock"))
TIMEOUT_S = 4
UNAVAILABLE = 69


def main() -> int:
    """Check once; returns the exit code."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(str(SOCKET))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
            status = client.recv(1024).split(b"\r\n")[0].decode(errors="replace")
    except OSError as error:
        status = str(error)
    if status == "HTTP/1.1 200 OK":
        return 0
    print(f"engine proxy: {SOCKET}: {status}", file=sys.stderr)
    return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
