"""Check the operators of a model file before ONNX Runtime loads it: loading already computes constant parts.

A foreign model could loop for years or run code of its own library. The models of stage train need a dozen operators,
none of which can do that, so all others are refused. A new kind of layer needs its operator here.
"""

from collections.abc import Iterator

from stages.common.contract.errors import DataError

OPERATORS = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "Div", "Flatten", "Gather",
    "GatherND", "Gemm", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "LayerNormalization", "Log",
    "MatMul", "MaxPool", "Mul", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze",
    "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Layers, arithmetic, and operators that move numbers: each runs once, on outputs of the nodes before it."""

GRAPH, FUNCTIONS = 7, 25
NODE = 1
TYPE, DOMAIN = 4, 7
"""Numbers of fields in ONNX's messages: of a model, its graph, a node of it."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of Protocol Buffers (https://protobuf.dev/programming-guides/encoding)."""


def require_known_operators(model: bytes, name: str) -> None:
    """Refuse a model with operators other than `OPERATORS`.

    Args:
        model: the content of its file.
        name: its name in messages.

    Raises:
        DataError: it has others, or it is not an ONNX model.
    """
    try:
        asked = set(_operators(memoryview(model)))
    except (ValueError, IndexError) as error:
        raise DataError(f"{name} is not an ONNX model ({error or 'cut short'}): run stage train") from error
    if unknown := sorted(asked - OPERATORS):
        first = ", ".join(ascii(operator)[1:-1][:60] for operator in unknown[:3])
        raise DataError(
            f"{name} computes with {first}, which no model of stage train does and which may never end: "
            "give a model from stage train"
        )


def _operators(model: memoryview) -> Iterator[str]:
    """Type of every node, with its domain in front if that is not ONNX's own."""
    for number, graph in _fields(model):
        if number == FUNCTIONS:
            yield "functions of its own"
        for part, node in _fields(graph) if number == GRAPH else ():
            if part == NODE:
                named = {field: bytes(value).decode("utf-8", "replace") for field, value in _fields(node)}
                domain = named.get(DOMAIN, "")
                yield (f"{domain}::" if domain not in {"", "ai.onnx"} else "") + named.get(TYPE, "")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the fields of a message that hold bytes: texts and other messages.

    Raises:
        ValueError: it is not a message; IndexError: it is cut short.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == BYTES:
            length, at = _varint(message, at)
            if length > len(message) - at:
                raise ValueError("cut short")
            yield key >> 3, message[at : at + length]
            at += length
        elif key & 7 == VARINT:
            _, at = _varint(message, at)
        elif key & 7 in {FIXED64, FIXED32}:
            at += 8 if key & 7 == FIXED64 else 4
        else:
            raise ValueError("not in the form of Protocol Buffers")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, seven bits per byte, the lowest first; and the beginning of the next field."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("not in the form of Protocol Buffers")
