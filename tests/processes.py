"""What becomes of processes."""

from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether a process is there; a zombie is dead, and whoever is process 1 here may take its time to bury it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
