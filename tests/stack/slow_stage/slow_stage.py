"""A stage that writes a word, as slowly as it is asked to, and leaves a trace of who wrote, in order."""

import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.contract.params import Section
from stages.common.contract.stage import Context, Headline, Input, LotsContext, RawFiles, Stage


class Slow(Section):
    """Section `slow_stage`."""

    word: str
    seconds: float


class Params(Section):
    """All sections."""

    slow_stage: Slow


def _work(cache: Path, name: str, seconds: float) -> None:
    """Write the container's name to a trace ten times a second, until the time is over or the test releases it."""
    deadline = time.monotonic() + seconds
    while True:
        with (cache / f"trace-{name}").open("a") as file:
            file.write(f"{socket.gethostname()}\n")
        if time.monotonic() >= deadline or (cache / f"release-{name}").exists():
            return
        time.sleep(0.1)


def _run(context: Context[Params]) -> Headline:
    slow = context.params.slow_stage
    _work(context.cache, slow.word, slow.seconds)
    (context.out / "word.txt").write_text(slow.word)
    return {"word": slow.word}


def _run_lots(context: LotsContext[Params], lots: Sequence[str]) -> Headline:
    slow, reused = context.params.slow_stage, 0
    for lot in lots:
        piece = context.cache / f"{slow.word}-{lot}"
        with artifacts.locked(piece.with_name(f".lock-{piece.name}")):  # as stages/common/workers/lot_cache.py does it
            if piece.exists():
                reused += 1
                continue
            _work(context.cache, piece.name, slow.seconds)
            artifacts.write_json(piece, {"lot": lot, "by": socket.gethostname()})
    return {"lots": len(lots), "lots_reused": reused}


STAGE = Stage(
    name="slow_stage",
    description="Writes a word slowly.",
    params=Params,
    inputs={"raw": Input("any folder", artifact=False)},
    outputs={"word": ("word.txt", "the word")},
    run=_run,
    raw_files=lambda _params, _inputs, _name: RawFiles(()),
    run_lots=_run_lots,
)

if __name__ == "__main__":
    sys.exit(main(STAGE))
