"""The Open Inference Protocol: what a client of it sends and gets, in JSON and in binary."""

import base64
import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages.common.images.preprocess import preprocess
from stages.common.images.settings import Preprocessing
from tests.common.onnx_models import PREPROCESSING
from tests.common.photograph import photograph
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES
from tests.serve.pictures import encoded
from tests.serve.serving import Answer, Server

pytestmark = pytest.mark.slow

SIDE = 32
FILE = encoded(photograph(), "JPEG")
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def pixels() -> npt.NDArray[np.uint8]:
    """The network's input from the photograph, twice: (2, S, S, 3)."""
    image = preprocess(FILE, Preprocessing(**PREPROCESSING | {"image_size": SIDE}))
    return np.stack([image, image])


def infer(server: Server, model: str, request: dict[str, Any], binary: bytes = b"") -> Answer:
    head = json.dumps(request).encode()
    headers = {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"} if binary else {}
    return server.ask("POST", f"/v2/models/{model}/infer", head + binary, headers)


def outputs_of(answer: Answer) -> dict[str, npt.NDArray[np.float32]]:
    """Name -> values, wherever they stand."""
    assert answer.status == 200, answer.body
    length = int(answer.headers.get(LENGTH, len(answer.body)))
    told, rest = json.loads(answer.body[:length]), answer.body[length:]
    assert told["model_version"] == "v1"
    found = {}
    for output in told["outputs"]:
        if size := output.get("parameters", {}).get("binary_data_size"):
            values, rest = np.frombuffer(rest[:size], "<f4"), rest[size:]
        else:
            values = np.array(output["data"], np.float32)
        assert output["datatype"] == "FP32"
        found[output["name"]] = values.reshape(output["shape"])
    assert rest == b""
    return found


def test_server_and_models_say_what_they_are(server: Server) -> None:
    assert "binary_tensor_data" in server.get("/v2").json["extensions"]
    for path in ("health/live", "health/ready", "models/network/ready", "models/face_attributes/versions/v1/ready"):
        assert server.get(f"/v2/{path}").status == 200
    network, files = server.get("/v2/models/network").json, server.get("/v2/models/face_attributes").json
    assert network["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 3]}]
    assert files["inputs"] == [{"name": "files", "datatype": "BYTES", "shape": [-1]}]
    assert network["outputs"] == files["outputs"]
    assert [output["name"] for output in network["outputs"]] == [*SAMPLE_NAMES, "embedding"]
    assert network["versions"] == ["v1"]
    for path in ("/v2/models/other", "/v2/models/network/versions/v9", "/v2/models/network/versions/v9/ready"):
        assert server.get(path).status == 404


def test_every_form_gives_what_predict_says(server: Server, pixels: npt.NDArray[np.uint8]) -> None:
    said = server.predict(FILE).json["images"][0]["attributes"]
    images = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape)}
    files = {"name": "files", "datatype": "BYTES", "shape": [2]}
    behind = b"".join(struct.pack("<I", len(FILE)) + FILE for _ in range(2))
    in_binary = {"parameters": {"binary_data_output": True}}
    answers = [
        infer(server, "network", {"inputs": [images | {"data": pixels.tolist()}]}),
        infer(server, "network", {"inputs": [images | {"data": pixels.ravel().tolist()}]} | in_binary),
        infer(server, "network", {"inputs": [images | binary_size(pixels.tobytes())]}, pixels.tobytes()),
        infer(server, "face_attributes", {"inputs": [files | {"data": [base64.b64encode(FILE).decode()] * 2}]}),
        infer(server, "face_attributes", {"inputs": [files | binary_size(behind)]} | in_binary, behind),
    ]
    for answer in answers:
        found = outputs_of(answer)
        assert found["embedding"].shape == (2, 16)
        for attribute in SAMPLE_ATTRIBUTES:
            expected = [said[attribute.name]["probabilities"][label] for label in attribute.classes]
            assert found[attribute.name] == pytest.approx(np.array([expected, expected]), abs=1e-4)


def binary_size(content: bytes) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": len(content)}}


def test_outputs_can_be_chosen_and_an_id_comes_back(server: Server, pixels: npt.NDArray[np.uint8]) -> None:
    name = SAMPLE_NAMES[1]
    images = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.tolist()}
    wanted = [{"name": name, "parameters": {"binary_data": True}}, {"name": "embedding"}]
    answer = infer(server, "network", {"id": "mine", "inputs": [images], "outputs": wanted})
    assert list(outputs_of(answer)) == [name, "embedding"]
    assert json.loads(answer.body[: int(answer.headers[LENGTH])])["id"] == "mine"


def image(**changed: Any) -> dict[str, Any]:
    usual = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3], "data": [7] * SIDE * SIDE * 3}
    return {"inputs": [usual | changed]}


def file(**changed: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1], "data": ["AAAA"]} | changed]}


@pytest.mark.parametrize(
    ("model", "request_", "status", "told"),
    [
        ("network", [], 400, "the request: "),
        ("network", {}, 400, "inputs: Field required"),
        ("network", {"inputs": []}, 400, "inputs: "),
        ("network", image(name="other"), 400, "input expected"),
        ("network", image(datatype="FP32"), 400, "input expected"),
        ("network", image(shape=[1, 9, 9, 3]), 400, "input expected"),
        ("network", image(shape=[0, SIDE, SIDE, 3]), 413, "0 images: send 1 to 24 in a request"),
        ("network", image(shape=[25, SIDE, SIDE, 3]), 413, "25 images: send 1 to 24 in a request"),
        ("network", image(shape=[-1, SIDE, SIDE, 3]), 400, "inputs.0.shape.0: "),
        ("network", image(data=[7, 8]), 400, "images: cannot reshape"),
        ("network", image(data=[256] * SIDE * SIDE * 3), 400, "images: expected whole numbers from 0 to 255"),
        ("network", image(data=[0.5] * SIDE * SIDE * 3), 400, "images: expected whole numbers from 0 to 255"),
        ("network", image(data="text"), 400, "images: expected whole numbers"),
        ("network", image(data=[[1], [2, 3]]), 400, "images: "),
        ("network", image(data=[]), 400, "images: "),
        ("network", image(data=None), 400, "'images': give either data, or binary_data_size"),
        ("network", image(data=None, parameters={"binary_data_size": 5}), 400, "'images': give either data"),
        ("network", image() | {"outputs": [{"name": "other"}]}, 400, "no output 'other': there are "),
        ("network", image() | {"outputs": [{"name": "embedding"}] * 2}, 400, "an output is asked for twice"),
        ("face_attributes", file(), 422, "files[0]: nothing but zeros"),
        ("face_attributes", file(data=["no base64"]), 400, "files: no files in base64"),
        ("face_attributes", file(data=[7]), 400, "files: no files in base64"),
        ("face_attributes", file(shape=[2]), 400, "files: shape [2], but 1 files"),
        ("other", image(), 404, "no model 'other'"),
    ],
)
def test_what_is_no_request_is_refused_in_a_line(
    server: Server, model: str, request_: Any, status: int, told: str
) -> None:
    answer = infer(server, model, request_)
    assert answer.status == status, answer.body
    assert told in answer.json["error"]


@pytest.mark.parametrize("length", ["x", "-1", "99999999", "3", "9" * 5000])
def test_a_wrong_length_of_the_json_is_refused(server: Server, length: str) -> None:
    answer = server.ask("POST", "/v2/models/network/infer", json.dumps(image()).encode(), {LENGTH: length})
    assert answer.status == 400


@pytest.mark.parametrize("binary", [b"\x05\0\0\0abc", b"\x05", b"\xff\xff\xff\xff"])
def test_files_that_are_cut_short_are_refused(server: Server, binary: bytes) -> None:
    answer = infer(server, "face_attributes", file(data=None, **binary_size(binary)), binary)
    assert (answer.status, "cut short" in answer.json["error"] or "unpack" in answer.json["error"]) == (400, True)
