"""A process that is deaf to SIGTERM is ended all the same.

Python runs a signal's handler between two steps of its own, so a library that computes for minutes in one call (a large
model, a damaged picture) keeps it waiting as long. The signal itself is noted at once, in a pipe, which a thread reads.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from stages.common.contract.errors import ExitCode

PATIENCE_S = 2.0
"""How long a handler may keep us waiting: a stage is to end within 3 s, and its container is killed a second later."""

Handler = Callable[[int, FrameType | None], Any]
_watching = False


def end_if_deaf(handler: Handler) -> None:
    """From now on, end this process if the handler of SIGTERM does not run soon after one; call it in the main thread.

    What it leaves half-made is what a kill leaves, which the next run clears away.

    Args:
        handler: what was set for SIGTERM, and sets another one as soon as it runs.
    """
    global _watching
    if _watching:
        return
    _watching = True
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a child's signals are not ours
    threading.Thread(target=_listen, args=(ear, handler), daemon=True).start()


def _listen(ear: int, handler: Handler) -> None:
    while signals := os.read(ear, 512):
        if signal.SIGTERM not in signals:
            continue
        time.sleep(PATIENCE_S)
        if signal.getsignal(signal.SIGTERM) is handler:
            # not by logging, whose lock the deaf one may hold
            os.write(2, b"stopped by SIGTERM in the middle of a computation; nothing half-made was published\n")
            os._exit(ExitCode.STOPPED)
