"""The cache of lots: the piece of a lot is made once, stored under a key of all that decides it, and reused.

A piece is a folder `<cache>/<key>/` with the files that the stage's recipe writes, and manifest.json with their
digests. The time of manifest.json is the last time that the piece was made or used.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from stages.common.contract import artifacts
from stages.common.contract.errors import DataError
from stages.common.contract.logs import Progress, log
from stages.common.contract.version import stage_version
from stages.common.images.sources import Source
from stages.common.workers.pool import WorkerPool, useful_workers

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
PieceT = TypeVar("PieceT")


@dataclass(frozen=True)
class Recipe(Generic[JobT, ResultT, PieceT]):
    """The recipe by which a stage makes the piece of a lot.

    Attributes:
        stage: its name.
        decides: inputs of a piece beside the stage's version and the lot's images, JSON-like.
        chunk: images per job.
        job: (folder of the piece, images of the lot, position of the first image) -> the job of a worker process for
            the next `chunk` images.
        do: does a job in a worker.
        write: (folder, the images of every job with its result, in order); writes the files of the piece. Results
            arrive while it iterates.
        read: (folder, images of the lot) -> the piece.
        burden: cost of an image beside its decoding, as the number of bytes of image files that take as long to decode.
    """

    stage: str
    decides: Mapping[str, Any]
    chunk: int
    job: Callable[[Path, Sequence[Source], int], JobT]
    do: Callable[[JobT], ResultT]
    write: Callable[[Path, Iterable[tuple[Sequence[Source], ResultT]]], None]
    read: Callable[[Path, Sequence[Source]], PieceT]
    burden: int = 0


@dataclass(frozen=True)
class Lots(Generic[PieceT]):
    """The pieces of some lots.

    Attributes:
        pieces: lot -> its piece.
        made: the lots whose piece was not cached.
        images_per_s: images a second of these; None if there are none.
    """

    pieces: dict[str, PieceT]
    made: frozenset[str]
    images_per_s: float | None

    @property
    def reused(self) -> frozenset[str]:
        """The lots whose piece was cached."""
        return frozenset(self.pieces) - self.made


@dataclass(frozen=True)
class _Begun:
    """A lot in work: the contexts that end with it, the folder of its piece, and the images of each job."""

    ends: contextlib.ExitStack
    lock: artifacts.Lock
    folder: Path
    partial: Path
    chunks: list[Sequence[Source]]


def take_lots(
    recipe: Recipe[JobT, ResultT, PieceT], lots: Mapping[str, Sequence[Source]], cache: Path, workers: int
) -> Lots[PieceT]:
    """The piece of every lot, from the cache or made now.

    Args:
        recipe: the recipe of the pieces.
        lots: lot -> its images, at least one.
        cache: `LotsContext.cache`.
        workers: greatest number of processes; 0 means one per available core.

    Raises:
        TryAgainError: a file changed while it was being read.
        UnavailableError: a worker process was killed, nearly always for memory.
    """
    folders = _folders(recipe, lots, cache)
    pieces = {lot: _read(recipe, folder, lots[lot]) for lot, folder in folders.items()}
    made = frozenset(lot for lot, piece in pieces.items() if piece is None)
    todo = {folders[lot]: lots[lot] for lot in lots if lot in made}
    count = sum(map(len, todo.values()))
    size = sum(image.size + recipe.burden for images in todo.values() for image in images)
    start = time.monotonic()
    with WorkerPool(useful_workers(workers, size), f"{recipe.stage}.workers") as pool:
        make_pieces(recipe, todo, pool)
    seconds = time.monotonic() - start
    rate = count / seconds if made else None
    if rate:
        log.info("%d files in %.1f s, %.0f/s", count, seconds, rate)
    log.info("%d lots: %d new or changed, %d known", len(lots), len(made), len(lots) - len(made))
    whole = {lot: recipe.read(folders[lot], lots[lot]) if piece is None else piece for lot, piece in pieces.items()}
    return Lots(whole, made, rate)


def new_lots(recipe: Recipe[Any, Any, Any], lots: Mapping[str, Sequence[Source]], cache: Path) -> dict[str, int]:
    """Lots without a piece in the cache -> their images. A damaged piece is only noticed when it is read."""
    return {lot: len(lots[lot]) for lot, folder in _folders(recipe, lots, cache).items() if not folder.exists()}


def make_pieces(recipe: Recipe[JobT, ResultT, Any], lots: Mapping[Path, Sequence[Source]], pool: WorkerPool) -> None:
    """Make the pieces of lots; the folder of each appears whole or not at all.

    One stream of jobs goes through all lots: workers begin the next lot while a piece is written, and do not wait for
    each other at its end. Two runs that need the same piece at the same time make it once: the second waits for it.
    They begin lots in the order of the folders' names, so they cannot wait for each other.
    """
    progress = Progress(sum(map(len, lots.values())), "images")
    begun = deque[_Begun]()

    def jobs() -> Iterator[JobT]:
        for folder, images in sorted(lots.items()):
            lot = _begin(recipe, folder, images)
            if not lot:  # another run has made it meanwhile
                progress.advance(len(images))
                continue
            begun.append(lot)
            yield from (recipe.job(lot.partial, images, start) for start in range(0, len(images), recipe.chunk))

    def counted(
        chunks: Sequence[Sequence[Source]], results: Iterable[ResultT]
    ) -> Iterator[tuple[Sequence[Source], ResultT]]:
        for chunk, result in zip(chunks, results, strict=False):  # later results belong to another lot
            yield chunk, result
            progress.advance(len(chunk))

    results = pool.map(recipe.do, jobs())
    try:
        for first in results:
            lot = begun.popleft()
            with lot.ends:
                recipe.write(lot.partial, counted(lot.chunks, chain([first], results)))
                artifacts.write_manifest(lot.partial, stage=recipe.stage, key=lot.folder.name)
                artifacts.publish(lot.partial, lot.folder, lot.lock)
    finally:
        for lot in begun:
            lot.ends.close()


def _folders(recipe: Recipe[Any, Any, Any], lots: Mapping[str, Sequence[Source]], cache: Path) -> dict[str, Path]:
    """Folder of the piece of every lot, which may be absent."""
    version = stage_version(recipe.stage)
    return {lot: cache / _key(recipe, version, images) for lot, images in lots.items()}


def _key(recipe: Recipe[Any, Any, Any], version: str, images: Sequence[Source]) -> str:
    """The key (64 hex digits) of a lot's piece."""
    files = [[image.filename, image.digest] for image in images]
    return artifacts.json_digest({"version": version, "decides": recipe.decides, "files": files})


def _read(recipe: Recipe[Any, Any, PieceT], folder: Path, images: Sequence[Source]) -> PieceT | None:
    """The piece of a lot; None if there is none, or, with a warning, if it is damaged."""
    if not folder.exists():
        return None
    try:
        artifacts.read_manifest(folder)
    except DataError as error:
        log.warning("a cached lot cannot be used and is computed again: %s", error)
        return None
    with contextlib.suppress(OSError):  # the time of its last use, for the clean-up
        os.utime(folder / artifacts.MANIFEST)
    return recipe.read(folder, images)


def _begin(recipe: Recipe[Any, Any, Any], folder: Path, images: Sequence[Source]) -> _Begun | None:
    """Lock a lot and begin it; None if its piece is there."""
    with contextlib.ExitStack() as ends:
        wait = artifacts.locked(artifacts.lock_of(folder), "another run is computing the same lot")
        lock = ends.enter_context(wait)
        if _read(recipe, folder, images) is not None:
            return None
        partial = ends.enter_context(artifacts.making(folder, lock))
        chunks = [images[start : start + recipe.chunk] for start in range(0, len(images), recipe.chunk)]
        return _Begun(ends.pop_all(), lock, folder, partial, chunks)
