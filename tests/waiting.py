"""Waiting for what happens elsewhere: in another process, in a container, in a browser."""

import contextlib
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 600.0
"""More than anything takes that tests wait for, however busy the machine is; a test that passes never waits so long."""


def wait_until(
    condition: Callable[[], Any], what: str | Callable[[], object], seconds: float = PATIENCE_S, pause: float = 0.5
) -> Any:
    """Wait until `condition` is true, and return its value; else fail with `what`, or with the value of that call.

    The condition is tried often at first, and then after each `pause`, in seconds.
    """
    deadline, rest = time.monotonic() + seconds, min(0.02, pause)
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what() if callable(what) else what}: not within {seconds:g} s"
        time.sleep(rest)
        rest = min(pause, 1.3 * rest)
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on.

    It is none of those that the kernel deals out, or somebody might get it before the test's own server is up.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(20_000, 2**16) if not first <= port <= last] or [0]
    while True:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", secrets.choice(ports))) as server:
            return int(server.getsockname()[1])
