"""The loss of all attributes at once: what PyTorch's cross-entropy gives, attribute by attribute."""

import pytest
import torch
from torch.nn import functional

from stages.common.schema.attributes import UNKNOWN, Attribute
from stages.common.training.loss import Losses

CPU = torch.device("cpu")
COUNTS = (2, 5, 3)
ATTRIBUTES = tuple(
    Attribute(f"a{count}", tuple(str(number) for number in range(count)), f"a{count}", f"A {count}") for count in COUNTS
)


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_pytorchs_cross_entropy(smoothing: float, weighted: bool) -> None:
    torch.manual_seed(0)
    outputs = [torch.randn(40, count, requires_grad=True) for count in COUNTS]
    labels = torch.stack([torch.randint(UNKNOWN, count, (40,)) for count in COUNTS], 1)
    weights = [torch.rand(count) for count in COUNTS] if weighted else []
    expected = torch.stack(
        [
            functional.cross_entropy(
                output, labels[:, number], weights[number] if weighted else None,
                ignore_index=UNKNOWN, reduction="sum", label_smoothing=smoothing,
            )
            for number, output in enumerate(outputs)
        ]
    )  # fmt: skip
    found = Losses(ATTRIBUTES, CPU, smoothing, weights)(outputs, labels)
    torch.testing.assert_close(found, expected)
    of_attributes = torch.tensor([1.0, 2.0, 0.5])
    gradients = [torch.autograd.grad((losses * of_attributes).sum(), outputs) for losses in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_unknown_labels_add_nothing_to_loss_and_gradient() -> None:
    logits = torch.arange(8.0).sin().view(4, 2).requires_grad_()
    outputs = [functional.pad(logits, (0, count - 2)) for count in COUNTS]
    labels = torch.tensor([[0, 1, -1], [1, 1, -1], [-1, -1, -1], [-1, -1, -1]])
    losses = Losses(ATTRIBUTES, CPU, 0.05)(outputs, labels)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert losses[2] == 0
    assert (losses[:2] > 0).all()
    assert (gradient[2:] == 0).all()
    assert (gradient[:2] != 0).all()


def test_a_class_that_cannot_be_is_no_harm_to_the_others() -> None:
    """In validation the logits of classes that training has not seen are minus infinity, and no label is theirs."""
    outputs = [torch.zeros(2, count) for count in COUNTS]
    outputs[1][:, 3:] = -torch.inf
    outputs[2][:] = torch.nan
    losses = Losses(ATTRIBUTES, CPU)(outputs, torch.tensor([[0, 1, -1], [1, 2, -1]]))
    torch.testing.assert_close(losses, 2 * torch.tensor([2.0, 3.0, 1.0]).log())
