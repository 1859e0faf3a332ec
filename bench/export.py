"""Forms of the exported model: float32 against float16 and int8 in ONNX Runtime on this CPU.

python -m bench.export --model DIR --prepared DIR [--split test] [--repeat N] [--threads N ...]

DIR are the artifacts of train and prepare_train. The int8 model is quantized statically (QDQ, unsigned activations,
signed weights per channel: what ONNX Runtime advises for CPUs with VNNI), with ranges from the train split.
Accuracy, calibration error and coverage are on one split; so are the largest difference of a probability from
PyTorch's, and the number of different answers. The forms take turns, so that a busy machine slows them alike; rates are
medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from safetensors import safe_open
from safetensors.torch import load_file

from stages.common.inference.answers import answers_of
from stages.common.inference.measures import mean_of
from stages.common.inference.onnx_model import EMBEDDING, INPUT, load
from stages.common.schema.attributes import Attributes, names
from stages.common.schema.dataset import Split, read_split
from stages.common.training.network import Classifier, Network
from stages.evaluate.measures import measure

LEARNED_FROM = 512  # images of the train split from which int8 takes the ranges of its activations
Images = npt.NDArray[np.uint8]


class Ranges(CalibrationDataReader):  # type: ignore[misc]
    """Images for quantization, in batches of 64."""

    def __init__(self, images: Images) -> None:
        self.batches: Iterator[dict[str, Images]] = iter(
            [{INPUT: images[start : start + 64]} for start in range(0, len(images), 64)]
        )

    def get_next(self) -> dict[str, Images] | None:
        """The next batch, None after the last."""
        return next(self.batches, None)


def make_forms(model: Path, train: Split, folder: Path) -> dict[str, Path]:
    """The model in every form, as files in `folder`."""
    half, prepared, small = (folder / f"{name}.onnx" for name in ("half", "prepared", "int8"))
    onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=True), half)
    quant_pre_process(model, prepared)
    chosen = np.random.default_rng(0).permutation(len(train))[:LEARNED_FROM]
    quantize_static(
        prepared,
        small,
        Ranges(train.take(chosen)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return {"float32": model, "float16": half, "int8": small}


def open_session(path: Path, threads: int) -> Any:
    """A session as in `stages.common.inference.onnx_model`, with a number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def asked(session: Any) -> list[str]:
    """The outputs that are attributes."""
    return [output.name for output in session.get_outputs() if output.name != EMBEDDING]


def answer(session: Any, images: Images) -> dict[str, npt.NDArray[np.float32]]:
    """Probabilities per attribute, (N, classes)."""
    outputs = asked(session)
    batches = [session.run(outputs, {INPUT: images[start : start + 256]}) for start in range(0, len(images), 256)]
    return dict(zip(outputs, map(np.concatenate, zip(*batches, strict=True)), strict=True))


def in_pytorch(
    attributes: Attributes, trained: Path, images: Images, *, calibrated: bool = True
) -> dict[str, npt.NDArray[np.float32]]:
    """PyTorch's answers with the weights of the same artifact; not calibrated: at temperature 1."""
    with safe_open(trained / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    told = {name: json.loads(value) for name, value in metadata.items()}
    network = Network(attributes, told["width"])
    network.load_state_dict(load_file(trained / "model.safetensors"))
    temperatures = told["temperatures"] if calibrated else None
    classifier = Classifier(network, temperatures, told["learned"], mirrored=told["mirrored"]).eval()
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(images), 256)
        batches = [[head.numpy() for head in classifier(part)[: len(attributes)]] for part in parts]
    return dict(zip(names(attributes), map(np.concatenate, zip(*batches, strict=True)), strict=True))


def quality(trained: Path, images: Split, found: dict[str, npt.NDArray[np.float32]]) -> dict[str, float | None]:
    """Means over the attributes, with the thresholds of the model."""
    calibration = load(trained / "model.onnx").calibration
    measures = [measure(answer) for answer in answers_of(images.attributes, found, calibration, images.labels)]
    return {name: mean_of(name, measures) for name in ("accuracy", "ece", "coverage", "answered_accuracy")}


def measure_rates(forms: dict[str, Path], images: Images, threads: int, batch: int, repeat: int) -> dict[str, float]:
    """Form -> images a second, the median of `repeat` turns of 2,048 images each."""
    many = np.resize(images, (2048, *images.shape[1:]))
    sessions = {name: open_session(path, threads) for name, path in forms.items()}
    outputs = {name: asked(session) for name, session in sessions.items()}
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeat + 1):
        for name, session in sessions.items():
            started = time.perf_counter()
            for start in range(0, len(many), batch):
                session.run(outputs[name], {INPUT: many[start : start + batch]})
            if turn:  # the first turn warms up
                rates[name].append(len(many) / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    """Convert, compare, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="artifact of train")
    parser.add_argument("--prepared", type=Path, required=True, metavar="DIR", help="artifact of prepare_train")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each rate (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="(default: %(default)s)")
    arguments = parser.parse_args()
    train, split = (read_split(arguments.prepared, name) for name in ("train", arguments.split))
    images = split.take()
    truth = in_pytorch(split.attributes, arguments.model, images)
    with tempfile.TemporaryDirectory() as name:
        forms = make_forms(arguments.model / "model.onnx", train, Path(name))
        print(
            f"{f'{len(split)} {arguments.split} images':<24} accuracy     ECE  answered  right of these"
            "  other answers  difference      MB"
        )
        rows = {"PyTorch, temperature 1": in_pytorch(split.attributes, arguments.model, images, calibrated=False)}
        rows |= {form: answer(open_session(path, 1), images) for form, path in forms.items()}
        for form, found in rows.items():
            measured = quality(arguments.model, split, found)
            differs = max(float(np.abs(found[attribute] - truth[attribute]).max()) for attribute in truth)
            other = sum(int((found[name].argmax(1) != truth[name].argmax(1)).sum()) for name in truth)
            size = f"{forms[form].stat().st_size / 1e6:8.2f}" if form in forms else ""
            print(
                f"{form:<24} {measured['accuracy']:.4f}  {measured['ece']:.4f}    {measured['coverage']:.4f}"
                f"          {measured['answered_accuracy']:.4f}  {other:13}  {differs:10.2g}{size}"
            )
        print("\nimages a second" + "".join(f"{form:>18}" for form in forms))
        for threads in arguments.threads:
            for batch in (1, 64, 256):
                rates = measure_rates(forms, images, threads, batch, arguments.repeat)
                told = "".join(f"{rate:10,.0f} ({rate / rates['float32']:4.2f})" for rate in rates.values())
                print(f"threads {threads}, batch {batch:<4}{told}", flush=True)


if __name__ == "__main__":
    main()
