"""A toy stage for tests of the contract: `python tests/common/toy.py --raw DIR --out DIR ...`."""

import os
import signal
import sys
import time
from pathlib import Path

from pydantic import Field

from stages.common.params import Section
from stages.common.stage import Context, Headline, Input, Stage, main


class ToySection(Section):
    """Section `toy`."""

    copies: int = Field(default=1, ge=1, le=1000)
    pause: float = Field(default=0.0, ge=0)
    fault: str = ""


class Params(Section):
    """All sections."""

    toy: ToySection


def _run(context: Context[Params]) -> Headline:
    toy = context.params.toy
    visits = context.state / "visits"
    visits.write_text((visits.read_text() if visits.exists() else "") + "x")
    if toy.fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if toy.fault == "die-once" and len(visits.read_text()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if toy.fault == "defect":
        raise ZeroDivisionError
    text = (context.inputs["raw"] / "a.txt").read_text()
    for number in range(toy.copies):
        (context.out / f"{number}.txt").write_text(text * 100)
        time.sleep(toy.pause)
    return {"copies": toy.copies, "visits": len(visits.read_text())}


STAGE = Stage(
    name="toy",
    description="Copies a.txt.",
    params=Params,
    inputs={"raw": Input("a folder with a.txt", artifact=False)},
    outputs={"copies": ("0.txt", "the copy")},
    run=_run,
)

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main(STAGE))
