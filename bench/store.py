"""Size of the artifact store in a year of daily runs with new data, with the weekly clean-up and without.

python -m bench.store [--days N] [--lots N] [--keep TIME]

Two small stages with the real contract, cache of lots, locks and clean-up: `gather` joins the lots of the raw folder,
by hard links to the pieces in its cache, and `learn` makes a megabyte from its input. Every day one lot is added, 20
files of 20 kB, and the oldest is removed, so that the data themselves do not grow; then everything in the store is made
a day older. Every tenth day another run fails after a while. Each week `stages.archive.prune` runs.

"without" is the size of the store plus everything removed so far. No version is registered: each would stay for ever.
"""

import argparse
import contextlib
import hashlib
import io
import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from bench.machine import table
from stages.archive.prune import Sizes, prune
from stages.common.contract.artifacts import file_digest, link_or_copy
from stages.common.contract.command_line import main as run_stage
from stages.common.contract.errors import DataError
from stages.common.contract.params import ParamsT, Section
from stages.common.contract.stage import Context, Headline, Input, Stage
from stages.common.images.sources import Source, find_source
from stages.common.workers.lot_cache import Recipe, take_lots

DAY = 86400
FILES, BYTES = 20, 20_000
PIECE = "joined.bin"


class LearnSection(Section):
    """Section `learn`."""

    fails: bool
    seed: int = Field(ge=0)


class Nothing(Section):
    """No section."""


class Params(Section):
    """The sections that stage `learn` reads."""

    learn: LearnSection


def _read(paths: Sequence[str]) -> bytes:
    return b"".join(Path(path).read_bytes() for path in paths)


def _write(folder: Path, results: Iterable[tuple[Sequence[Source], bytes]]) -> None:
    (folder / PIECE).write_bytes(b"".join(content for _, content in results))


RECIPE: Recipe[Sequence[str], bytes, Path] = Recipe(
    "gather", {}, FILES, lambda _folder, images, _start: [image.path for image in images], _read, _write,
    lambda folder, _images: folder / PIECE,
)  # fmt: skip


def _gather(context: Context[Nothing]) -> Headline:
    lots = {
        lot.name: [find_source(file.name, file, file_digest) for file in sorted(lot.iterdir())]
        for lot in sorted(context.inputs["raw"].iterdir())
    }
    taken = take_lots(RECIPE, lots, context.cache, 1)
    for lot, piece in taken.pieces.items():
        link_or_copy(piece, context.out / "lots" / f"{lot}.bin")
    return {"lots": len(lots), "made": len(taken.made)}


def _learn(context: Context[Params]) -> Headline:
    digest = hashlib.sha256()
    for file in sorted((context.inputs["gather"] / "lots").iterdir()):
        digest.update(file.read_bytes())
    weights = random.Random(digest.digest()).randbytes(10**6)  # noqa: S311 - no secret
    if context.params.learn.fails:
        (context.state / "checkpoint").write_bytes(weights)
        raise DataError("it fails now and then")
    (context.out / "model.bin").write_bytes(weights)
    return {"bytes": len(weights)}


GATHER = Stage("gather", "Joins lots.", Nothing, {"raw": Input("lots", artifact=False)}, {}, _gather)
LEARN = Stage("learn", "Makes a megabyte.", Params, {"gather": Input("lots, joined")}, {}, _learn)


def add_lot(raw: Path, day: int) -> None:
    """Write the lot of a day."""
    folder = raw / f"lot{day:04}"
    folder.mkdir(parents=True)
    for number in range(FILES):
        (folder / f"{number}.bin").write_bytes(random.Random(day * FILES + number).randbytes(BYTES))  # noqa: S311


def make_older(store: Path) -> None:
    """Make everything in the store a day older."""
    for folder, folders, files in os.walk(store):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - a million times
            time = os.lstat(path).st_mtime - DAY
            os.utime(path, (time, time), follow_symlinks=False)


def run(stage: Stage[ParamsT], store: Path, *arguments: str) -> None:
    """Run a stage without output."""
    with contextlib.redirect_stdout(io.StringIO()):
        run_stage(stage, ["--store", str(store), *arguments])


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365, help="default: %(default)s")
    parser.add_argument("--lots", type=int, default=30, help="in the raw folder at a time; default: %(default)s")
    parser.add_argument("--keep", default="30d", help="default: %(default)s")
    arguments = parser.parse_args()
    rows, removed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        raw, store, params = Path(folder, "raw"), Path(folder, "store"), Path(folder, "params.yaml")
        params.write_text("learn: {fails: false, seed: 0}\n", encoding="utf-8")
        for day in range(arguments.lots):
            add_lot(raw, day)
        for day in range(1, arguments.days + 1):
            add_lot(raw, arguments.lots + day - 1)
            shutil.rmtree(raw / f"lot{day - 1:04}")
            run(GATHER, store, "--raw", str(raw), "--params", str(params))
            newest = max((store / "gather").glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime)
            given = ("--gather", str(newest), "--params", str(params))
            run(LEARN, store, *given)
            if day % 10 == 0:
                run(LEARN, store, *given, "--set", "learn.fails=true")
            make_older(store)
            if day % 7 == 0:
                removed += prune(store, arguments.keep).removed_bytes
            if day % 28 == 0 or day == arguments.days:
                size = Sizes().kept(store)
                files = sum(len(names) for _, _, names in os.walk(store))
                rows.append((day, f"{size / 1e6:.1f}", f"{files:,}", f"{(size + removed) / 1e6:.1f}"))
    print(table(("day", "MB with clean-up", "files", "MB without"), rows))


if __name__ == "__main__":
    main()
