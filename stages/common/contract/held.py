"""Ends a stage that nobody waits for any more: the task that runs its container holds its standard input open."""

import contextlib
import os
import signal
import threading

from stages.common.contract.logs import log

ENDS_WITH_STDIN = "FACE_ATTRIBUTES_ENDS_WITH_STDIN"
"""Variable that `dags/stage_operator/` sets: the container's input stays open until the task that made it is gone."""


def end_with_stdin() -> None:
    """End this process like a SIGTERM at the end of its standard input, if the environment asks for that.

    No process that the stage starts gets that input: nothing is ever written to it, so the process would wait.
    """
    if os.environ.get(ENDS_WITH_STDIN):
        held = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        threading.Thread(target=_wait_for_end, args=(held,), daemon=True).start()


def _wait_for_end(held: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(held, 4096):
            pass
    log.warning("the task that ran this stage is gone: stopping")
    os.kill(os.getpid(), signal.SIGTERM)
