"""Training on a GPU: captured as CUDA graphs it is what it is without, in every stage that trains."""

import dataclasses
import json
import statistics
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.common.contract.command_line import main
from stages.common.schema.dataset import Split, read_split
from stages.common.training.fit import FitSettings, fit
from stages.common.training.network import Network
from stages.common.training.step import Graph, Step
from tests.common.prepared import TINY, USUAL, make_prepared, make_searched, make_trained
from tests.common.training.fits import assert_same, fit_and_be_killed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is usable here"),
]

SETTINGS = FitSettings(TINY.model_copy(update={"dropout": 0.1}), USUAL, epochs=3, seed=1, device="cuda")
SIZES = [15, 14]
"""Of 100 images in batches of up to 16."""


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    prepared = make_prepared(tmp_path_factory.mktemp("prepared") / "p", train=100)
    return read_split(prepared, "train"), read_split(prepared, "val")


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the batches of the graphs have that were captured."""
    capture, sizes = Step._capture, list[int]()

    def captured_and_counted(step: Step, batch: tuple[Tensor, ...]) -> Graph:
        graph = capture(step, batch)
        sizes.append(len(batch[0]))
        return graph

    monkeypatch.setattr(Step, "_capture", captured_and_counted)
    return sizes


def read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no room for images on the GPU; then steps are not captured."""
    monkeypatch.setattr("stages.common.training.loader.RESIDENT_SHARE", 0)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_steps_are_captured_once_for_each_size_of_a_batch(
    splits: tuple[Split, Split], captured: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    assert len(fit(*splits, SETTINGS).history) == SETTINGS.epochs
    assert captured == SIZES
    assert warnings(caplog) == []


def test_a_graph_takes_the_steps_that_are_taken_without(
    splits: tuple[Split, Split], captured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same randomness, so that after an epoch no more than rounding tells them apart."""
    settings = dataclasses.replace(SETTINGS, epochs=1)
    alone = fit(*splits, settings)
    assert captured == SIZES
    read_ahead(monkeypatch)
    other = fit(*splits, settings)
    assert captured == SIZES
    assert alone.history[0].train_loss == pytest.approx(other.history[0].train_loss, rel=0.01)
    for a, b in zip(alone.network.parameters(), other.network.parameters(), strict=True):
        assert (a - b).norm() < 0.02 * a.norm() + 1e-3


def test_over_five_seeds_a_graph_learns_as_much(splits: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch) -> None:
    def accuracies() -> list[float]:
        long = [dataclasses.replace(SETTINGS, epochs=12, seed=seed) for seed in range(5)]
        return [fit(*splits, settings).history[-1].val_mean_accuracy for settings in long]

    with_graph = accuracies()
    read_ahead(monkeypatch)
    without = accuracies()
    assert min(*with_graph, *without) > 0.9
    assert statistics.mean(with_graph) == pytest.approx(statistics.mean(without), abs=0.02)


def test_same_seed_same_weights_and_another_seed_others(splits: tuple[Split, Split]) -> None:
    one, same, other = (fit(*splits, dataclasses.replace(SETTINGS, seed=seed)) for seed in (1, 1, 2))
    assert_same(one, same)
    assert one.history[-1].val_loss != other.history[-1].val_loss


def test_an_interrupted_fit_goes_on_to_the_same_weights(splits: tuple[Split, Split], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    fit_and_be_killed(splits, SETTINGS, checkpoint, after=2)
    assert_same(fit(*splits, SETTINGS, checkpoint=checkpoint), fit(*splits, SETTINGS))


@pytest.mark.parametrize("capturing", [True, False])
def test_memory_that_runs_out_halves_the_batch(
    capturing: bool, splits: tuple[Split, Split], captured: list[int], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """While a graph is captured, and in the steps before that."""
    forward = Network.forward

    def forward_in_little_memory(network: Network, images: Tensor) -> tuple[Tensor, ...]:
        if network.training and len(images) > 8 and torch.cuda.is_current_stream_capturing() == capturing:
            torch.empty(2**50, device=images.device)
        return forward(network, images)

    monkeypatch.setattr(Network, "forward", forward_in_little_memory)
    result = fit(*splits, SETTINGS)
    assert len(result.history) == SETTINGS.epochs
    assert result.hyperparameters.batch_size == 8
    assert captured == [8, 7]
    assert warnings(caplog) == ["out of GPU memory with 16 images a step: trying half of that"]


def test_a_step_that_no_graph_can_hold_is_taken_without_and_that_is_said(
    splits: tuple[Split, Split], captured: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = Network.forward

    def forward_that_asks(network: Network, images: Tensor) -> tuple[Tensor, ...]:
        assert images.sum().item() > 0  # which waits for the GPU, and a graph that is captured runs nothing
        return forward(network, images)

    monkeypatch.setattr(Network, "forward", forward_that_asks)
    result = fit(*splits, dataclasses.replace(SETTINGS, epochs=12))
    assert result.history[-1].val_mean_accuracy > 0.9
    assert captured == []
    (warning,) = warnings(caplog)
    assert warning.startswith("no CUDA graph can be captured of a step, which is slower without (")


def test_a_gpu_without_bfloat16_trains_in_float32_and_says_so(
    splits: tuple[Split, Split], captured: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stages.common.training.fit.has_fast_bfloat16", lambda _device: False)
    assert fit(*splits, dataclasses.replace(SETTINGS, epochs=12)).history[-1].val_mean_accuracy > 0.9
    assert captured == SIZES
    (warning,) = warnings(caplog)
    assert "has no bfloat16" in warning


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds what the stages read."""
    make_searched(tmp_path / "searched", make_prepared(tmp_path / "prepared", train=100))
    make_trained(tmp_path / "trained")
    return tmp_path


def words(section: str, **settings: object) -> list[str]:
    """A short training on the GPU."""
    common = {"device": "cuda", "epochs": 2}
    pairs = (common | settings).items()
    return [word for name, value in pairs for word in ("--set", f"{section}.{name}={json.dumps(value)}")]


def test_stage_train(folder: Path, captured: list[int]) -> None:
    from stages.train.stage import STAGE

    inputs = ["--prepare_train", str(folder / "prepared"), "--hyperopt", str(folder / "searched")]
    short = words("train", width=8, batch_size=16, use_hyperopt=False)
    assert main(STAGE, [*inputs, "--out", str(folder / "out"), *short]) == 0
    told = json.loads((folder / "out" / "metrics" / "train_metrics.json").read_text())
    assert told["device"] == torch.cuda.get_device_name()
    assert captured == (SIZES if torch.cuda.device_count() == 1 else [])


def test_stage_hyperopt(folder: Path, captured: list[int]) -> None:
    from stages.hyperopt.stage import STAGE

    short = words("hyperopt", max_evals=2, rungs=[], workers=1)
    assert main(STAGE, ["--prepare_train", str(folder / "prepared"), "--out", str(folder / "out"), *short]) == 0
    assert captured[:2]


def test_stage_label_doubt(folder: Path, captured: list[int]) -> None:
    from stages.label_doubt.stage import STAGE

    inputs = ["--prepare_train", str(folder / "prepared"), "--train", str(folder / "trained")]
    short = words("label_doubt", folds=2, width=8, batch_size=16, workers=1)
    assert main(STAGE, [*inputs, "--out", str(folder / "out"), *short]) == 0
    assert len(captured) in {2, 4}, "one or two sizes in each fold"
