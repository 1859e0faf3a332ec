"""One step of training, by itself; what of it needs a GPU is in test_gpu.py."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch._inductor import config as inductor

from stages.common.training.augmentation import Augmentation
from stages.common.training.fit import LABEL_SMOOTHING, make_optimizers
from stages.common.training.loss import Losses
from stages.common.training.network import Network
from stages.common.training.step import Step
from tests.common.prepared import NONE, TINY, USUAL
from tests.common.samples import SAMPLE_ATTRIBUTES

CPU = torch.device("cpu")


def make_step(
    *, captured: bool = False, compiled: bool = False, dropout: float = 0.5, augmentation: Augmentation = USUAL
) -> tuple[Step, Callable[[], None]]:
    """A step, and what takes it; always the same."""
    torch.manual_seed(0)
    network = Network(SAMPLE_ATTRIBUTES, width=8, dropout=dropout)
    images = torch.randint(0, 256, (16, 20, 20, 3), dtype=torch.uint8)
    labels = torch.stack([torch.randint(-1, len(attribute.classes), (16,)) for attribute in SAMPLE_ATTRIBUTES], 1)
    shares = torch.full((len(SAMPLE_ATTRIBUTES),), 1 / 16)
    losses_of = Losses(SAMPLE_ATTRIBUTES, CPU, LABEL_SMOOTHING)
    step = Step(
        network, make_optimizers(network, TINY), augmentation, losses_of,
        bfloat16=False, captured=captured, compiled=compiled,
    )  # fmt: skip
    return step, lambda: step(images, labels, shares, (0.05, 0.02))


def outcome(step: Step) -> dict[str, torch.Tensor]:
    """All that a step can have changed."""
    return {**step.learner.state_dict(), "total": step.total, "drawn": torch.rand(3)}


@pytest.mark.parametrize("before", [0, 2])
def test_a_step_that_is_undone_changes_nothing_that_comes_later(before: int) -> None:
    """Before the first step optimizers remember nothing, later they do."""
    found = []
    for rehearsed in (False, True):
        step, learn = make_step()
        for _ in range(before):
            learn()
        if rehearsed:
            total = step.total.clone()
            with step.undone():
                learn()
                learn()
                assert step.total > total
        learn()
        found.append(outcome(step))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_no_graph_can_be_captured_it_is_said_once_and_steps_are_as_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = []
    for captured in (False, True):
        step, learn = make_step(captured=captured)
        learn()
        learn()
        found.append(outcome(step))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.startswith("no CUDA graph can be captured of a step, which is slower without (")


def test_without_a_compiler_it_is_said_once_and_steps_are_as_without(caplog: pytest.LogCaptureFixture) -> None:
    found = []
    with inductor.patch({"cpp.cxx": ("/no/such/compiler",)}):
        for compiled in (False, True):
            step, learn = make_step(compiled=compiled)
            learn()
            learn()
            found.append(outcome(step))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.startswith("the step cannot be compiled and runs as it is; train.compile needs a C++ compiler (")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_compiled_step_learns_the_same() -> None:
    found = []
    for compiled in (False, True):
        step, learn = make_step(compiled=compiled, dropout=0, augmentation=NONE)
        learn()
        learn()
        assert (step.compiled is not None) == compiled
        found.append(outcome(step))
    for name in found[0].keys() - {"drawn"}:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-3, atol=1e-4)
