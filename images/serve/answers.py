"""Answers of the champion about pictures: from the bytes of files to answers, as stage predict makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from images.serve.champion import Served
from stages.common.images import room
from stages.common.images.decode import ImageError
from stages.common.images.preprocess import content_of, fit_square
from stages.common.images.settings import Preprocessing
from stages.common.inference.answers import answers_of
from stages.common.inference.onnx_model import OnnxModel
from stages.common.schema.face import Face

DIGITS = 6


@dataclass(frozen=True)
class Answer:
    """Answers about a picture.

    Attributes:
        reason: why the picture cannot be used (then the rest is empty); "" if it can.
        probabilities: attribute -> float32 (classes,), NaN if the attribute is never answered.
        embedding: float32 (D,).
        face: the face to which it is cropped; None with another crop.
        attributes: attribute -> answer, for JSON.
    """

    reason: str = ""
    probabilities: Mapping[str, npt.NDArray[np.float32]] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    face: Face | None = None
    attributes: Mapping[str, Any] | None = None


def answer_files(served: Served, files: Sequence[bytes]) -> list[Answer]:
    """Answer some files, in a thread.

    Raises:
        DataError: the model cannot be run.
    """
    side = served.model.image_size
    images = np.empty((len(files), side, side, 3), np.uint8)
    answers: list[Answer] = []
    usable = 0
    for file in files:
        answers.append(_prepare(file, served.preprocessing, images[usable]))
        usable += not answers[-1].reason
    if not usable:
        return answers
    probabilities, embeddings = served.model.predict_and_embed(images[:usable])
    told = _attributes(served.model, probabilities)
    rows = iter(range(usable))
    return [
        answer if answer.reason else _filled(answer, probabilities, embeddings, told, next(rows)) for answer in answers
    ]


def _prepare(file: bytes, settings: Preprocessing, image: npt.NDArray[np.uint8]) -> Answer:
    """Write the network's input of a file to `image`, (S, S, 3), and return the answer as far as it is known then."""
    try:
        if not file:
            return Answer("empty file (copy it again)")
        content = content_of(file, settings)
        image[:] = fit_square(content.picture, settings)
        return Answer(face=content.face)
    except ImageError as error:
        return Answer(str(error))
    except MemoryError:
        return Answer("too large: there is not enough memory to decode it")
    finally:
        room.claim(0)


def _filled(
    answer: Answer,
    probabilities: Mapping[str, npt.NDArray[np.float32]],
    embeddings: npt.NDArray[np.float32],
    told: Sequence[Mapping[str, Any]],
    row: int,
) -> Answer:
    found = {name: values[row] for name, values in probabilities.items()}
    return replace(answer, probabilities=found, embedding=embeddings[row], attributes=told[row])


def _attributes(model: OnnxModel, probabilities: Mapping[str, npt.NDArray[np.float32]]) -> list[dict[str, Any]]:
    """Attribute -> answer, of each picture: all at once, which takes little more time than one."""
    found: list[dict[str, Any]] = [{} for _ in probabilities[model.attributes[0].name]]
    for answer in answers_of(model.attributes, probabilities, model.calibration):
        name, classes = answer.attribute.name, answer.attribute.classes
        lowest = [round(float(value), DIGITS) for value in np.broadcast_to(answer.threshold, len(classes))]
        columns = (answer.predicted, answer.confidence, answer.answered, answer.probabilities)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for row, (predicted, confidence, answered, values) in enumerate(rows):
            if predicted == len(classes):
                why = answer.never or "the model gives no number"
                found[row][name] = {"class": None, "confidence": None, "answered": False, "why": why}
            else:
                found[row][name] = {
                    "class": classes[predicted],
                    "confidence": round(confidence, DIGITS),
                    "answered": answered,
                    "threshold": lowest[predicted],
                    "probabilities": {
                        label: round(value, DIGITS) for label, value in zip(classes, values, strict=True)
                    },
                }
    return found


def described(answer: Answer) -> dict[str, Any]:
    """An answer for JSON."""
    if answer.reason:
        return {"error": answer.reason}
    return {"attributes": answer.attributes, **({"face": answer.face._asdict()} if answer.face else {})}
