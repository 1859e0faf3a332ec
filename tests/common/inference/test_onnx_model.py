"""Models of another hand: what would never end, or take all memory, is refused in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stages.common.contract.errors import DataError
from stages.common.inference.onnx_model import load
from stages.common.schema.attributes import Attribute
from tests.common.onnx_models import METADATA, SIDE, extend, save_model, squander
from tests.common.samples import FIRST, SAMPLE_ATTRIBUTES, SAMPLE_NAMES


def loop(path: Path) -> Path:
    """A model that counts to 10^12 when it is loaded, for all that it counts with is constant."""
    carried = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("was", "is")]
    go_on = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    steps = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["was", "was"], ["is"])]
    body = helper.make_graph(steps, "body", [turn, go_on[0], carried[0]], [go_on[1], carried[1]])
    nodes = [helper.make_node("Loop", ["turns", "yes", "start"], ["end"], body=body)]
    nodes += [helper.make_node("Add", ["said", "end"], [FIRST])]
    turns, yes, start = np.array(10**12), np.array(True), np.zeros(1, np.float32)
    return extend(path, nodes, turns=turns, yes=yes, start=start)


def foreign(path: Path) -> Path:
    """A model with an operator of somebody's library."""
    return extend(path, [helper.make_node("Relu", ["said"], [FIRST], domain="com.example")])


def own_function(path: Path) -> Path:
    """A model that brings its own Relu."""
    model = onnx.load(path)
    step = helper.make_node("Identity", ["x"], ["y"])
    opset = helper.make_opsetid("", 18)
    model.functions.append(helper.make_function("own", "Relu", ["x"], ["y"], [step], [opset]))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (loop, "computes with Loop, which"),
        (foreign, "computes with com.example::Relu, which"),
        (own_function, "computes with functions of its own, which"),
    ],
)
def test_what_may_never_end_is_refused_before_it_begins(
    spoil: Callable[[Path], Path], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load(spoil(save_model(tmp_path / "model.onnx")))
    assert "\n" not in str(caught.value)


def test_a_model_says_itself_what_it_answers(tmp_path: Path) -> None:
    hats = (
        Attribute("hat", ("none", "cap", "top hat"), "hat_label", "Hat"),
        Attribute("smile", ("no", "yes"), "s", "S"),
    )
    model = load(save_model(tmp_path / "model.onnx", attributes=hats, never=["smile"]))
    assert model.attributes == hats
    assert model.answered == ["hat"]
    images = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    images[:, 0, 0, 0] = (0, 2, 1)
    assert {name: values.argmax(1).tolist() for name, values in model.predict(images).items()} == {
        "hat": [0, 2, 1], "smile": [0, 0, 0],
    }  # fmt: skip


def test_a_model_of_earlier_code_answers_in_the_order_of_its_outputs(tmp_path: Path) -> None:
    earlier = {name: value for name, value in METADATA.items() if name not in {"learned", "decision", "decided_by"}}
    earlier["attributes"] = {
        attribute.name: attribute.classes
        for attribute in sorted(SAMPLE_ATTRIBUTES, key=lambda attribute: attribute.name)
    }
    model = load(save_model(tmp_path / "model.onnx", earlier))
    assert [(attribute.name, attribute.classes) for attribute in model.attributes] == [
        (attribute.name, attribute.classes) for attribute in SAMPLE_ATTRIBUTES
    ]
    assert model.attributes[3].title == "Coat color"
    assert model.answered == list(SAMPLE_NAMES)
    assert not any(any(offsets) for offsets in model.calibration.decision.values())
    assert model.lowest_confidences == {
        attribute.name: int(1e4 / len(attribute.classes)) / 1e4 for attribute in SAMPLE_ATTRIBUTES
    }


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("decision", [0.0, 1.0, 2.0], f"numbers in decision of {FIRST} expected 2, found 3"),
        ("abstention", [0.5], f"numbers in abstention of {FIRST} expected 2, found 1"),
    ],
)
def test_a_number_for_each_class_or_none(field: str, value: list[float], said: str, tmp_path: Path) -> None:
    metadata = METADATA | {field: METADATA[field] | {FIRST: value}}
    with pytest.raises(DataError, match=said):
        load(save_model(tmp_path / "model.onnx", metadata))


def test_a_model_for_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"input expected .*'any number', 8, 8, 3.* found .*\[1, 8, 8, 3\]"):
        load(save_model(tmp_path / "model.onnx", batch=1))


def test_a_model_that_cannot_be_run_is_told_in_one_line(tmp_path: Path) -> None:
    model = load(squander(save_model(tmp_path / "model.onnx")))
    with pytest.raises(DataError, match=r"model\.onnx cannot be run on 2 images of 8 pixels \(.*memory") as caught:
        model.predict(np.zeros((2, SIDE, SIDE, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_a_model_that_answers_another_number_of_images_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Slice", ["said", "zero", "one_row"], [FIRST])]
    path = extend(save_model(tmp_path / "model.onnx"), nodes, zero=np.array([0]), one_row=np.array([1]))
    with pytest.raises(DataError, match=f"rows of output {FIRST} expected 3, found 1"):
        load(path).predict(np.zeros((3, SIDE, SIDE, 3), np.uint8))


@pytest.mark.parametrize("length", [0, 1, 100, 5000])
@pytest.mark.parametrize("seed", range(2026, 2031))
def test_a_damaged_file_is_no_model(length: int, seed: int, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(np.random.default_rng(seed).bytes(length))
    with pytest.raises(DataError, match="model"):
        load(tmp_path / "model.onnx")
