"""Logs of a stage: newline-ended lines on stderr, and progress with rate and time left."""

import logging
import sys
import time

log = logging.getLogger("stage")

INTERVAL_S = 5.0
"""Seconds between two progress lines: 12 lines a minute can be followed by eye and never flood a container's log."""


def start_logging(who: str = "") -> None:
    """Send log records to stderr, one line each: ours of level INFO and above, those of libraries only as warnings.

    Args:
        who: stands before every message, to distinguish processes.
    """
    form = f"%(asctime)s %(levelname)s {who and f'{who}: '}%(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form, datefmt="%H:%M:%S", force=bool(who))
    log.setLevel(logging.INFO)


class Progress:
    """Logs the progress of a loop: done, rate and time left, at most one line every `INTERVAL_S` seconds.

    Usage:
        progress = Progress(len(files), "images")
        for file in files:
            ...
            progress.advance()
    """

    def __init__(self, total: int, unit: str) -> None:
        """Start the clock for `total` items of `unit`."""
        self.total = total
        self.unit = unit
        self.done = 0
        self._start = self._last = time.monotonic()

    def advance(self, items: int = 1) -> None:
        """Count finished items, and print a line when one is due."""
        self.done += items
        now = time.monotonic()
        if now - self._last >= INTERVAL_S:
            self._last = now
            rate = self.done / (now - self._start)
            left = (self.total - self.done) / rate
            log.info("%d of %d %s, %.1f/s, %.0f s left", self.done, self.total, self.unit, rate, left)
