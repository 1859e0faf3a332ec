"""The fit loop: what it learns, what unknown labels do, and that it repeats itself."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stages.common.contract.cpus import available_cpus
from stages.common.contract.errors import DataError, UnavailableError
from stages.common.inference.answers import Answers
from stages.common.inference.calibration import expected_calibration_error, softmax
from stages.common.schema.attributes import UNKNOWN, Attribute, names
from stages.common.schema.dataset import Split, read_split
from stages.common.schema.learned import class_shares
from stages.common.training.balance import corrections, label_weights
from stages.common.training.device import choose_device
from stages.common.training.fit import DivergedError, FitSettings, fit, one_cycle
from stages.common.training.hyperparameters import Hyperparameters
from stages.common.training.network import Network, outputs_of
from tests.common.prepared import TINY, USUAL, make_prepared
from tests.common.training.fits import assert_same, fit_and_be_killed

pytestmark = pytest.mark.slow

SETTINGS = FitSettings(TINY, USUAL, epochs=3, seed=1, device="cpu")


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    prepared = make_prepared(tmp_path_factory.mktemp("prepared") / "p")
    return read_split(prepared, "train"), read_split(prepared, "val")


def test_it_learns_every_attribute(splits: tuple[Split, Split]) -> None:
    result = fit(*splits, dataclasses.replace(SETTINGS, epochs=12))
    assert result.history[-1].val_mean_accuracy > 0.9, result.history[-1]


def test_same_seed_same_weights_and_another_seed_others(splits: tuple[Split, Split]) -> None:
    one, same, other = (fit(*splits, dataclasses.replace(SETTINGS, seed=seed)).network for seed in (1, 1, 2))
    for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    name = "heads.0.weight"
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def rare(count: int, seed: int) -> Split:
    """Pictures whose brightness tells badly who of them, 3 %, has a hat, and which of three ties, one of them rare."""
    random = np.random.default_rng(seed)
    hats, ties = random.random(count) < 0.03, random.choice(3, count, p=[0.6, 0.37, 0.03])
    halves = random.normal(100 + np.stack([20 * hats, 20 * ties], 1), 10)[:, :, None, None, None]
    images = np.broadcast_to(halves, (count, 2, 10, 20, 3)).reshape(count, 20, 20, 3).clip(0, 255).astype(np.uint8)
    attributes = (
        Attribute("hat", ("no", "yes"), "hat", "Hat"),
        Attribute("tie", ("none", "bow", "string"), "tie", "Tie"),
    )
    labels = np.stack([hats, ties], 1).astype(np.int16)
    labels[random.random(labels.shape) < 0.1] = UNKNOWN
    names = [f"{number}.png" for number in range(count)]
    return Split(
        attributes, names, labels, [images], np.zeros(count, np.int32), *(np.arange(count, dtype=np.int32),) * 2
    )


def test_labels_of_rare_classes_may_count_more_and_confidences_are_true_all_the_same() -> None:
    train, val, later = rare(1500, 0), rare(400, 1), rare(3000, 2)
    balanced = TINY.model_copy(update={"class_balance": 1.0, "batch_size": 64})
    network = fit(train, val, dataclasses.replace(SETTINGS, hyperparameters=balanced, epochs=4)).network
    outputs = outputs_of(network, later, torch.device("cpu"))
    for logits, labels, added in zip(outputs, later.labels.T, corrections(train, 1.0), strict=True):
        known = labels != UNKNOWN
        true, as_trained = (softmax(values)[known].mean(0) for values in (logits, logits - added.numpy()))
        shares = np.bincount(labels[known]) / known.sum()
        np.testing.assert_allclose(true, shares, atol=0.06)  # label smoothing alone makes .03 to .05 of 3 %
        assert as_trained[-1] > 0.2, "in training every class counted alike"
        answers = Answers(train.attributes[0], labels[known], softmax(logits)[known])
        error = expected_calibration_error(answers.confidence, answers.right)
        assert error is not None
        assert error < 0.06


def test_a_label_counts_once_on_average_however_its_class_counts() -> None:
    train = rare(1500, 0)
    for weights, shares in zip(label_weights(train, 1.0), class_shares(train.attributes, train.labels), strict=True):
        np.testing.assert_allclose(
            weights.numpy() * shares, 1 / len(shares), rtol=1e-5
        )  # every class as much as the others
    for half, whole in zip(label_weights(train, 0.5), label_weights(train, 1.0), strict=True):
        np.testing.assert_allclose((half[0] / half[-1]) ** 2, whole[0] / whole[-1], rtol=1e-5)
    assert all((weights == 1).all() for weights in label_weights(train, 0.0))


def test_an_interrupted_fit_goes_on_to_the_same_weights(splits: tuple[Split, Split], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    fit_and_be_killed(splits, SETTINGS, checkpoint, after=2)
    seen = []
    resumed = fit(*splits, SETTINGS, on_epoch=lambda epoch: seen.append(epoch.epoch), checkpoint=checkpoint)
    assert seen == [3]
    assert_same(resumed, fit(*splits, SETTINGS))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 64
    path.write_bytes(data)


def not_a_number(path: Path) -> None:
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors["network/heads.0.weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata)


def of_a_wider_network(path: Path) -> None:
    wider = TINY.model_copy(update={"width": 16})
    train, val = (read_split(path.parent / "p", split) for split in ("train", "val"))
    path.unlink()
    fit(train, val, dataclasses.replace(SETTINGS, hyperparameters=wider, epochs=1), checkpoint=path)


def header_cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8] + data[8:].replace(b"dtype", b"dtyqe", 1))


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        not_a_number,
        of_a_wider_network,
        header_cut,
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: path.write_bytes(b"\x80\x04K\x01."),
        lambda path: path.write_bytes(path.read_bytes().replace(b"history", b"hystory")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"train_loss", b"train_lose", 1)),
    ],
)
def test_a_checkpoint_that_is_not_what_was_saved_means_starting_again(
    damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = make_prepared(tmp_path / "p", train=32, val=20)
    small = read_split(prepared, "train"), read_split(prepared, "val")
    checkpoint = tmp_path / "checkpoint.safetensors"
    fit(*small, SETTINGS, checkpoint=checkpoint, on_epoch=lambda epoch: epoch.epoch == 2)
    damage(checkpoint)
    epochs: list[int] = []
    again = fit(*small, SETTINGS, checkpoint=checkpoint, on_epoch=lambda epoch: epochs.append(epoch.epoch))
    assert epochs == [1, 2, 3]
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    for a, b in zip(
        again.network.state_dict().values(), fit(*small, SETTINGS).network.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_it_stops_where_it_is_told_to(splits: tuple[Split, Split]) -> None:
    assert len(fit(*splits, SETTINGS, on_epoch=lambda epoch: epoch.epoch == 2).history) == 2


def test_out_of_gpu_memory_halves_the_batch_once_then_says_what_to_change(
    splits: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward, fits = Network.forward, 8

    def forward_in_little_memory(network: Network, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if network.training and len(images) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(network, images)

    monkeypatch.setattr(Network, "forward", forward_in_little_memory)
    assert len(fit(*splits, SETTINGS).history) == SETTINGS.epochs
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "out of GPU memory with 16 images a step: trying half of that"
    ]
    fits = 7
    with pytest.raises(UnavailableError, match="out of GPU memory with 8 images a step: lower batch_size, width or"):
        fit(*splits, SETTINGS)


def test_a_loss_that_is_not_a_number_is_told(splits: tuple[Split, Split]) -> None:
    wild = Hyperparameters.model_construct(**TINY.model_dump() | {"learning_rate": 1e30})
    with pytest.raises(DivergedError, match="lower learning_rate"):
        fit(*splits, dataclasses.replace(SETTINGS, hyperparameters=wild))


def test_an_attribute_without_labels_is_left_out_and_none_at_all_is_an_error(splits: tuple[Split, Split]) -> None:
    train, val = splits
    labels = val.labels.copy()
    labels[:, 2] = -1
    settings = dataclasses.replace(SETTINGS, epochs=1)
    labels[:, 1] = np.where(labels[:, 1] == 1, -1, labels[:, 1])  # one class is left
    last = fit(train, dataclasses.replace(val, labels=labels), settings).history[-1]
    assert [name for name in names(train.attributes) if last.val_accuracy[name] is None] == [names(train.attributes)[2]]
    balanced = last.val_balanced_accuracy
    assert [name for name in names(train.attributes) if balanced[name] is None] == [*names(train.attributes)[1:3]]
    assert last.val_mean_balanced_accuracy == np.mean(
        [accuracy for accuracy in balanced.values() if accuracy is not None]
    )
    labels[:] = -1
    with pytest.raises(DataError, match="the val split has no label"):
        fit(train, dataclasses.replace(val, labels=labels), settings)


def test_the_learning_rate_rises_once_and_falls_to_nothing() -> None:
    rates = [one_cycle(step / 100) for step in range(101)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_asked_for_and_absent_is_one_line() -> None:
    with pytest.raises(UnavailableError, match="no CUDA GPU is usable"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_threads_follow_the_quota_of_the_container(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(64)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert available_cpus(tmp_path) == expected
