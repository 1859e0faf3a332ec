"""Stage train, by its command line: the files it leaves, what it takes from the search, how it goes on after a stop."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from stages.common import artifacts
from stages.common.attributes import NAMES
from stages.common.network import Classifier, Network
from stages.common.onnx_model import load
from stages.common.stage import main
from stages.common.version import ROOT
from stages.train.stage import STAGE
from tests.common.prepared import SIDE, TINY, finish, make_prepared, make_searched

QUICK = [
    "--set",
    "train.epochs=3",
    "--set",
    "train.width=8",
    "--set",
    "train.batch_size=16",
    "--set",
    "train.device=cpu",
]


@pytest.fixture(autouse=True)
def _keep_signal_handler() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `prepared` and `searched`, the inputs."""
    folder = tmp_path_factory.mktemp("train")
    make_searched(folder / "searched", make_prepared(folder / "prepared"))
    return folder


def inputs(folder: Path) -> list[str]:
    return ["--prepare_train", str(folder / "prepared"), "--hyperopt", str(folder / "searched")]


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    handler = signal.getsignal(signal.SIGTERM)
    assert main(STAGE, [*inputs(folder), "--out", str(folder / "out"), *QUICK]) == 0
    signal.signal(signal.SIGTERM, handler)
    return folder / "out"


def test_the_model_is_one_file_and_onnx_runtime_answers_as_pytorch(trained: Path) -> None:
    model = load(trained / "model.onnx")  # checks names, shapes, classes and metadata
    assert model.image_size == SIDE
    assert sorted(path.name for path in trained.iterdir() if path.suffix in {".onnx", ".data", ".pt", ".pth"}) == [
        "model.onnx"
    ]
    with safe_open(trained / "model.safetensors", "pt") as file:
        network = Network(int(file.metadata()["width"]))
    network.load_state_dict(load_file(trained / "model.safetensors"))
    images = np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    with torch.inference_mode():
        expected = Classifier(network.eval())(torch.from_numpy(images))
    for count in (1, 5):
        found = model.predict(images[:count])
        for name, values in zip(NAMES, expected, strict=True):
            np.testing.assert_allclose(found[name], values[:count].numpy(), atol=1e-4)


def test_the_metrics_tell_the_best_epoch_and_what_was_used(trained: Path) -> None:
    metrics = json.loads((trained / "metrics" / "train_metrics.json").read_text())
    best = min(metrics["history"], key=lambda epoch: epoch["val_loss"])
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["val_mean_accuracy"] == best["val_mean_accuracy"]
    assert set(metrics["val_accuracy"]) == set(NAMES)
    assert metrics["hyperparameters"] == TINY.model_dump()
    assert (metrics["train_images"], metrics["epochs"], metrics["device"]) == (96, 3, "cpu")
    headline = artifacts.read_manifest(trained)["headline"]
    assert set(headline) == {"val_mean_accuracy", "best_epoch", "epochs", "images_per_s", "device"}
    for plot in ("training_curves.png", "accuracy_curves.png"):
        assert (trained / "plots" / plot).stat().st_size > 10_000


def test_the_search_decides_only_while_it_is_asked(folder: Path, tmp_path: Path) -> None:
    arguments = [*inputs(folder), "--out", str(tmp_path / "out"), *QUICK, "--set", "train.epochs=1"]
    assert main(STAGE, [*arguments, "--set", "train.use_hyperopt=false", "--set", "train.learning_rate=0.03"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics" / "train_metrics.json").read_text())
    assert metrics["hyperparameters_from"] == "params.yaml"
    assert metrics["hyperparameters"]["learning_rate"] == 0.03


def break_best(folder: Path) -> None:
    searched = folder / "searched"
    (searched / "best_params.json").write_text('{"learning_rate": "fast"}')
    key = json.loads((folder / "prepared" / "manifest.json").read_text())["key"]
    finish(searched, "hyperopt", prepare_train={"key": key})


def other_data(folder: Path) -> None:
    finish(folder / "searched", "hyperopt", prepare_train={"key": "0123456789abcdef"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(break_best, "best_params.json holds no hyperparameters"), (other_data, "the search ran on data 0123456789ab")],
)
def test_a_search_that_does_not_fit_is_refused(
    spoil: Callable[[Path], None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_searched(tmp_path / "searched", make_prepared(tmp_path / "prepared"))
    spoil(tmp_path)
    assert main(STAGE, [*inputs(tmp_path), "--out", str(tmp_path / "out"), *QUICK]) == 65
    assert said in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_asked_for_and_absent(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = [*inputs(folder), "--out", str(tmp_path / "out"), *QUICK]
    assert main(STAGE, [*arguments, "--set", "train.device=cuda"]) == 69
    assert "no CUDA GPU is usable here" in caplog.text


@pytest.mark.parametrize(
    "setting", ["train.epochs=-1", "train.dropout=1.0", "train.loss_weights={beard: 1}", "train.device=tpu"]
)
def test_wrong_parameters_are_named(
    setting: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(STAGE, [*inputs(folder), "--out", str(tmp_path / "out"), "--set", setting]) == 64
    assert setting.partition("=")[0] in caplog.text


def test_help_does_not_load_pytorch() -> None:
    code = (
        "import sys; from stages.train import stage; from stages.hyperopt import stage as other; "
        "assert not {'torch', 'hyperopt', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_stopped_training_publishes_nothing_and_goes_on_later(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = [*inputs(folder), "--out", str(tmp_path / "out"), *QUICK]
    arguments += ["--set", "train.epochs=30", "--set", "train.patience=30", "--set", "train.batch_size=96"]
    command = [sys.executable, "-m", "stages.train", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and not list(tmp_path.rglob("checkpoint.safetensors")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143, said
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".partial-*"))

    caplog.set_level("INFO")
    assert main(STAGE, arguments) == 0
    assert "going on after epoch" in caplog.text
    history = json.loads((tmp_path / "out" / "metrics" / "train_metrics.json").read_text())["history"]
    assert [epoch["epoch"] for epoch in history] == list(range(1, 31))
