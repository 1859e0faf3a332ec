"""Findings of past runs of a stage: one JSON object a line, in the cache that all its runs share."""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.contract.logs import log

FILE = "history.jsonl"


def remember(cache: Path, source: str, values: Mapping[str, Any]) -> None:
    """Add a run. One short `write` under a lock, without which runs that end together on NFS overwrite each other's.

    It starts with an end of line, so that a line that a full disk cut short spoils no other.

    Args:
        cache: `Context.cache`.
        source: what was looked at; runs on other data are no trend of these.
        values: what was found; `time` (UTC, ISO 8601, seconds) is added.
    """
    entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "source": source, **values}
    with (cache / FILE).open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"\n" + json.dumps(entry).encode() + b"\n")
        os.fsync(file)


def recall(cache: Path, source: str, last: int = 30) -> list[dict[str, Any]]:
    """The last runs on `source`, the oldest first; a line that a full disk cut short is left out, and said."""
    found = []
    path = cache / FILE
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], 1):
        if not line:
            continue
        try:
            entry = json.loads(line)
            entry["time"]
        except (ValueError, KeyError, TypeError):
            log.warning("%s, line %d cannot be read and is left out of the trend", path, number)
            continue
        if entry.get("source") == source:
            found.append(entry)
    return found[-last:]
