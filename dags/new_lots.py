"""Watches raw folder and annotations, and reports changes. Runs in Airflow's triggerer."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

Lots = dict[str, tuple[int, int]]
IMAGES = (".png", ".jpg", ".jpeg")
"""Suffixes that the stages read: `SUFFIXES` of stages/common/images/listing.py, which Airflow's image lacks."""
REST = 10  # least pause between two listings, in durations of a listing: so a million files are no load
TOLD = "told"  # key of the asset's state in Airflow: a digest of the lots at the last event


def look(folder: str) -> Lots:
    """Lot -> number of its images, and a sum of digests that changes with any of them.

    All levels of folders are listed; hidden names and links are left out, as in the stages. A file that disappears
    meanwhile is left out. An unreadable folder counts as a file: the stages will report it.

    Raises:
        OSError: `folder` is not there.
    """
    return _sum_up(_files(_entries(folder), IMAGES), lambda path: lot_of(path.removeprefix(folder).lstrip("/")))


def look_at_files(path: str) -> Lots:
    """The same for a file, or for the files of a folder: name -> 1, and a digest that changes with the file.

    Raises:
        OSError: it is not there.
    """
    place = Path(path)
    if place.is_dir():
        return _sum_up(_files(_entries(path)), lambda file: file.removeprefix(path).lstrip("/"))
    found = [entry for entry in _entries(str(place.parent)) if entry.name == place.name]
    if not found:
        raise FileNotFoundError(path)
    return _sum_up(found, lambda _: place.name)


def _sum_up(files: Iterable[os.DirEntry[str]], name_of: Callable[[str], str]) -> Lots:
    found: Lots = {}
    for entry in files:
        try:
            seen = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        told = (entry.path, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)
        number = int.from_bytes(blake2b(repr(told).encode(), digest_size=16).digest(), "big")
        path = entry.path + ("/" if entry.is_dir(follow_symlinks=False) else "")
        # an event must be UTF-8, or the triggerer ends, with all its triggers
        name = os.fsencode(name_of(path)).decode("utf-8", "backslashreplace")  # the name in the stages
        count, total = found.get(name, (0, 0))
        found[name] = count + 1, (total + number) % 2**128
    return found


def digest(lots: Lots) -> str:
    """A digest (32 hex digits) that changes with any lot."""
    return blake2b(repr(sorted(lots.items())).encode(), digest_size=16).hexdigest()


def lot_of(path: str) -> str:
    """The lot of an image, as `lot_of` of stages/common/images/listing.py; `path` is relative to the raw folder."""
    folder, _, name = path.rpartition("/")
    prefix, underscore, _ = name.partition("_")
    return prefix if underscore and prefix else folder.rpartition("/")[2] or "all"


def _files(waiting: list[os.DirEntry[str]], suffixes: tuple[str, ...] = ("",)) -> Iterator[os.DirEntry[str]]:
    """Files with these suffixes, at any depth, and unreadable folders."""
    while waiting:
        entry = waiting.pop()
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            try:
                waiting += _entries(entry.path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                yield entry
        elif entry.name.lower().endswith(suffixes) and entry.is_file(follow_symlinks=False):
            yield entry


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


class NewLots(BaseEventTrigger):
    """An event whenever the raw folder has changed and is quiet again, with the new or changed lots.

    It is quiet if two listings are equal. A copy that pauses for longer than the interval starts a run too early; the
    lot is predicted again after its next change.

    Airflow stores a digest of the last event with the asset. So a triggerer that starts again reports nothing twice,
    and reports lots that came meanwhile: then the event names all lots. Without a stored digest, the first listing is
    an event, too. A run without new lots costs seconds.
    """

    tells: ClassVar[str] = "lots"

    def __init__(self, folder: str, interval: float) -> None:
        """Watch `folder`, with a listing every `interval` seconds."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder = folder
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class and arguments with which the triggerer makes it anew."""
        return (f"new_lots.{type(self).__name__}", {"folder": self.folder, "interval": self.interval})

    def look(self) -> Lots:
        """List the lots of the folder.

        Raises:
            OSError: there is no such folder.
        """
        return look(self.folder)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """List the folder again and again, and yield the changes since the last event."""
        kept = await self._recall()
        told: Lots = {}
        before: Lots | None = None
        while True:
            started = time.monotonic()
            try:
                now = await asyncio.to_thread(self.look)
            except OSError as error:  # not there yet, or gone with its disk
                self.log.warning("cannot list %s: %s", self.folder, error)
                now = {}
            if now and now == before and now != told:
                changed = sorted(lot for lot in now if now[lot] != told.get(lot))
                known, told = not told and digest(now) == kept, now
                if known:
                    self.log.info("%s has not changed since the last event", self.folder)
                else:
                    yield TriggerEvent({self.tells: changed})  # type: ignore[no-untyped-call]
            elif told and digest(told) != kept:  # not with the event: a triggerer that ends then would never send it
                kept = digest(told)
                await self._keep(kept)
            before = now
            await asyncio.sleep(max(self.interval, REST * (time.monotonic() - started)))

    async def _recall(self) -> Any:
        """The value that `_keep` stored last, perhaps before a restart."""
        try:
            return await self.asset_state_store.aget(TOLD) if self.asset_state_store else None
        except Exception as error:
            self.log.warning("the lots reported before the restart cannot be read (%s): all lots count as new", error)
            return None

    async def _keep(self, text: str) -> None:
        """Keep a text with the asset."""
        try:
            if self.asset_state_store:
                await self.asset_state_store.aset(TOLD, text)
        except Exception as error:
            self.log.warning("the reported lots cannot be saved (%s): after a restart all lots count as new", error)


class NewAnnotations(NewLots):
    """The same for an annotation file, or for a folder of such files, with the new or changed files.

    The folder `corrections` beside it belongs to it.
    """

    tells = "files"

    def look(self) -> Lots:
        """List the files of the folder, and the corrections beside it."""
        corrections = Path(self.folder).parent / "corrections"
        saved = look_at_files(str(corrections)) if corrections.is_dir() else {}
        return look_at_files(self.folder) | {f"corrections/{name}": seen for name, seen in saved.items()}
