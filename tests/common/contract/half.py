"""One of two machines that share a store: does what it is told, a line of JSON each, until its input ends.

It needs of the repository no more than `stages/` and this file.
"""

import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.archive.prune import prune
from stages.common.contract import artifacts, history
from stages.common.contract.digest_index import DIGESTS, DigestIndex
from stages.common.contract.errors import DataError, StageError

HELD = contextlib.ExitStack()
"""Locks and files that stay open until `let_go`."""


class Watched(DigestIndex):
    """Counts the files that are read."""

    count = 0

    def _read(self, file: str | Path, name: bytes) -> str:
        self.count += 1
        return super()._read(file, name)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(path: Path) -> str:
    return path.read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def publish(final: Path, text: str, times: int = 1) -> None:
    for _ in range(times):
        with artifacts.locked(final.with_name(f".lock-{final.name}")) as lock, artifacts.making(final, lock) as partial:
            for number in range(20):
                write(partial / "files" / str(number), text)
            artifacts.write_manifest(partial, stage="toy", key=final.name)
            artifacts.publish(partial, final, lock)


def begin(final: Path) -> None:
    """Make half an artifact, and stay there."""
    lock = HELD.enter_context(artifacts.locked(final.with_name(f".lock-{final.name}")))
    partial = HELD.enter_context(artifacts.making(final, lock))
    write(partial / "files" / "0", "half of it")


def look(final: Path) -> str:
    """The finding of a reader: nothing, all of it, or the error."""
    try:
        files = len(artifacts.read_manifest(final)["files"])
    except DataError as error:
        return str(error) if "damaged" in str(error) else "nothing"
    return "whole" if files == 20 else f"{files} files"


def watch(final: Path, seconds: float) -> list[str]:
    end, found = time.monotonic() + seconds, set()
    while time.monotonic() < end:
        found.add(look(final))
    return sorted(found)


def make_once(final: Path) -> bool:
    """As a run does: make the artifact under its lock unless it is there; whether it was made."""
    with artifacts.locked(final.with_name(f".lock-{final.name}")) as lock:
        if final.exists():
            artifacts.read_manifest(final)
            return False
        with artifacts.making(final, lock) as partial:
            time.sleep(0.5)
            for number in range(20):
                write(partial / "files" / str(number), "once")
            artifacts.write_manifest(partial, stage="toy", key=final.name)
            artifacts.publish(partial, final, lock)
    return True


def hold(path: Path, reads: list[str]) -> None:
    HELD.enter_context(artifacts.locked(path, reads=map(Path, reads)))


def hold_open(path: Path) -> None:
    HELD.enter_context(path.open("rb"))


def let_go() -> None:
    HELD.close()


def is_free(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def count(path: Path, times: int) -> None:
    for _ in range(times):
        with artifacts.locked(path.with_name(f".lock-{path.name}")):
            number = int(path.read_text()) if path.exists() else 0
            path.write_text(str(number + 1))


def remove_lock(path: Path, seconds: float) -> None:
    """As the clean-up does: remove a lock while it is held, and others wait for it."""
    with artifacts.locked(path):
        time.sleep(seconds)
        path.unlink()


def remember(cache: Path, who: str, times: int) -> None:
    for number in range(times):
        history.remember(cache, who, {"number": number})


def recall(cache: Path, who: str) -> list[int]:
    return [entry["number"] for entry in history.recall(cache, who, 10**6)]


def learn(store: Path, folder: Path) -> int:
    """Ask the digests of all files of a folder; how many of them were read for that."""
    index = Watched(store / DIGESTS)
    list(index.digests(sorted(folder.iterdir())))
    index.save()
    return index.count


def learn_apart(store: Path, folder: Path) -> None:
    """As `learn`, with a transaction per file."""
    for path in sorted(folder.iterdir()):
        index = DigestIndex(store / DIGESTS)
        index.digest(path)
        index.save()


def is_sound(store: Path) -> str:
    with contextlib.closing(sqlite3.connect(store / DIGESTS)) as database:
        return str(database.execute("pragma integrity_check").fetchone()[0])


def digest(store: Path, file: Path) -> str:
    return DigestIndex(store / DIGESTS).digest(file)


def clean_up(store: Path) -> list[str]:
    """Remove what nobody has used for an hour; what could not be removed."""
    return prune(store, "1h").problems


def make_older(folder: Path) -> None:
    """Make the contents of a folder look last used a day ago."""
    yesterday = time.time() - 86400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (yesterday, yesterday))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _answers() -> Iterator[Any]:
    for line in sys.stdin:
        told = json.loads(line)
        arguments = [Path(argument["path"]) if isinstance(argument, dict) else argument for argument in told[1:]]
        try:
            yield {"is": globals()[told[0]](*arguments)}
        except (StageError, OSError) as error:
            yield {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print(json.dumps({"is": "ready"}), flush=True)
    for answer in _answers():
        print(json.dumps(answer), flush=True)
