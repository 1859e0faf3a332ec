"""Which operators a model file would run, read before ONNX Runtime sees it: loading computes what is constant already.

A model of another hand could loop for years or run code of a library of its own. What stage train exports needs a dozen
operators, none of which can do that, so all others are refused. Whoever adds a layer adds its operator here.
"""

from collections.abc import Iterator

from stages.common.contract.errors import DataError

OPERATORS = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "Div", "Flatten", "Gather",
    "GatherND", "Gemm", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "LayerNormalization", "Log",
    "MatMul", "MaxPool", "Mul", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze",
    "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Layers, arithmetic, and what moves numbers: each runs once, on what the nodes before it gave."""

GRAPH, FUNCTIONS = 7, 25
NODE = 1
TYPE, DOMAIN = 4, 7
"""Numbers of fields in ONNX's messages: of a model, its graph, a node of it."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""How a field of Protocol Buffers is stored (https://protobuf.dev/programming-guides/encoding)."""


def require_known_operators(model: bytes, name: str) -> None:
    """Refuse a model that runs anything else than `OPERATORS`.

    Args:
        model: the content of its file.
        name: what messages call it.

    Raises:
        DataError: it does, or it is no ONNX model.
    """
    try:
        asked = set(_operators(memoryview(model)))
    except (ValueError, IndexError) as error:
        raise DataError(f"{name} is no ONNX model ({error or 'cut short'}): run stage train") from error
    if unknown := sorted(asked - OPERATORS):
        first = ", ".join(ascii(operator)[1:-1][:60] for operator in unknown[:3])
        raise DataError(
            f"{name} computes with {first}, which no model of stage train does and which may never end: "
            "give a model from stage train"
        )


def _operators(model: memoryview) -> Iterator[str]:
    """The type of every node, with its domain in front where that is not ONNX's own."""
    for number, graph in _fields(model):
        if number == FUNCTIONS:
            yield "functions of its own"
        for part, node in _fields(graph) if number == GRAPH else ():
            if part == NODE:
                named = {field: bytes(value).decode("utf-8", "replace") for field, value in _fields(node)}
                domain = named.get(DOMAIN, "")
                yield (f"{domain}::" if domain not in {"", "ai.onnx"} else "") + named.get(TYPE, "")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of those fields of a message that hold bytes: texts and other messages.

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
    """A number of seven bits a byte, the lowest first, and where the next field begins."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("not in the form of Protocol Buffers")
