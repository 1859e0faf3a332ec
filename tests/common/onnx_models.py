"""A hand-made model that reads its answers off the pictures."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from stages.common.images.settings import Preprocessing
from stages.common.schema.attributes import Attributes, names
from tests.common.samples import FIRST, SAMPLE_ATTRIBUTES

SIDE = 8
PREPROCESSING = Preprocessing(image_size=SIDE, near_white=245, max_megapixels=50).model_dump()


def metadata_of(attributes: Attributes) -> dict[str, Any]:
    """Metadata of a model that answers these attributes; the first one from a confidence of 0.8001 on."""
    return {
        "attributes": [
            {"name": attribute.name, "classes": attribute.classes, "column": attribute.column, "title": attribute.title}
            for attribute in attributes
        ],
        "image_size": SIDE,
        "preprocessing": PREPROCESSING,
        "temperatures": dict.fromkeys(names(attributes), 1.5),
        "abstention": dict.fromkeys(names(attributes), 0.0) | {attributes[0].name: 0.8001},
        "learned": {attribute.name: list(attribute.classes) for attribute in attributes},
        "decision": {attribute.name: [0.0] * len(attribute.classes) for attribute in attributes},
        "decided_by": {attribute.name: "accuracy" for attribute in attributes},
    }


METADATA = metadata_of(SAMPLE_ATTRIBUTES)


def save_model(
    path: Path,
    metadata: dict[str, Any] | None = None,
    kind: int = TensorProto.UINT8,
    opset: int = 18,
    drop: int = 0,
    confidence: float = 0.8,
    embed: bool = True,
    batch: str | int = "N",
    never: Collection[str] = (),
    row: int = 0,
    attributes: Attributes = SAMPLE_ATTRIBUTES,
) -> Path:
    """A model that answers attribute k with class `images[:, row, k % SIDE, 0]`, at probability `confidence`.

    Its embeddings are the red of that row, `images[:, row, :, 0]`. Its operators are among those
    that stage train's models may have.

    Args:
        path: the file to write.
        metadata: of `face_attributes`; none is written for an empty one.
        kind: element type of the input.
        opset: version of the operators it asks for.
        drop: how many of the attributes it lacks.
        confidence: probability of the class that it answers; the others share 0.2.
        embed: whether it gives embeddings.
        batch: how many images it takes, and gives answers to: any number, which has a name, or so many.
        never: attributes that it never answers, for training has no label of them.
        row: of the pictures that it reads; models of other rows may answer in another way.
        attributes: what it answers.
    """
    flat = SIDE * SIDE * 3
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "flat"], ["row"]),
        helper.make_node("Gemm", ["row", "red"], ["embedding"]),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, SIDE])] if embed else []
    red = np.zeros((flat, SIDE), np.float32)
    red[(row * SIDE + np.arange(SIDE)) * 3, np.arange(SIDE)] = 1
    constants: dict[str, npt.NDArray[Any]] = {
        "flat": np.array([0, flat], np.int64),
        "red": red,
        "one": np.ones(1, np.float32),
    }
    for number, attribute in enumerate(attributes[drop:]):
        name, classes = attribute.name, len(attribute.classes)
        rest = float("nan") if name in never else 0.2 / (classes - 1)
        pick = np.zeros((SIDE, classes), np.float32)
        pick[number % SIDE] = 1
        same = np.eye(classes, dtype=np.float32)
        constants |= {
            f"{name}_pick": pick,
            f"{name}_number": np.arange(classes, dtype=np.float32),
            f"{name}_minus": -same,
            f"{name}_more": same * np.float32(confidence - rest),
            f"{name}_rest": np.full(classes, rest, np.float32),
        }
        steps = [  # 1 - |pixel - class|, which is 1 at the class and 0 or less elsewhere
            ("Gemm", "embedding", "pick", "pixel"),
            ("Sub", "pixel", "number", "off"),
            ("Relu", "off", "", "above"),
            ("Gemm", "off", "minus", "less"),
            ("Relu", "less", "", "below"),
        ]
        nodes += [
            helper.make_node(
                operator,
                [first if first == "embedding" else f"{name}_{first}", *([f"{name}_{other}"] if other else [])],
                [f"{name}_{result}"],
            )
            for operator, first, other, result in steps
        ]
        nodes += [
            helper.make_node("Sub", ["one", f"{name}_above"], [f"{name}_left"]),
            helper.make_node("Sub", [f"{name}_left", f"{name}_below"], [f"{name}_near"]),
            helper.make_node("Relu", [f"{name}_near"], [f"{name}_class"]),
            helper.make_node("Gemm", [f"{name}_class", f"{name}_more", f"{name}_rest"], [name]),
        ]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, classes]))
    kept = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    images = helper.make_tensor_value_info("images", kind, [batch, SIDE, SIDE, 3])
    graph = helper.make_graph(nodes, "faces", [images], outputs, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if metadata is None:
        metadata = metadata_of(attributes)
        metadata["learned"] |= {name: [] for name in never}
    if metadata:
        helper.set_model_props(model, {"face_attributes": json.dumps(metadata)})
    onnx.save(model, path)
    return path


def extend(path: Path, nodes: Sequence[NodeProto], **constants: npt.NDArray[np.generic]) -> Path:
    """Let further nodes make a model's first answer of `said`, which is what it says by itself. Constants are named."""
    model = onnx.load(path)
    last = next(node for node in model.graph.node if FIRST in node.output)
    last.output[0] = "said"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    onnx.save(model, path)
    return path


def squander(path: Path) -> Path:
    """Let a model ask for 4 TB of memory an image when it is run."""
    nodes = [
        helper.make_node("Reshape", ["said", "column"], ["high"]),
        helper.make_node("Sub", ["high", "wide"], ["widened"]),
        helper.make_node("Reshape", ["widened", "tall"], ["upright"]),
        helper.make_node("Sub", ["upright", "wide"], ["huge"]),
        *_ended("huge"),
    ]
    shapes = {"column": [-1, 2, 1], "tall": [0, 2, -1, 1]}
    return extend(path, nodes, **_shapes(shapes), wide=np.zeros(700_000, np.float32))


def slow_down(path: Path) -> Path:
    """Let a model compute for minutes: a hundred products of matrices of 2048 x 2048, each some 300 ms an image."""
    nodes = [helper.make_node("Reshape", ["said", "column"], ["high"])]
    nodes += [helper.make_node("Sub", ["high", "square"], ["product_0"])]
    nodes += [helper.make_node("MatMul", [f"product_{step}", "square"], [f"product_{step + 1}"]) for step in range(100)]
    nodes += [*_ended("product_100")]
    return extend(path, nodes, **_shapes({"column": [-1, 2, 1, 1]}), square=np.zeros((2048, 2048), np.float32))


def _ended(large: str) -> Iterator[NodeProto]:
    """From (N, 2, a, b) to the first answer."""
    yield helper.make_node("ReduceMean", [large, "last"], ["less"], keepdims=0)
    yield helper.make_node("ReduceMean", ["less", "last"], ["means"], keepdims=0)
    yield helper.make_node("Reshape", ["means", "pairs"], [FIRST])


def _shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, npt.NDArray[np.generic]]:
    shapes = {**shapes, "pairs": [-1, 2], "last": [-1]}
    return {name: np.array(shape, np.int64) for name, shape in shapes.items()}
