"""What a model says about one lot: made once, kept in the stage's cache under a key of all that decides it.

A cached piece is `<cache>/<key>/` with
    features.npz     `stages.common.inference.features.Features` of the lot's pictures; absent if there is none
    undecodable.csv  filename, reason
    manifest.json    digests of both
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.common.contract import artifacts
from stages.common.contract.errors import DataError
from stages.common.contract.logs import Progress, log
from stages.common.contract.tables import write_csv
from stages.common.images.decode import ImageError, read_image_file
from stages.common.images.preprocess import content_of, fit
from stages.common.images.settings import Preprocessing
from stages.common.images.sources import Source
from stages.common.inference.features import Features, evenly_spread, join_features
from stages.common.inference.observation import Images, observe_batch
from stages.common.inference.onnx_model import OnnxModel, load
from stages.common.registry.seen import picture_of
from stages.common.workers.pool import WorkerPool

FEATURES = "features.npz"
UNDECODABLE = "undecodable.csv"


class Job(NamedTuple):
    """Some images, the model that answers them, the largest picture, and the names of those to keep whole."""

    model: Path
    model_digest: str
    max_megapixels: float
    sources: Sequence[Source]
    examples: frozenset[str]


class Answered(NamedTuple):
    """What becomes of a job: features of its pictures, None without any, and filename -> reason of the other images."""

    features: Features | None
    undecodable: dict[str, str]


@dataclass(frozen=True)
class Piece:
    """The cached piece of one lot.

    Attributes:
        features: file with those of its pictures; None if there is none.
        undecodable: filename -> reason.
        images: how many pictures there are.
    """

    features: Path | None
    undecodable: dict[str, str]
    images: int


def piece_key(version: str, model_digest: str, max_megapixels: float, sources: Sequence[Source]) -> str:
    """The key (64 hex digits) of a lot's piece.

    Args:
        version: of the stage.
        model_digest: of the model, not the name of its version: the same model under another name says the same.
        max_megapixels: of the largest picture.
        sources: the lot's images.
    """
    images = [[source.filename, source.digest] for source in sources]
    decides = {"version": version, "model": model_digest, "max_megapixels": max_megapixels, "images": images}
    return artifacts.json_digest(decides)


@lru_cache(maxsize=1)
def load_once(model: Path, model_digest: str) -> OnnxModel:  # noqa: ARG001 - the same path may lead to another model later
    """The model, loaded once a process, and computing in one thread: every core has its process."""
    return load(model, threads=1)


def limited(settings: Preprocessing, max_megapixels: float) -> Preprocessing:
    """How images were prepared in training, with a limit of our own: what a model says must not lift it."""
    return settings.model_copy(update={"max_megapixels": min(settings.max_megapixels, max_megapixels)})


def answer_images(job: Job) -> Answered:
    """Answer some images; this is what a worker process runs.

    Raises:
        TryAgainError: a file changed while it was being read.
    """
    model = load_once(job.model, job.model_digest)
    settings = limited(model.preprocessing, job.max_megapixels)
    side = model.image_size
    images = np.empty((len(job.sources), side, side, 3), np.uint8)
    names: list[str] = []
    pictures: list[int] = []
    undecodable: dict[str, str] = {}
    for source in job.sources:
        pixels, reason = _prepare(source, settings, images[len(names)])
        if reason:
            undecodable[source.filename] = reason
        else:
            names.append(source.filename)
            pictures.append(picture_of(pixels))
    features = observe_batch(model, names, images[: len(names)], job.examples, pictures) if names else None
    return Answered(features, undecodable)


def _prepare(source: Source, settings: Preprocessing, image: Images) -> tuple[str, str]:
    """Make the network's input of a file in `image`, (S, S, 3): the digest of its picture, or why it has none.

    In a function of its own, so that its picture is gone before the next is decoded: of two, the C library returns
    memory to the system after each file, and getting it back takes time.
    """
    content = pixels = reason = ""
    try:
        data = read_image_file(source.path, settings)
        content = hashlib.sha256(data).hexdigest()
        picture, pixels = content_of(data, settings)
        image[:] = fit(picture, settings)
    except ImageError as error:
        reason = str(error)
    source.require_unchanged(content)
    return pixels, reason


def read_piece(folder: Path, files: int) -> Piece | None:
    """Read the cached piece of a lot of so many files; None if there is none, or if it is damaged, which is said."""
    if not folder.exists():
        return None
    try:
        artifacts.read_manifest(folder)
    except DataError as error:
        log.warning("a cached lot cannot be used and is predicted again: %s", error)
        return None
    with (folder / UNDECODABLE).open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    features = folder / FEATURES
    return Piece(features if features.exists() else None, dict(rows), files - len(rows))


def make_pieces(
    lots: Mapping[Path, Sequence[Source]],
    model: Path,
    model_digest: str,
    max_megapixels: float,
    batch_size: int,
    pool: WorkerPool,
) -> Iterator[Piece]:
    """Answer the images of some lots: the pieces in the order of `lots`.

    One stream of jobs through all lots, for at the end of each lot of 250 images the processes would wait for each
    other: 6 % of the time.

    Args:
        lots: folder of a piece -> the images of its lot.
        model: the file.
        model_digest: SHA-256 of it.
        max_megapixels: larger pictures are not decoded, whatever the model says.
        batch_size: images a job.
        pool: who does the jobs.

    Raises:
        TryAgainError: a file changed while it was being read.
    """
    progress = Progress(sum(map(len, lots.values())), "images")
    jobs = {folder: _jobs(sources, model, model_digest, max_megapixels, batch_size) for folder, sources in lots.items()}
    answers = pool.map(answer_images, (job for of_lot in jobs.values() for job in of_lot))
    for folder, of_lot in jobs.items():
        batches = []
        for job in of_lot:
            batches.append(next(answers))
            progress.advance(len(job.sources))
        yield _keep(folder, batches, len(lots[folder]))


def _jobs(
    sources: Sequence[Source], model: Path, model_digest: str, max_megapixels: float, batch_size: int
) -> list[Job]:
    examples = frozenset(sources[position].filename for position in evenly_spread(len(sources)))
    starts = range(0, len(sources), batch_size)
    return [Job(model, model_digest, max_megapixels, sources[start : start + batch_size], examples) for start in starts]


def _keep(folder: Path, batches: Iterable[Answered], files: int) -> Piece:
    """Write a piece, which appears whole or not at all; of two runs that have made the same, the first has written it.

    Returns:
        The piece as it lies in `folder`.
    """
    with artifacts.locked(folder.with_name(f".lock-{folder.name}"), "another run is keeping the same lot") as lock:
        if piece := read_piece(folder, files):
            return piece
        with artifacts.making(folder, lock) as partial:
            if features := [batch.features for batch in batches if batch.features]:
                join_features(features).save(partial / FEATURES)
            rows = [row for batch in batches for row in batch.undecodable.items()]
            write_csv(partial / UNDECODABLE, ("filename", "reason"), rows)
            artifacts.write_manifest(partial, stage="predict", key=folder.name)
            artifacts.publish(partial, folder, lock)
    piece = read_piece(folder, files)
    assert piece is not None  # noqa: S101 (for mypy: it was just written)
    return piece
