"""Ways to wait for and to stop processes."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.waiting import wait_until


def is_running(pid: int) -> bool:
    """Whether a process is there; a zombie is dead, and whoever is process 1 here may take its time to bury it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop_when(process: "subprocess.Popen[Any]", condition: Callable[[], Any], what: str) -> Any:
    """Stop a process amid its work, as soon as `condition` holds, which is returned; SIGCONT lets it go on.

    So it does not end before the test does something to it, however long that takes.
    """

    def holds() -> Any:
        assert process.poll() is None, f"it has ended before {what}"
        process.send_signal(signal.SIGSTOP)
        if not (found := condition()):
            process.send_signal(signal.SIGCONT)
        return found

    return wait_until(holds, what, pause=0.02)
