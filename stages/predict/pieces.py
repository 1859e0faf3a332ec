"""Predictions for one lot, as `stages.common.workers.lot_cache` stores them.

features.npz     `stages.common.inference.features.Features` of the lot's pictures; absent if there is none
predictions.csv  answers, of a version named in version.txt, so that a cached lot is not written anew
undecodable.csv  filename, reason
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.common.contract.tables import write_csv
from stages.common.images.faces import FACE_BYTES
from stages.common.images.preprocess import prepare
from stages.common.images.settings import Preprocessing
from stages.common.images.sources import Source
from stages.common.inference.answers import Answers, answers_of
from stages.common.inference.features import Features, evenly_spread, join_features
from stages.common.inference.observation import observe_batch
from stages.common.inference.onnx_model import OnnxModel, load
from stages.common.registry.seen import picture_of
from stages.common.schema.face import NO_FACES, Face
from stages.common.workers.lot_cache import Recipe

FEATURES = "features.npz"
PREDICTIONS = "predictions.csv"
VERSION = "version.txt"
UNDECODABLE = "undecodable.csv"
INFERENCE_BYTES = 3600
"""Cost of inference, as the number of bytes that take as long to decode: 0.54 ms."""


class AnswerJob(NamedTuple):
    """Some images, the model that answers them, the largest picture, and the names of those to keep whole."""

    model: Path
    model_digest: str
    max_megapixels: float
    sources: Sequence[Source]
    examples: frozenset[str]


class Answered(NamedTuple):
    """Result of a job: features of its pictures, None without any, and filename -> reason of the other images."""

    features: Features | None
    undecodable: dict[str, str]


@dataclass(frozen=True)
class Piece:
    """The cached piece of one lot.

    Attributes:
        features: file with the features of its pictures; None without pictures.
        predictions: file with the answers.
        version: name of the model in that file, from the time when the piece was made.
        undecodable: filename -> reason.
        images: number of pictures.
    """

    features: Path | None
    predictions: Path
    version: str
    undecodable: dict[str, str]
    images: int


def recipe_of(
    model: Path, model_digest: str, max_megapixels: float, batch_size: int, version: str
) -> Recipe[AnswerJob, Answered, Piece]:
    """Recipe of the answers of a lot.

    Args:
        model: the file.
        model_digest: its SHA-256, part of the key: the same model under another name gives the same answers.
        max_megapixels: larger pictures are not decoded, independently of the model's settings.
        batch_size: images per job.
        version: name of the model, not part of the key, for a model may be archived again under another name.
    """

    def job(_folder: Path, images: Sequence[Source], start: int) -> AnswerJob:
        examples = frozenset(images[position].filename for position in evenly_spread(len(images)))
        return AnswerJob(model, model_digest, max_megapixels, images[start : start + batch_size], examples)

    decides = {"model": model_digest, "max_megapixels": max_megapixels}
    loaded = load_once(model, model_digest)
    burden = INFERENCE_BYTES + FACE_BYTES * (loaded.preprocessing.crop == "face")
    return Recipe("predict", decides, batch_size, job, answer_images, partial(_write, loaded, version), _read, burden)


@lru_cache(maxsize=1)
def load_once(model: Path, model_digest: str) -> OnnxModel:  # noqa: ARG001 - the same path may lead to another model later
    """The model, loaded once per process; it computes in one thread, for every core has its process."""
    return load(model, threads=1)


def limited(settings: Preprocessing, max_megapixels: float) -> Preprocessing:
    """The preprocessing of training, with our own limit on pictures, which a model must not raise."""
    return settings.model_copy(update={"max_megapixels": min(settings.max_megapixels, max_megapixels)})


def answer_images(job: AnswerJob) -> Answered:
    """Answer some images, in a worker process.

    Raises:
        TryAgainError: a file changed while it was being read.
    """
    model = load_once(job.model, job.model_digest)
    settings = limited(model.preprocessing, job.max_megapixels)
    side = model.image_size
    images = np.empty((len(job.sources), side, side, 3), np.uint8)
    names: list[str] = []
    pictures: list[int] = []
    faces: list[Face] = []
    undecodable: dict[str, str] = {}
    for source in job.sources:
        content, image, pixels, face, reason = prepare(source.path, settings)
        source.require_unchanged(content)
        if image is None:
            undecodable[source.filename] = reason
            continue
        images[len(names)] = image
        names.append(source.filename)
        pictures.append(picture_of(pixels))
        if face:
            faces.append(face)
    features = observe_batch(model, names, images[: len(names)], job.examples, pictures, faces) if names else None
    return Answered(features, undecodable)


def answers_in(model: OnnxModel, features: Features | None) -> list[Answers]:
    """A model's answers about the pictures of a lot; None without any."""
    none = {attribute.name: np.empty((0, len(attribute.classes)), np.float32) for attribute in model.attributes}
    return answers_of(model.attributes, features.probabilities if features else none, model.calibration)


def write_answers(path: Path, model: OnnxModel, version: str, features: Features | None) -> None:
    """Write the predictions.csv of a lot."""
    from stages.common.inference.predictions import write_predictions  # imports pandas, which no worker needs

    faces = features.faces if features else NO_FACES
    cut_out = faces if model.preprocessing.crop == "face" else None
    write_predictions(path, features.filenames if features else [], answers_in(model, features), version, cut_out)


def _write(model: OnnxModel, version: str, folder: Path, done: Iterable[tuple[Sequence[Source], Answered]]) -> None:
    batches = [batch for _, batch in done]
    parts = [batch.features for batch in batches if batch.features]
    features = join_features(parts) if parts else None
    if features:
        features.save(folder / FEATURES)
    write_answers(folder / PREDICTIONS, model, version, features)
    (folder / VERSION).write_text(version, encoding="utf-8")
    rows = [row for batch in batches for row in batch.undecodable.items()]
    write_csv(folder / UNDECODABLE, ("filename", "reason"), rows)


def _read(folder: Path, images: Sequence[Source]) -> Piece:
    with (folder / UNDECODABLE).open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    features = folder / FEATURES
    version = (folder / VERSION).read_text(encoding="utf-8")
    kept = features if features.exists() else None
    return Piece(kept, folder / PREDICTIONS, version, dict(rows), len(images) - len(rows))
