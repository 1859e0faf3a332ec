"""Files that runs add to, one JSON object a line; and the findings of a stage's past runs, in the cache they share."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from stages.common.contract.logs import log

FILE = "history.jsonl"

EntryT = TypeVar("EntryT")


def append_line(file: Path, entry: Mapping[str, Any]) -> None:
    """Add a line by one short `write` under a lock; without it, runs on NFS that end together overwrite each other's.

    If a full disk has cut the last line short, a line end comes first, so that the new line is whole.
    """
    with file.open("a+b", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        size = os.fstat(stream.fileno()).st_size
        torn = size > 0 and os.pread(stream.fileno(), 1, size - 1) != b"\n"
        line = b"\n" * torn + json.dumps(entry, allow_nan=False).encode() + b"\n"
        if stream.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        os.fsync(stream)


def read_lines(file: Path, parse: Callable[[bytes], EntryT]) -> Iterator[EntryT]:
    """Lines of a file, which may be absent, the oldest first; a line that cannot be parsed is logged and left out."""
    for number, line in enumerate(file.read_bytes().splitlines() if file.exists() else [], 1):
        if not line.strip():
            continue
        try:
            yield parse(line)
        except (ValueError, KeyError, TypeError):
            log.warning("%s, line %d cannot be read and is left out", file, number)


def remember(cache: Path, source: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add a run, and return the last ones on `source`, this one at the end.

    Args:
        cache: `Context.cache`.
        source: the data; runs on other data do not belong to the same trend.
        values: the findings; `time` (UTC, ISO 8601, seconds) is added.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    append_line(cache / FILE, {"time": now, "source": source, **values})
    return recall(cache, source)


def recall(cache: Path, source: str, last: int = 30) -> list[dict[str, Any]]:
    """The last runs on `source`, the oldest first."""

    def parse(line: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = json.loads(line)
        return {"time": entry["time"], **entry}

    return [entry for entry in read_lines(cache / FILE, parse) if entry.get("source") == source][-last:]
