"""Muon for all matrices at once: PyTorch's version goes matrix by matrix and cannot be part of a CUDA graph."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MOMENTUM = 0.95
COEFFICIENTS = 3.4445, -4.7750, 2.0315
STEPS = 5
TINY = 1e-7
"""Least norm of a matrix, to avoid a division by 0."""


class Muon(Optimizer):
    """`torch.optim.Muon` with its defaults, up to rounding: Nesterov momentum, made orthogonal matrix by matrix.

    Jordan 2024, "Muon: An optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/.
    The learning rate is a tensor, and the host reads nothing during a step, so a CUDA graph can hold it.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], learning_rate: Tensor, weight_decay: float) -> None:
        """Optimise matrices.

        Args:
            matrices: two-dimensional, all on one device.
            learning_rate: float32 (), on the same device.
            weight_decay: decoupled; multiplied with the learning rate at each step.
        """
        super().__init__(matrices, {"lr": learning_rate, "weight_decay": weight_decay, "capturable": True})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002 (as every optimizer's)
        """Update the weights by the gradients."""
        (group,) = self.param_groups
        matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
        gradients = [matrix.grad for matrix in matrices]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        updates = orthogonal(torch._foreach_lerp(gradients, momenta, MOMENTUM), group["lr"])
        for update in updates:
            rows, columns = update.shape
            if rows > columns:  # as PyTorch's
                update *= math.sqrt(rows / columns)
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(matrices, updates)


def orthogonal(matrices: Sequence[Tensor], size: Tensor) -> list[Tensor]:
    """Bring all singular values of each matrix close to `size` (.7 to 1.2 of it), by five steps of Newton and Schulz.

    A step is X <- (a + b XX' + c (XX')^2) X. So the result is a polynomial of the Gram matrix XX' times X, and the
    steps need only the Gram matrices: a ninth of the size for a matrix of 64x576. Zeros of padding stay zero, so one
    batched product serves all matrices. In float32, because the small eigenvalues of a Gram matrix are squares.

    Args:
        matrices: float32, of any shapes.
        size: float32 ().

    Returns:
        Of the same shapes.
    """
    a, b, c = COEFFICIENTS
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.T for matrix in matrices]
    rows, columns = (max(matrix.shape[side] for matrix in wide) for side in (0, 1))
    padded = wide[0].new_zeros(len(wide), rows, columns)
    for place, matrix in zip(padded, wide, strict=True):
        place[: len(matrix), : matrix.shape[1]] = matrix
    gram = padded @ padded.mT
    norm = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt().clamp(min=TINY).view(-1, 1, 1)
    gram = gram / norm**2
    found = size / norm
    for step in range(STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        found = factor @ found if step else factor * found
        if step < STEPS - 1:
            gram = factor @ gram @ factor
    padded = found @ padded
    parts = [place[: len(matrix), : matrix.shape[1]] for place, matrix in zip(padded, wide, strict=True)]
    return [part if part.shape == matrix.shape else part.T for part, matrix in zip(parts, matrices, strict=True)]
