"""Training in two processes (gloo on a CPU, as NCCL on GPUs): what they learn, and how they end."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages.common.attributes import UNKNOWN
from stages.common.dataset import Split, read_split
from stages.common.errors import ExitCode
from stages.common.fit import FitSettings, fit
from stages.train.distributed import DistributedError, fit_in_processes
from tests.common.prepared import TINY, make_prepared
from tests.processes import is_running

SETTINGS = FitSettings(TINY, epochs=8, seed=1, device="cpu")


def make_splits(folder: Path, train: int = 96) -> tuple[Split, Split]:
    prepared = make_prepared(folder / "p", train)
    return read_split(prepared, "train"), read_split(prepared, "val")


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    train, val = make_splits(tmp_path, train=256)
    checkpoint = tmp_path / "checkpoint.safetensors"
    fit_in_processes(2, train, val, SETTINGS, checkpoint)
    ran: list[int] = []
    both = fit(train, val, SETTINGS, checkpoint=checkpoint, on_epoch=lambda epoch: ran.append(epoch.epoch))
    one = fit(train, val, SETTINGS)
    assert ran == []
    assert len(both.history) == SETTINGS.epochs
    assert both.history[-1].val_mean_accuracy > 0.95
    assert one.history[-1].val_mean_accuracy > 0.95
    assert both.history[0].train_loss != one.history[0].train_loss, "each process augments its own share"
    assert both.history[0].train_loss == pytest.approx(one.history[0].train_loss, rel=0.2)


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


def test_what_one_process_says_is_what_the_stage_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train, val = make_splits(tmp_path)
    val.labels[:] = UNKNOWN
    with pytest.raises(DistributedError, match="the val split has no known label") as raised:
        fit_in_processes(2, train, val, SETTINGS, tmp_path / "checkpoint.safetensors")
    assert raised.value.exit_code == ExitCode.BAD_DATA
    assert "Traceback" not in capfd.readouterr().err


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
        deadline = time.monotonic() + 60
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        started = _children(stage.pid)
        stage.send_signal(signal.SIGKILL)
    assert len(started) == 2
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in started if is_running(pid)]
