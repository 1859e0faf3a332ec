"""Watches the raw folder, and says so when lots have arrived or changed. Runs in Airflow's triggerer."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

Lots = dict[str, tuple[int, int]]
BESIDE = "."
"""In place of a lot's name, for images in the raw folder itself: the stages tell lots by the names of files."""
IMAGES = (".png", ".jpg", ".jpeg")
"""What the stages read, `SUFFIXES` of stages/common/raw_images.py, which is not in the image of Airflow."""


def look(folder: str) -> Lots:
    """Lot -> number of its files, and the sum of their sizes and times, which any change to one of them changes."""
    found: Lots = {}
    beside = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                with os.scandir(entry.path) as files:
                    found[entry.name] = _summary([file.stat(follow_symlinks=False) for file in files])
            elif entry.is_file(follow_symlinks=False) and entry.name.lower().endswith(IMAGES):
                beside.append(entry.stat(follow_symlinks=False))
    return found | ({BESIDE: _summary(beside)} if beside else {})


def _summary(files: list[os.stat_result]) -> tuple[int, int]:
    return len(files), sum(file.st_mtime_ns + file.st_size for file in files)


class NewLots(BaseEventTrigger):
    """An event whenever the raw folder has changed and is quiet again, with the lots that are new or changed.

    It is quiet when it looks the same twice. A copy that pauses for longer than the interval starts a run too early;
    the lot is predicted again when it has changed.

    The first look after a start is an event, too: nobody knows what happened before it. A run that finds nothing new
    costs seconds.
    """

    def __init__(self, folder: str, interval: float) -> None:
        """Watch `folder`, looking every `interval` seconds."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder = folder
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes it anew."""
        return ("new_lots.NewLots", {"folder": self.folder, "interval": self.interval})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, and tell what has changed since the last event."""
        told: Lots = {}
        before: Lots | None = None
        while True:
            try:
                now = await asyncio.to_thread(look, self.folder)
            except OSError as error:  # not there yet, or a lot that goes while it is looked at
                self.log.warning("cannot look at %s: %s", self.folder, error)
                now = {}
            if now and now == before and now != told:
                changed = sorted(lot for lot in now if now[lot] != told.get(lot))
                told = now
                yield TriggerEvent({"lots": changed})  # type: ignore[no-untyped-call]
            before = now
            await asyncio.sleep(self.interval)
