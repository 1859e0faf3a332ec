"""The Open Inference Protocol, version 2, by HTTP, with its binary tensors.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

Two models, which are the same network: `face_attributes` takes the bytes of image files, as /predict does, and
`network` takes prepared pixels. Both give the probabilities of every attribute, and the embedding.
"""

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from images.serve.champion import Served
from images.serve.limits import RefusedError
from images.serve.metrics import IMAGES
from images.serve.service import Json, Service, ServiceDep, in_thread
from stages.common.contract.errors import DataError
from stages.common.inference.onnx_model import EMBEDDING, INPUT

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

JSON_LENGTH = "inference-header-content-length"
FILES, NETWORK = "face_attributes", "network"
FILE_INPUT = "files"
Arrays = dict[str, npt.NDArray[np.float32]]
ModelName = Annotated[str, Path(description=f"{FILES} or {NETWORK}")]


class Tensor(BaseModel):
    """An input."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=8)
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class Wanted(BaseModel):
    """A requested output."""

    name: str
    parameters: dict[str, Any] = {}


class Inference(BaseModel):
    """A request; binary tensors follow it in order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": [{"name": FILE_INPUT, "shape": [1], "datatype": "BYTES", "data": ["<base64>"]}]}]})  # fmt: skip  # noqa: E501

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[Wanted] = []


@dataclass(frozen=True)
class _Asked:
    request: Inference
    files: Sequence[bytes]
    images: npt.NDArray[np.uint8] | None


# ---- about the server and its models ----


@router.get("")
async def server() -> Response:
    """The server, and its extensions of the protocol."""
    return Json({"name": "face-attributes", "version": "2", "extensions": ["binary_tensor_data"]})


@router.get("/health/live")
async def live() -> Response:
    """Whether it is alive."""
    return Json({"live": True})


@router.get("/health/ready")
async def ready(service: ServiceDep) -> Response:
    """Whether it answers."""
    return Json({"ready": bool(service.champion.served)}, 200 if service.champion.served else 503)


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}", include_in_schema=False)
async def about(model: ModelName, service: ServiceDep, version: str = "") -> Response:
    """Inputs and outputs of a model."""
    served = _served(service, model, version)
    side = served.model.image_size
    takes: dict[str, Any] = {"name": FILE_INPUT, "datatype": "BYTES", "shape": [-1]}
    if model == NETWORK:
        takes = {"name": INPUT, "datatype": "UINT8", "shape": [-1, side, side, 3]}
    widths = {attribute.name: len(attribute.classes) for attribute in served.model.attributes} | {EMBEDDING: -1}
    gives = [{"name": name, "datatype": "FP32", "shape": [-1, width]} for name, width in widths.items()]
    told = {"name": model, "versions": [served.name], "platform": "onnxruntime_onnx", "inputs": [takes]}
    return Json(told | {"outputs": gives})


@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready", include_in_schema=False)
async def model_ready(model: ModelName, service: ServiceDep, version: str = "") -> Response:
    """Whether a model answers."""
    return Json({"name": model, "ready": bool(_served(service, model, version))})


def _served(service: Service, model: str, version: str) -> Served:
    if model not in {FILES, NETWORK}:
        raise RefusedError(404, f"no model {model!a}: there are {FILES} and {NETWORK}")
    served = service.served()
    if version not in {"", served.name}:
        raise RefusedError(404, f"version {version!a} is not served: {served.name} is")
    return served


# ---- inference ----

_BODY = {"requestBody": {"content": {"application/json": {"schema": Inference.model_json_schema()}}}}


@router.post("/models/{model}/infer", openapi_extra=_BODY)
@router.post("/models/{model}/versions/{version}/infer", include_in_schema=False)
async def infer(model: ModelName, request: Request, service: ServiceDep, version: str = "") -> Response:
    """Run a model: JSON, or JSON followed by binary tensors, with the length of the JSON in a header."""
    served = _served(service, model, version)
    body, length = await request.body(), request.headers.get(JSON_LENGTH)
    asked: _Asked = await in_thread(_read, body, length, model, served, service.settings.limits.images)
    if asked.images is None:
        found = await _of_files(service, served, asked.files)
    else:
        async with service.computing:
            found = await in_thread(_of_images, served, asked.images)
    return cast(Response, await in_thread(_response, model, served, asked.request, found))


async def _of_files(service: Service, served: Served, files: Sequence[bytes]) -> Arrays:
    answers = await service.answers(served, files)
    for number, answer in enumerate(answers):
        if answer.reason:
            raise RefusedError(422, f"{FILE_INPUT}[{number}]: {answer.reason}")
    found: Arrays = {
        attribute.name: np.stack([answer.probabilities[attribute.name] for answer in answers if answer.probabilities])
        for attribute in served.model.attributes
    }
    return found | {EMBEDDING: np.stack([answer.embedding for answer in answers if answer.embedding is not None])}


def _of_images(served: Served, images: npt.NDArray[np.uint8]) -> Arrays:
    try:
        found, embeddings = served.model.predict_and_embed(images)
    except DataError as error:
        raise RefusedError(500, str(error)) from None
    IMAGES.labels(served.name, "answered").inc(len(images))
    return found | {EMBEDDING: embeddings}


def _read(body: bytes, length: str | None, model: str, served: Served, most: int) -> _Asked:
    """Read a request.

    Raises:
        RefusedError: it is not a request of the protocol, or not for this model.
    """
    if length is not None and not (re.fullmatch("[0-9]{1,18}", length) and int(length) <= len(body)):
        raise RefusedError(
            400, f"{JSON_LENGTH} is {length!a}: give the length of the JSON in a body of {len(body)} bytes"
        )
    end = len(body) if length is None else int(length)
    try:
        request = Inference.model_validate(json.loads(body[:end]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise RefusedError(400, f"{where}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"this is not JSON of the protocol: {error}") from None
    (tensor,), rest = request.inputs, body[end:]
    size = tensor.parameters.get("binary_data_size")
    if (size is None) != (tensor.data is not None) or (size is not None and size != len(rest)):
        raise RefusedError(400, f"{tensor.name!a}: give either data, or binary_data_size, which is {len(rest)} here")
    if tensor.shape[0] not in range(1, most + 1):
        raise RefusedError(413, f"{tensor.shape[0]} images: send 1 to {most} in a request")
    side = served.model.image_size
    if model == FILES:
        _expect(tensor, FILE_INPUT, "BYTES", tensor.shape[:1])
        return _Asked(request, _files(tensor, rest if size is not None else None), None)
    _expect(tensor, INPUT, "UINT8", [tensor.shape[0], side, side, 3])
    return _Asked(request, [], _images(tensor, rest if size is not None else None))


def _expect(tensor: Tensor, name: str, datatype: str, shape: Sequence[int]) -> None:
    found, expected = (tensor.name, tensor.datatype, tensor.shape), (name, datatype, list(shape))
    if found != expected:
        raise RefusedError(400, f"input expected {expected}, found {found!a}")


def _files(tensor: Tensor, binary: bytes | None) -> list[bytes]:
    """Files in a tensor of BYTES: base64 in JSON; in binary, each after its length."""
    files: list[bytes] = []
    try:
        if binary is None:
            texts = tensor.data if isinstance(tensor.data, list) else []
            files = [base64.b64decode(text, validate=True) for text in texts]
        else:
            start = 0
            while start < len(binary):
                (size,) = struct.unpack_from("<I", binary, start)
                files.append(binary[start + 4 : start + 4 + size])
                start += 4 + size
                if start > len(binary):
                    raise ValueError("it is cut short")  # noqa: TRY301
    except (ValueError, TypeError, binascii.Error, struct.error) as error:
        raise RefusedError(400, f"{tensor.name}: no files in base64, or behind their lengths: {error}") from None
    if [len(files)] != tensor.shape:
        raise RefusedError(400, f"{tensor.name}: shape {tensor.shape}, but {len(files)} files")
    return files


def _images(tensor: Tensor, binary: bytes | None) -> npt.NDArray[np.uint8]:
    try:
        if binary is not None:
            return np.frombuffer(binary, np.uint8).reshape(tensor.shape)
        values = np.asarray(tensor.data)
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            raise ValueError("expected whole numbers from 0 to 255")  # noqa: TRY301
        return values.astype(np.uint8).reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise RefusedError(400, f"{tensor.name}: {error}") from None


def _response(model: str, served: Served, request: Inference, found: Mapping[str, npt.NDArray[np.float32]]) -> Response:
    wanted = request.outputs or [Wanted(name=name) for name in found]
    if len({output.name for output in wanted}) < len(wanted):  # a small request could request gigabytes
        raise RefusedError(400, "an output is asked for twice: once is enough")
    usual = bool(request.parameters.get("binary_data_output", False))
    outputs, binary = [], []
    for output in wanted:
        if output.name not in found:
            raise RefusedError(400, f"no output {output.name!a}: there are {', '.join(found)}")
        values = found[output.name]
        told: dict[str, Any] = {"name": output.name, "datatype": "FP32", "shape": list(values.shape)}
        if output.parameters.get("binary_data", usual):
            binary.append(values.astype("<f4").tobytes())
            told["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            told["data"] = [value if math.isfinite(value) else None for value in values.ravel().tolist()]
        outputs.append(told)
    answer = {"model_name": model, "model_version": served.name, "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    if not binary:
        return Json(answer)
    head = json.dumps(answer).encode()
    headers = {JSON_LENGTH: str(len(head))}
    return Response(head + b"".join(binary), 200, headers, "application/octet-stream")
