"""The trained network as files: ONNX for use, safetensors for PyTorch. Neither can carry code.

The graph is written here, operator by operator, and a test compares its answers with PyTorch's. PyTorch's exporter
finds the same graph by tracing; that takes 5.6 s of a core instead of .1 s, and two more libraries (bench/README.md).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from stages.common.inference.calibration import Calibration
from stages.common.schema.attributes import names
from stages.common.schema.learned import masks
from stages.common.training.kept import save_file
from stages.common.training.network import GRID, Convolution, Network

OPSET, IR = 18, 10
"""Versions of ONNX's operators and of its file."""
IMAGES, EMBEDDING = "images", "embedding"


class _Graph:
    """A graph that grows node by node; names of outputs differ from those of attributes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: "str | npt.NDArray[Any]", outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; inputs are names of outputs of other nodes, or constants.

        Returns:
            The name of its output, or a list of several names.
        """
        number = len(self.nodes)
        named = [self._constant(value) if isinstance(value, np.ndarray) else value for value in inputs]
        given = [f"{operator}.{number}.{output}" for output in range(outputs)]
        self.nodes.append(helper.make_node(operator, named, given, **attributes))
        return given if outputs > 1 else given[0]

    def _constant(self, values: npt.NDArray[Any]) -> str:
        name = f"constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    return tensor.detach().numpy()


def _number(value: float) -> npt.NDArray[np.float32]:
    return np.array(value, np.float32)


def _features(graph: _Graph, network: Network, images: str) -> str:
    """As `Network.features`."""
    channels_first = graph.add("Transpose", images, perm=[0, 3, 1, 2])
    centred = graph.add("Sub", graph.add("Cast", channels_first, to=TensorProto.FLOAT), _number(127.5))
    found: str = graph.add("Div", centred, _number(64))
    for layer in network.trunk:
        if isinstance(layer, Convolution):
            stride = [layer.stride, layer.stride]
            found = graph.add("Conv", found, _array(layer.filters), strides=stride, pads=[1, 1, 1, 1])
        elif isinstance(layer, nn.BatchNorm2d):
            means, deviations = layer.running_mean, layer.running_var
            assert means is not None and deviations is not None  # noqa: S101, PT018 (for mypy: it keeps them)
            learned = (layer.weight, layer.bias, means, deviations)
            found = graph.add("BatchNormalization", found, *map(_array, learned), epsilon=layer.eps)
        else:
            found = graph.add("Relu", found)
    return found


def _pooled(graph: _Graph, features: str, side: int) -> str:
    """As the pooling of `Network.logits`; `side` is the side of the features."""
    cell, rest = divmod(side, GRID)
    if not rest:
        return str(graph.add("AveragePool", features, kernel_shape=[cell, cell], strides=[cell, cell]))
    means = np.zeros((GRID, side), np.float32)  # cells overlap, as in `adaptive_avg_pool2d`
    for row, cells in enumerate(means):
        part = slice(row * side // GRID, -(-(row + 1) * side // GRID))
        cells[part] = 1 / (part.stop - part.start)
    return str(graph.add("MatMul", graph.add("MatMul", means, features), means.T))


def _logits(graph: _Graph, network: Network, pooled: str) -> list[str]:
    """As `Heads.forward`: of every attribute."""
    heads = network.heads
    found = graph.add("Gemm", graph.add("Flatten", pooled), _array(heads.weight), _array(heads.bias), transB=1)
    parts = graph.add("Split", found, np.array(heads.classes), axis=1, outputs=len(heads.classes))
    return [parts] if isinstance(parts, str) else parts


def _answers(graph: _Graph, network: Network, calibration: Calibration, side: int, *, mirrored: bool) -> list[str]:
    """As `Classifier.forward`: the probabilities of every attribute, and last the embeddings."""
    images = IMAGES
    if mirrored:  # all images, then all their mirror images
        last, to_the_first, width, backwards = (np.array([number]) for number in (-1, np.iinfo(np.int64).min, 2, -1))
        images = graph.add("Concat", images, graph.add("Slice", images, last, to_the_first, width, backwards), axis=0)
    features = _features(graph, network, images)
    logits = _logits(graph, network, _pooled(graph, features, -(-side // 8)))
    embedding = graph.add("ReduceMean", features, np.array([2, 3]), keepdims=0)

    def mean(of_both: str) -> str:
        one, other = graph.add("Split", of_both, axis=0, num_outputs=2, outputs=2)
        return str(graph.add("Div", graph.add("Add", one, other), _number(2)))

    found = []
    for attribute, raw, mask in zip(
        network.attributes, logits, masks(network.attributes, calibration.learned), strict=True
    ):
        masked = graph.add("Add", raw, mask) if mask.any() else raw
        if mirrored:
            both = mean(graph.add("Softmax", masked, axis=1))
            masked = graph.add("Log", graph.add("Clip", both, _number(1e-30)))
            masked = graph.add("Add", masked, mask) if mask.any() else masked
        scaled = graph.add("Div", masked, _number(calibration.temperatures[attribute.name]))
        found.append(graph.add("Softmax", scaled, axis=1))
    return [*found, mean(embedding) if mirrored else embedding]


def export_onnx(
    path: Path,
    network: Network,
    calibration: Calibration,
    preprocessing: Mapping[str, Any],
    *,
    mirrored: bool = False,
) -> None:
    """Write the network as one ONNX file that takes uint8 images and gives probabilities and embeddings.

    The bytes of this file identify a model. So the same weights, calibration and preprocessing give the same bytes on
    every machine and from every artifact: the file has no paths, no times and no inputs of the training.

    Args:
        path: the file to write.
        network: on the CPU, in evaluation mode.
        calibration: temperatures, which become part of the graph, and thresholds.
        preprocessing: settings of the preprocessing; its `image_size` fixes S of the input (N, S, S, 3). It goes into
            the metadata with the attributes and the calibration.
        mirrored: whether the graph averages the answers to every image and to its mirror image.
    """
    side = int(preprocessing["image_size"])
    graph = _Graph()
    answers = _answers(graph, network, calibration, side, mirrored=mirrored)
    widths = [*network.heads.classes, 4 * network.width]
    outputs = [*names(network.attributes), EMBEDDING]
    for node in graph.nodes:
        node.output[:] = [outputs[answers.index(output)] if output in answers else output for output in node.output]
    metadata = {
        "attributes": [asdict(attribute) for attribute in network.attributes],
        "image_size": side,
        "preprocessing": dict(preprocessing),
        **calibration.model_dump(),
    }
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "faces",
            [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["batch", side, side, 3])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
                for name, width in zip(outputs, widths, strict=True)
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
    )
    helper.set_model_props(model, {"face_attributes": json.dumps(metadata)})
    onnx.save(model, path)


def save_weights(path: Path, network: Network, calibration: Calibration, *, mirrored: bool) -> None:
    """Write the weights as safetensors, with the other arguments of `Classifier` as JSON in the metadata."""
    told = calibration.model_dump(include={"temperatures", "learned"}) | {"width": network.width, "mirrored": mirrored}
    metadata = {name: json.dumps(value) for name, value in told.items()}
    save_file(path, network.state_dict(), metadata)
