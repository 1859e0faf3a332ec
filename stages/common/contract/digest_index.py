"""Digests of raw files by their stat: path, size, times and inode -> digest, in a database on disk.

So only new or changed files are read, and memory does not grow with their number. The database can always be made
again: if it is locked, damaged or not writable, the files are read, which costs only time.
"""

import contextlib
import hashlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from stages.common.contract.logs import log

DIGESTS = ".digests.sqlite"
"""Name of the database in the folder of the artifacts."""

YOUNG_NS = 2_000_000_000
"""A file that changed less than 2 s before it was read is not remembered: a second change within one tick of the file
system's clock (2 s on FAT, 1 s on old NFS) would leave its stat as it is."""

BATCH = 1000
"""Files that are looked up, or remembered, in one transaction: some 5 ms, in which others cannot write."""

WAIT_S = 5.0
"""How long to wait for others that write."""

ResultT = TypeVar("ResultT")

_TABLE = (
    "create table if not exists digests (path blob primary key, stat text, digest text, seen integer, sum integer) "
    "without rowid"
)


class DigestIndex:
    """Remembers digests of raw files. One process uses it; any number of processes may share the database.

    Usage:
        index = DigestIndex(store / DIGESTS)
        index.digest(path)
        index.save()
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """Open the database in `path`, or make it; `fresh` uses only digests of files read from now on."""
        self.path = path
        self._since = time.time_ns() if fresh else 0
        self._learned: dict[bytes, tuple[str, str, int]] = {}
        self._database = self._open()

    def digest(self, file: str | Path) -> str:
        """SHA-256 (64 hex digits) of a file; it is read only if its stat is not known."""
        return self._digest(file, name := _name(file), self._look_up([name]))

    def digests(self, files: Iterable[str | Path]) -> Iterator[str]:
        """`digest` of each file, in order."""
        rest = iter(files)
        while batch := list(islice(rest, BATCH)):
            names = [_name(file) for file in batch]
            known = self._look_up(names)
            yield from (self._digest(file, name, known) for file, name in zip(batch, names, strict=True))

    def forget(self, file: Path) -> None:
        """Read a file again next time, because its digest has turned out wrong."""
        name = _name(file)
        self._learned.pop(name, None)
        self._drop([name])

    def forget_gone(self, *, dry_run: bool = False) -> tuple[int, int]:
        """Drop the digests of files that are gone; return how many files are there, and how many are gone.

        If the first folder of a path is missing, its volume is not mounted here, and its files do not count as gone.
        """
        there = gone = 0
        mounted: dict[bytes, bool] = {}
        names = self._names_after(b"")
        while names:
            missing = []
            for name in names:
                top = b"/" + name.split(b"/", 2)[1]
                if top not in mounted:
                    mounted[top] = os.path.lexists(top)
                if mounted[top] and not os.path.lexists(name):
                    missing.append(name)
            there, gone = there + len(names) - len(missing), gone + len(missing)
            if missing and not dry_run:
                self._drop(missing)
            names = self._names_after(names[-1])
        return there, gone

    def _names_after(self, last: bytes) -> list[bytes]:
        """The next `BATCH` names in their order."""
        select = "select path from digests where path > ? order by path limit ?"
        return [name for (name,) in self._transact(lambda base: base.execute(select, (last, BATCH)).fetchall()) or []]

    def _drop(self, names: Sequence[bytes]) -> None:
        rows = [(name,) for name in names]
        delete = "delete from digests where path = ?"
        self._transact(lambda base: base.executemany(delete, rows))

    def save(self) -> None:
        """Write the new digests, so that other processes know them too."""
        rows = [(name, *known, _sum(name, *known)) for name, known in self._learned.items()]
        self._learned = {}
        if rows:
            insert = "insert or replace into digests values (?, ?, ?, ?, ?)"
            self._transact(lambda base: base.executemany(insert, rows))

    def _digest(self, file: str | Path, name: bytes, known: Mapping[bytes, Sequence[Any]]) -> str:
        row = known.get(name)
        if row and row[0] == _describe(os.stat(file)):  # noqa: PTH116 - a Path takes as long as the call
            return str(row[1])
        return self._read(file, name)

    def _read(self, file: str | Path, name: bytes) -> str:
        with Path(file).open("rb") as content:
            before, now = os.fstat(content.fileno()), time.time_ns()
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            stat = _describe(os.fstat(content.fileno()))
        if stat == _describe(before) and max(before.st_mtime_ns, before.st_ctime_ns) < now - YOUNG_NS:
            self._learned[name] = (stat, digest, now)
            if len(self._learned) >= BATCH:
                self.save()
        return digest

    def _look_up(self, names: list[bytes]) -> dict[bytes, Sequence[Any]]:
        places = ",".join("?" * len(names))  # one statement, for of 1,000 each takes four times as long
        select = f"select path, stat, digest, seen, sum from digests where path in ({places})"  # noqa: S608
        rows = self._transact(lambda base: base.execute(select, names).fetchall()) or []
        return {
            name: known for name, *known in rows if known[3] == _sum(name, *known[:3]) and known[2] >= self._since
        } | {name: self._learned[name] for name in names if name in self._learned}

    def _open(self) -> sqlite3.Connection | None:
        database = None
        try:
            database = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level="IMMEDIATE")
            database.execute(_TABLE)
        except sqlite3.Error as error:
            self._give_up(database, error)
            return None
        return database

    def _transact(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT | None:
        """Do `work` in one transaction and return its result; None where the database cannot be used."""
        if not self._database:
            return None
        try:
            with self._database:
                return work(self._database)
        except sqlite3.Error as error:
            self._give_up(self._database, error)
            self._database = None
            return None

    def _give_up(self, database: sqlite3.Connection | None, error: sqlite3.Error) -> None:
        """Go on without the database: a locked one stays as it is, and the next run makes a damaged one anew."""
        log.warning("%s cannot be used (%s): raw files are read again", self.path, error)
        if database:
            database.close()  # which rolls back
        if not isinstance(error, sqlite3.OperationalError):  # no database, or a damaged one
            for path in (self.path.with_name(f"{self.path.name}-journal"), self.path):
                with contextlib.suppress(OSError):
                    path.unlink()


def _name(file: str | Path) -> bytes:
    name = os.fsencode(file)
    return name if name.startswith(b"/") else os.fsencode(Path(file).absolute())


def _describe(stat: os.stat_result) -> str:
    """Stat values that change with a file's content; as text, for inodes may be larger than a database's integers.

    The device is not among them: each mount of NFS has its own number, which differs between machines.
    """
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _sum(name: bytes, *known: object) -> int:
    """A checksum of a row, by which a row that is damaged on disk is recognised."""
    return zlib.crc32(repr((name, *known)).encode())
