"""A toy stage for tests of the contract: `python tests/common/toy.py --raw DIR --out DIR ...`."""

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from stages.common.contract.command_line import main
from stages.common.contract.errors import DataError
from stages.common.contract.params import Section
from stages.common.contract.stage import Context, Delivered, Delivery, Headline, Input, Stage


class ToySection(Section):
    """Section `toy`: how many copies, the seconds after each, and a file that is waited for after the first."""

    copies: int = Field(default=1, ge=1, le=1000)
    pause: float = Field(default=0.0, ge=0)
    until: str = ""
    fault: str = ""


class Params(Section):
    """All sections."""

    toy: ToySection


def _wait_for(file: str) -> None:
    while file and not Path(file).exists():
        time.sleep(0.01)


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
    if toy.fault == "deaf":
        (context.out / "deaf").touch()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in one call
    if toy.fault == "lazy":
        return {}
    if toy.fault == "wrapped":
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])
    if toy.fault == "quota":
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(context.out / "0.txt"))
    if toy.fault == "unsaid":  # as git, which only says that it failed
        with contextlib.suppress(OSError), (context.out / "big").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        raise RuntimeError("remote end hung up")
    if toy.fault == "late":
        (context.out / "late").touch()
        _wait_for(toy.until)
    text = (context.inputs["raw"] / "a.txt").read_text()
    for number in range(toy.copies):
        (context.out / f"{number}.txt").write_text(text * 100)
        time.sleep(toy.pause)
        _wait_for(toy.until)
    return {"copies": toy.copies, "visits": len(visits.read_text())}


def _mark(_params: Params, inputs: Mapping[str, Path], _name: str) -> str:
    mark = inputs["board"] / "mark"
    return mark.read_text() if mark.exists() else ""


def _deliver(delivery: Delivery[Params]) -> Delivered:
    if not (board := delivery.inputs.get("board")):
        return Delivered()
    if delivery.params.toy.fault == "undelivered" and not (board / "tried").exists():
        (board / "tried").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if delivery.params.toy.fault == "refused":
        raise DataError("the board takes nothing")
    (board / delivery.key).write_text((delivery.artifact / "0.txt").read_text())
    return Delivered({"delivered": "yes"}, board / "report.html")


STAGE = Stage(
    name="toy",
    description="Copies a.txt.",
    params=Params,
    inputs={
        "raw": Input("a folder with a.txt", artifact=False),
        "board": Input("a folder that outlives runs", artifact=False, required=False, created=True),
    },
    outputs={"copies": ("0.txt", "the copy")},
    run=_run,
    identify=_mark,
    deliver=_deliver,
)

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main(STAGE))
