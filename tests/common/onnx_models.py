"""A hand-made model that reads its answers off the pictures."""

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from stages.common.attributes import ATTRIBUTES, NAMES
from stages.common.image_settings import Preprocessing

SIDE = 8
PREPROCESSING = Preprocessing(image_size=SIDE, near_white=245, max_megapixels=50).model_dump()
METADATA: dict[str, Any] = {
    "attributes": {attribute.name: list(attribute.classes) for attribute in ATTRIBUTES},
    "image_size": SIDE,
    "preprocessing": PREPROCESSING,
    "temperatures": dict.fromkeys(NAMES, 1.5),
    "abstention": dict.fromkeys(NAMES, 0.0) | {"beard": 0.8001},
}


def save_model(
    path: Path,
    metadata: dict[str, Any] | None = None,
    kind: int = TensorProto.UINT8,
    opset: int = 18,
    drop: int = 0,
    confidence: float = 0.8,
    embed: bool = True,
) -> Path:
    """A model that answers attribute k with class `images[:, 0, k, 0]`, at probability `confidence`.

    Its embeddings are the red of the first row, `images[:, 0, :, 0]`.

    Args:
        path: the file to write.
        metadata: of `face_attributes`; none is written for an empty one.
        kind: element type of the input.
        opset: version of the operators it asks for.
        drop: how many of the attributes it lacks.
        confidence: probability of the class that it answers; the others share 0.2.
        embed: whether it gives embeddings.
    """
    nodes = [
        helper.make_node("Gather", ["images", "zero"], ["row"], axis=1),
        helper.make_node("Gather", ["row", "zero"], ["red"], axis=2),
        helper.make_node("Cast", ["red"], ["embedding"], to=TensorProto.FLOAT),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", SIDE])] if embed else []
    constants = [helper.make_tensor("zero", TensorProto.INT64, [], [0])]
    for number, attribute in enumerate(ATTRIBUTES[drop:]):
        name, classes = attribute.name, len(attribute.classes)
        constants += [
            helper.make_tensor(f"{name}_column", TensorProto.INT64, [], [number]),
            helper.make_tensor(f"{name}_depth", TensorProto.INT64, [], [classes]),
            helper.make_tensor(f"{name}_values", TensorProto.FLOAT, [2], [0.2 / (classes - 1), confidence]),
        ]
        nodes += [
            helper.make_node("Gather", ["red", f"{name}_column"], [f"{name}_pixel"], axis=1),
            helper.make_node("Cast", [f"{name}_pixel"], [f"{name}_class"], to=TensorProto.INT64),
            helper.make_node("OneHot", [f"{name}_class", f"{name}_depth", f"{name}_values"], [name], axis=1),
        ]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes]))
    images = helper.make_tensor_value_info("images", kind, ["N", SIDE, SIDE, 3])
    graph = helper.make_graph(nodes, "faces", [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    metadata = METADATA if metadata is None else metadata
    if metadata:
        helper.set_model_props(model, {"face_attributes": json.dumps(metadata)})
    onnx.save(model, path)
    return path
