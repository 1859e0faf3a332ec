"""The exported model: checked when it is loaded, and run with ONNX Runtime.

Input `images` uint8 (N, S, S, 3) RGB. Outputs: one per attribute, named by it, float32 (N, classes) of probabilities;
and `embedding` float32 (N, D), the network's features averaged over the image, D as the model says.
The metadata key `face_attributes` holds JSON:
{"attributes": [{"name": ..., "classes": [...], "column": ..., "title": ...}], "image_size": S, "preprocessing": {...},
"temperatures": {name: divisor of the logits}, "abstention": {name: lowest confidence of an answer},
"learned": {name: [classes that training has seen]}, "decision": {name: [offset of each class, added to the logarithm of
its probability before the highest is taken]}, "decided_by": {name: goal of these offsets}}. The lowest confidence is
one number, or a list with one per class. A class that training has not seen has probability 0. An attribute with fewer
than two seen classes is never answered, and its probabilities are NaN. Models of earlier code have {name: [classes]}
for the attributes, do not list seen classes (training had seen all), and answer with the most probable class.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime
from pydantic import Field, TypeAdapter, ValidationError

from stages.common.contract.artifacts import reading
from stages.common.contract.cpus import available_cpus
from stages.common.contract.errors import DataError
from stages.common.contract.params import Section
from stages.common.images.settings import Preprocessing
from stages.common.inference.calibration import Calibration
from stages.common.inference.decision import ACCURACY, lowest_confidence
from stages.common.inference.onnx_operators import require_known_operators
from stages.common.schema.attributes import Attributes, names
from stages.common.schema.learned import all_learned, is_answered

METADATA = "face_attributes"
INPUT = "images"
EMBEDDING = "embedding"
ANY = "any number"
"""Stands for the number of images in a shape."""
SectionT = TypeVar("SectionT", bound=Section)
_ATTRIBUTES = TypeAdapter(Annotated[Attributes, Field(min_length=1)])
_RUNTIME_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (/\S+ [^)]*\) )?")
"""Error number and C++ function in front of a message of ONNX Runtime."""


@dataclass(frozen=True)
class OnnxModel:
    """A loaded model.

    Attributes:
        session: the ONNX Runtime session.
        attributes: the answered attributes, in their order.
        image_size: side S of the square images in pixels.
        preprocessing: how its images were prepared in training.
        calibration: its temperatures (already part of its probabilities), thresholds and decision rules.
        path: its file, for messages.
    """

    session: Any
    attributes: Attributes
    image_size: int
    preprocessing: Preprocessing
    calibration: Calibration
    path: Path

    @property
    def answered(self) -> list[str]:
        """Names of the attributes that it answers: training has seen at least two of their classes."""
        return [name for name in names(self.attributes) if is_answered(self.calibration.learned[name])]

    @property
    def lowest_confidences(self) -> dict[str, float]:
        """Attribute -> the least possible confidence of an answer, rounded down to the four digits of the file."""
        lowest = {
            attribute.name: lowest_confidence(attribute, self.calibration.decision[attribute.name])
            for attribute in self.attributes
        }
        return {name: math.floor(value * 1e4) / 1e4 for name, value in lowest.items()}

    def predict(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Class probabilities of images, uint8 (N, S, S, 3) RGB: attribute -> float32 (N, classes)."""
        outputs = names(self.attributes)
        return dict(zip(outputs, self._run(outputs, images), strict=True))

    def predict_and_embed(
        self, images: npt.NDArray[np.uint8]
    ) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
        """The result of `predict`, and the embeddings, float32 (N, D)."""
        outputs = names(self.attributes)
        *probabilities, embeddings = self._run((*outputs, EMBEDDING), images)
        return dict(zip(outputs, probabilities, strict=True)), embeddings

    def _run(self, outputs: Sequence[str], images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """Some of the outputs, a row per image.

        Raises:
            DataError: the model cannot be run.
        """
        try:
            found: list[npt.NDArray[np.float32]] = self.session.run(list(outputs), {INPUT: images})
        except Exception as error:  # the only base class of ONNX Runtime's errors
            raise DataError(
                f"{self.path} cannot be run on {len(images)} images of {self.image_size} pixels ({_reason(error)}): "
                "train a model with this code"
            ) from error
        for name, values in zip(outputs, found, strict=True):
            if len(values) != len(images):
                _expect(self.path, f"rows of output {name}", len(images), len(values))
        return found


def load(path: Path, threads: int | None = None) -> OnnxModel:
    """Load a model and check that it is one of ours.

    Only ONNX Runtime reads the file, so a pickle under this name is refused and never unpickled.

    Args:
        path: the file.
        threads: number of computing threads; None means one per available core.

    Raises:
        DataError: not a readable ONNX model, an opset that the runtime lacks, or metadata, inputs or outputs that are
            not as expected; the message has the expected and the found value.
    """
    session = _open_session(path, threads or available_cpus())
    metadata = _read_metadata(path, session.get_modelmeta().custom_metadata_map)
    attributes = _read_attributes(path, metadata.get("attributes"), [output.name for output in session.get_outputs()])
    preprocessing = _parse(path, "preprocessing", Preprocessing, metadata.get("preprocessing"))
    settings: dict[str, Any] = {  # of earlier code
        "learned": all_learned(attributes),
        "decision": {attribute.name: [0.0] * len(attribute.classes) for attribute in attributes},
        "decided_by": {attribute.name: ACCURACY for attribute in attributes},
    }
    settings |= {name: metadata[name] for name in Calibration.model_fields if name in metadata}
    calibration = _parse(path, "calibration", Calibration, settings)
    for field in Calibration.model_fields:
        _expect(path, f"attributes of {field}", sorted(names(attributes)), sorted(getattr(calibration, field)))
    for attribute in attributes:
        lowest, offsets = calibration.abstention[attribute.name], calibration.decision[attribute.name]
        _expect(path, f"numbers in decision of {attribute.name}", len(attribute.classes), len(offsets))
        if isinstance(lowest, list):
            _expect(path, f"numbers in abstention of {attribute.name}", len(attribute.classes), len(lowest))
    side = preprocessing.image_size
    _expect(path, "image_size", side, metadata.get("image_size"))
    inputs = [(given.name, given.type, _shape(given)) for given in session.get_inputs()]
    _expect(path, "input", [(INPUT, "tensor(uint8)", [ANY, side, side, 3])], inputs)
    outputs = sorted((output.name, output.type, _shape(output)) for output in session.get_outputs())
    widths: dict[str, Any] = {attribute.name: len(attribute.classes) for attribute in attributes}
    width = next((shape[-1] for name, _, shape in outputs if name == EMBEDDING), None)
    widths[EMBEDDING] = width if isinstance(width, int) else "a fixed number"
    _expect(path, "outputs", sorted((name, "tensor(float)", [ANY, width]) for name, width in widths.items()), outputs)
    return OnnxModel(session, attributes, side, preprocessing, calibration, path)


def _read_attributes(path: Path, told: object, outputs: Sequence[str]) -> Attributes:
    """Attributes in the metadata; in files of earlier code they have the order of the outputs."""
    if isinstance(told, Mapping):
        ordered = sorted(told, key=lambda name: outputs.index(name) if name in outputs else len(outputs))
        told = [
            {"name": name, "classes": told[name], "column": name, "title": name.replace("_", " ").capitalize()}
            for name in ordered
        ]
    try:
        found = _ATTRIBUTES.validate_python(told)
    except ValidationError as error:
        raise _another(path, "attributes", error) from error
    _expect(path, "names of attributes, each once,", sorted(set(names(found))), sorted(names(found)))
    return found


def _shape(value: Any) -> list[Any]:
    """Shape of an input or output; the first number is that of the images, which no model may fix."""
    first, *rest = value.shape or [None]
    return [first if isinstance(first, int) else ANY, *rest]


def _open_session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # the default counts the cores of the whole machine
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come as exceptions
    with reading(path, "train"):
        content = path.read_bytes()
    require_known_operators(content, str(path))
    try:
        # bytes and not a path, so that a model cannot read further files
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the only base class of ONNX Runtime's errors
        raise DataError(
            f"{path} is not an ONNX model that ONNX Runtime can load ({_reason(error)}): run stage train"
        ) from error


def _reason(error: Exception) -> str:
    """The message of ONNX Runtime, in one line."""
    return _RUNTIME_PREFIX.sub("", " ".join(str(error).split()))[:500]


def _read_metadata(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        value = json.loads(metadata[METADATA])
        return dict(value)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} carries no metadata {METADATA!r}, so it is not a model of stage train: give one that is"
        ) from error


def _parse(path: Path, what: str, model: type[SectionT], value: object) -> SectionT:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _another(path, what, error) from error


def _another(path: Path, what: str, error: ValidationError) -> DataError:
    problem = error.errors()[0]
    where = ".".join(map(str, (what, *problem["loc"])))
    return DataError(f"{path} has another {what} than this code: {where}: {problem['msg']}: train again")


def _expect(path: Path, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise DataError(f"{path} does not fit: {what} expected {expected}, found {found}: train a model with this code")
