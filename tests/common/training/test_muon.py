"""Muon on all matrices at once: the steps of PyTorch's, which computes them in bfloat16."""

import torch
from torch import nn

from stages.common.training.muon import COEFFICIENTS, STEPS, Muon, orthogonal

SHAPES = ((16, 27), (32, 144), (64, 576), (48, 27))
"""Of convolutions; the last is tall."""


def test_it_takes_the_steps_of_pytorchs_muon() -> None:
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.empty(shape)) for shape in SHAPES] for _ in range(2))
    with torch.no_grad():
        for our, other in zip(ours, theirs, strict=True):
            other.copy_(our.normal_())
    before = [parameter.detach().clone() for parameter in ours]
    rate = torch.tensor(0.0)
    optimizer, reference = Muon(ours, rate, 0.1), torch.optim.Muon(theirs, 0.0, 0.1)
    for step in range(3):
        optimizer.param_groups[0]["lr"].fill_(0.05 / (step + 1))
        reference.param_groups[0]["lr"] = 0.05 / (step + 1)
        for our, other in zip(ours, theirs, strict=True):
            our.grad = torch.randn_like(our)
            other.grad = our.grad.clone()
        optimizer.step()
        reference.step()  # type: ignore[no-untyped-call]
    for our, other, start in zip(ours, theirs, before, strict=True):
        assert (our - other).norm() < 0.02 * (other - start).norm()
        momenta = optimizer.state[our]["momentum_buffer"], reference.state[other]["momentum_buffer"]
        torch.testing.assert_close(*momenta)


def test_it_is_exact_where_bfloat16_is_not() -> None:
    """Also where singular values are small, as those of a gradient are: their squares are what is computed with."""
    torch.manual_seed(0)
    a, b, c = COEFFICIENTS
    matrices = [torch.randn(shape) * torch.logspace(0, -4, shape[1]) for shape in SHAPES]
    for found, matrix in zip(orthogonal(matrices, torch.tensor(2.0)), matrices, strict=True):
        exact = matrix.double() / matrix.double().norm()
        for _ in range(STEPS):
            gram = exact @ exact.T
            exact = a * exact + (b * gram + c * gram @ gram) @ exact
        assert (found - 2 * exact).norm() < 1e-3 * (2 * exact).norm()


def test_a_matrix_without_gradient_stays_and_zeros_are_no_harm() -> None:
    still, zero = (nn.Parameter(torch.ones(4, 9)) for _ in range(2))
    zero.grad = torch.zeros(4, 9)
    Muon([still, zero], torch.tensor(0.5), 0.0).step()
    assert torch.equal(still, torch.ones(4, 9))
    assert torch.equal(zero, torch.ones(4, 9))
