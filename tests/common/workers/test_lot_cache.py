"""A stage makes its part of a lot once: whole or not at all, by one of two runs, and again only if it must."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from stages.common.contract.artifacts import file_digest
from stages.common.contract.errors import TryAgainError
from stages.common.images.sources import Source, find_source
from stages.common.workers.lot_cache import Lots, Recipe, make_pieces, take_lots
from stages.common.workers.pool import WorkerPool
from tests.waiting import wait_until


class Job(NamedTuple):
    """Files to read, slowly, and the file that tells that they were."""

    paths: list[Path]
    done: Path
    pause: float


def shout(job: Job) -> list[str]:
    for path in job.paths:
        with job.done.open("a") as file:
            file.write(f"{path.name}\n")
        time.sleep(job.pause)
    return [path.read_text().upper() for path in job.paths]


Said = dict[str, str]
"""The piece of a lot: file name -> its text, loud."""


def recipe_of(done: Path, chunk: int = 2, pause: float = 0, decides: str = "") -> Recipe[Job, list[str], Said]:
    def job(folder: Path, images: Sequence[Source], start: int) -> Job:
        assert folder.is_dir()
        return Job([Path(image.path) for image in images[start : start + chunk]], done, pause)

    def write(folder: Path, results: Iterable[tuple[Sequence[Source], list[str]]]) -> None:
        said = {}
        for images, texts in results:
            for image, text in zip(images, texts, strict=True):
                image.require_unchanged(file_digest(Path(image.path)))
                said[image.filename] = text
        (folder / "said.json").write_text(json.dumps(said))

    def read(folder: Path, images: Sequence[Source]) -> Said:
        said: Said = json.loads((folder / "said.json").read_text())
        assert list(said) == [image.filename for image in images]
        return said

    return Recipe("toy", {"decides": decides}, chunk, job, shout, write, read)


class Data:
    """Lots of small files, and what was done with them."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.cache, self.log = folder / "raw", folder / "cache", folder / "done"
        self.cache.mkdir()
        self.lots: dict[str, list[Source]] = {}
        for lot, size in (("a", 5), ("b", 1), ("c", 4)):
            for number in range(size):
                self.write(f"{lot}/{lot}{number}", f"{lot} says {number}")

    def write(self, name: str, text: str) -> None:
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        lot = self.lots.setdefault(path.parent.name, [])
        lot[:] = [source for source in lot if source.path != str(path)] + [find_source(path.name, path, file_digest)]
        lot.sort(key=lambda source: source.filename)

    def take(self, decides: str = "") -> Lots[Said]:
        return take_lots(recipe_of(self.log, decides=decides), self.lots, self.cache, 0)

    def done(self) -> list[str]:
        """Names of the files that were read since the last call."""
        names = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return sorted(names)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


@pytest.mark.parametrize("size", [1, 10**9])
def test_pieces_are_whole_and_in_the_order_of_the_lots(data: Data, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr("stages.common.workers.pool.WORKER_BYTES", size)  # several processes, or one
    lots = data.take()
    assert list(lots.pieces) == ["a", "b", "c"]
    assert list(lots.pieces["a"].items()) == [(f"a{number}", f"A SAYS {number}") for number in range(5)]
    assert sorted(lots.made) == ["a", "b", "c"]
    assert lots.images_per_s


def test_a_lot_is_done_again_only_if_something_changed_that_decides_it(data: Data) -> None:
    first = data.take()
    data.done()
    again = data.take()
    assert again.pieces == first.pieces
    assert (sorted(again.reused), again.images_per_s, data.done()) == (["a", "b", "c"], None, [])
    data.write("b/b0", "other")
    changed = data.take()
    assert (list(changed.made), changed.pieces["b"], data.done()) == (["b"], {"b0": "OTHER"}, ["b0"])
    assert data.take("otherwise").made == {"a", "b", "c"}


def test_lots_with_the_same_files_share_a_piece(data: Data) -> None:
    data.lots["like b"] = data.lots["b"]
    lots = data.take()
    assert lots.pieces["like b"] == lots.pieces["b"]
    assert data.done().count("b0") == 1


def test_a_damaged_piece_is_said_and_done_again(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    before = data.take()
    data.done()
    piece = next(path for path in data.cache.glob("*/said.json") if "b0" in path.read_text())
    piece.write_text(piece.read_text().replace("B", "Z"))
    assert data.take().pieces == before.pieces
    assert data.done() == ["b0"]
    assert f"cannot be used and is computed again: {piece} is damaged" in caplog.text


def test_a_file_that_changed_spoils_its_lot_alone_and_leaves_nothing_of_it(data: Data) -> None:
    (data.raw / "c" / "c1").write_text("changed since it was listed")
    with pytest.raises(TryAgainError, match="c1 changed while"):
        data.take()
    assert not list(data.cache.glob(".partial-*"))
    data.write("c/c1", "mended")
    assert data.take().pieces["c"]["c1"] == "MENDED"


def take_slowly(lots: dict[str, list[Source]], cache: Path, log: Path, pause: float) -> None:
    recipe = recipe_of(log, chunk=1, pause=pause)
    with WorkerPool(1, "toy.workers") as pool:
        make_pieces(recipe, {cache / lot: images for lot, images in lots.items()}, pool)


@pytest.mark.slow
def test_of_two_runs_that_need_the_same_one_does_it_also_after_a_kill(data: Data) -> None:
    spawn = multiprocessing.get_context("spawn")
    names = sorted(path.name for path in data.raw.glob("*/*"))
    killed = spawn.Process(target=take_slowly, args=(data.lots, data.cache, data.log, 3600))
    killed.start()
    wait_until(data.log.exists, "its first file")
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join()
    assert not list(data.cache.glob("[!.]*"))
    data.done()

    backwards = dict(reversed(data.lots.items()))
    both = [
        spawn.Process(target=take_slowly, args=(lots, data.cache, data.log, 0.1)) for lots in (data.lots, backwards)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert data.done() == names
    assert not list(data.cache.glob(".partial-*"))
