"""Training in two processes (gloo on a CPU, as NCCL on GPUs): what they learn, and how they end."""

import dataclasses
import errno
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.common.contract.errors import DataError
from stages.common.contract.logs import log
from stages.common.contract.params import load_params
from stages.common.contract.version import ROOT
from stages.common.schema.attributes import UNKNOWN, names
from stages.common.schema.dataset import Split, read_split
from stages.common.training.fit import FitSettings, fit
from stages.train.distributed import count_processes, fit_in_processes
from stages.train.params import Params
from tests.common.prepared import NONE, TINY, USUAL, make_prepared
from tests.processes import is_running, stop_when
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SETTINGS = FitSettings(TINY, USUAL, epochs=8, seed=1, device="cpu")


def make_splits(folder: Path, train: int = 96) -> tuple[Split, Split]:
    prepared = make_prepared(folder / "p", train)
    return read_split(prepared, "train"), read_split(prepared, "val")


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    train, val = make_splits(tmp_path, train=256)
    checkpoint = tmp_path / "checkpoint.safetensors"
    fit_in_processes(2, train, val, SETTINGS, checkpoint)
    ran: list[int] = []
    both = fit(train, val, SETTINGS, checkpoint=checkpoint, on_epoch=lambda epoch: ran.append(epoch.epoch))
    alone = fit(train, val, SETTINGS)
    assert ran == []
    assert len(both.history) == SETTINGS.epochs
    assert both.history[-1].val_mean_accuracy > 0.95
    assert alone.history[-1].val_mean_accuracy > 0.95
    assert both.history[0].train_loss != alone.history[0].train_loss, "each process augments its own share"
    assert both.history[0].train_loss == pytest.approx(alone.history[0].train_loss, rel=0.2)


@pytest.mark.parametrize("processes", [2, 4])
def test_the_gradient_is_that_of_one_process_also_where_labels_are_unknown(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step over 22 images, parts of 11 or of 5 and 6; what optimizers remember of it is a part of the gradient.

    All images are the same and nothing is random, so each part has the batch statistics of the whole, and labels alone
    tell the parts apart: half of them are unknown, and of one attribute all but two. Those of rare classes count more.
    """
    monkeypatch.setattr("stages.common.training.fit.has_fast_bfloat16", lambda _device: False)
    train, val = make_splits(tmp_path, train=22)
    random = np.random.default_rng(1)
    labels = np.stack([random.integers(0, len(attribute.classes), 22) for attribute in train.attributes], 1).astype(
        np.int16
    )
    labels[random.random(labels.shape) < 0.5] = UNKNOWN
    labels[:, 1] = [0, 1, *[UNKNOWN] * 20]
    same = dataclasses.replace(train.select(np.zeros(22, np.int64)), labels=labels)
    weights = dict(zip(names(train.attributes), (1, 2, 3, 0.5, 1), strict=True))
    whole = TINY.model_copy(update={"batch_size": 22, "loss_weights": weights, "class_balance": 0.5})
    settings = dataclasses.replace(SETTINGS, epochs=1, hyperparameters=whole, augmentation=NONE)

    alone = fit(same, val, settings, checkpoint=tmp_path / "one.safetensors")
    fit_in_processes(processes, same, val, settings, tmp_path / "several.safetensors")
    gradient, shared = (
        {
            name: tensor
            for name, tensor in load_file(tmp_path / f"{which}.safetensors").items()
            if name.endswith(("/exp_avg", "/momentum_buffer"))
        }
        for which in ("one", "several")
    )
    assert gradient.keys() == shared.keys()
    assert len(gradient) == 5 + 2 * 5 + 2, "five convolutions, their normalisations, and the layer of all heads"
    for name, expected in gradient.items():
        torch.testing.assert_close(shared[name], expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()) + 1e-9)
    several = fit(same, val, settings, checkpoint=tmp_path / "several.safetensors")
    assert several.history[0].train_loss == pytest.approx(alone.history[0].train_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("gpus", "cores", "asked", "images", "batch_size", "expected"),
    [
        (8, 2, 0, 1000, 64, 3),  # 16 steps of 62 or 63 images
        (8, 2, 8, 1000, 64, 3),
        (8, 2, 0, 1024, 64, 4),
        (2, 2, 0, 1024, 64, 2),
        (8, 2, 0, 96, 4096, 6),
        (0, 64, 0, 1024, 64, 4),
        (0, 64, 2, 1024, 64, 2),
        (8, 64, 8, 1024, 8, 1),
    ],
)
def test_each_process_gets_enough_images_for_batch_normalisation(
    gpus: int, cores: int, asked: int, images: int, batch_size: int, expected: int, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("stages.train.distributed.available_cpus", lambda: cores)
    section = load_params(Params, ROOT / "params.yaml", [f"train.processes={asked}"]).train
    with caplog.at_level("INFO"):
        assert count_processes(section, images, batch_size) == expected
    assert ("batch normalisation wants 16" in caplog.text) == (expected < (asked or gpus or cores))


def test_same_seed_same_weights(tmp_path: Path) -> None:
    train, val = make_splits(tmp_path)
    weights = []
    for name in ("one", "same"):
        (tmp_path / name).mkdir()
        checkpoint = tmp_path / name / "checkpoint.safetensors"
        fit_in_processes(2, train, val, dataclasses.replace(SETTINGS, epochs=2), checkpoint)
        weights.append(load_file(checkpoint))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_each_process_fits_in_a_thread_that_has_chosen_the_gpu_of_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To CUDA a new thread is on the first GPU, whatever others have chosen."""
    chosen = threading.local()

    def use_gpu(_device: str, number: int) -> None:
        chosen.number = number

    def fit_and_tell(*_: object, **__: object) -> None:
        (tmp_path / f"rank{os.environ['RANK']}").write_text(str(getattr(chosen, "number", "none")))

    monkeypatch.setattr("stages.train.distributed.use_gpu", use_gpu)
    monkeypatch.setattr("stages.train.distributed.fit", fit_and_tell)
    fit_in_processes(2, *make_splits(tmp_path), SETTINGS, tmp_path / "checkpoint.safetensors")
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["0", "1"]


def test_what_one_process_says_is_what_the_stage_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train, val = make_splits(tmp_path)
    val.labels[:] = UNKNOWN
    with pytest.raises(DataError, match="the val split has no label"):
        fit_in_processes(2, train, val, SETTINGS, tmp_path / "checkpoint.safetensors")
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk_is_told_as_such(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor can the process that finds it full leave a file that says so."""
    checkpoint = tmp_path / "state" / "checkpoint.safetensors"
    checkpoint.parent.mkdir()
    (checkpoint.parent / f".{checkpoint.name}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        fit_in_processes(2, *make_splits(tmp_path, train=32), SETTINGS, checkpoint)
    assert raised.value.errno == errno.ENOSPC
    assert str(checkpoint.parent) in str(raised.value.filename)
    assert "Traceback" not in capfd.readouterr().err


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Path]:
    """A file with what is logged, in processes forked from this one, too."""
    handler = logging.FileHandler(tmp_path / "log")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield tmp_path / "log"
    log.removeHandler(handler)
    handler.close()


def test_progress_counts_no_more_than_there_is_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Path
) -> None:
    monkeypatch.setattr("stages.common.contract.logs.INTERVAL_S", 0.0)
    train, val = make_splits(tmp_path, train=37)
    checkpoint = tmp_path / "checkpoint.safetensors"
    for epochs, left in ((2, 2), (5, 3)):  # the second goes on after the first
        fit_in_processes(2, train, val, dataclasses.replace(SETTINGS, epochs=epochs), checkpoint)
        told = re.findall(r"(\d+) of (\d+) images, .* (-?\d+) s left", logged.read_text())
        logged.write_text("")
        assert {int(total) for _, total, _ in told} == {37 * left}
        assert [int(done) for done, _, _ in told][-1] == 37 * left
        assert all(int(seconds) >= 0 for _, _, seconds in told)


def _children(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [below for child in found for below in _children(child)]


def test_no_process_outlives_the_stage_even_when_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.stages.test_train_distributed import *;"
        "fit_in_processes(2, *make_splits(Path(sys.argv[1]), train=4000), SETTINGS, Path(sys.argv[2]))"
    )
    checkpoint = tmp_path / "checkpoint.safetensors"
    with subprocess.Popen([sys.executable, "-c", program, tmp_path, checkpoint], stderr=subprocess.DEVNULL) as stage:
        stop_when(stage, checkpoint.exists, "a checkpoint")
        started = _children(stage.pid)
        stage.send_signal(signal.SIGKILL)
    assert len(started) == 2
    wait_until(lambda: not any(is_running(pid) for pid in started), "the end of its processes")
