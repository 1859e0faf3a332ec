"""Shared by the tests of training on a CPU and on a GPU."""

from pathlib import Path

import pytest
import torch

from stages.common.schema.dataset import Split
from stages.common.training.fit import Epoch, FitResult, FitSettings, fit


class Killed(BaseException):
    pass


def fit_and_be_killed(splits: tuple[Split, Split], settings: FitSettings, checkpoint: Path, after: int) -> None:
    """Leave the checkpoint of a training that was killed at the end of epoch `after`."""

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == after:
            raise Killed

    with pytest.raises(Killed):
        fit(*splits, settings, on_epoch=kill, checkpoint=checkpoint)


def assert_same(one: FitResult, other: FitResult) -> None:
    """Both have the same weights, to the bit, and had the same losses on the way."""
    assert [epoch.val_loss for epoch in one.history] == [epoch.val_loss for epoch in other.history]
    for a, b in zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
