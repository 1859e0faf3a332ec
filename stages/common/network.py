"""The network: one residual trunk, one linear head per attribute."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.common.attributes import ATTRIBUTES

GRID = 4
"""Cells along each side that pooled features keep."""


class Convolution(nn.Module):
    """Convolution without bias, (N, C, H, W) -> (N, C', H/stride, W/stride), whose weight is kept as a matrix.

    A row is one filter, in the order height, width, channel. That is what Muon orthogonalises, and the same memory seen
    as (C', C, k, k) is channels-last, so nothing is copied.
    """

    def __init__(self, channels_in: int, channels: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        fan_in = channels_in * size**2
        self.weight = nn.Parameter(torch.empty(channels, fan_in).uniform_(-1, 1) / math.sqrt(fan_in))

    def forward(self, features: Tensor) -> Tensor:
        """Apply the convolution."""
        weight = self.weight.view(len(self.weight), self.size, self.size, -1).permute(0, 3, 1, 2)
        return functional.conv2d(features, weight, stride=self.stride, padding=self.size // 2)


def _convolve(channels_in: int, channels: int, stride: int = 1) -> list[nn.Module]:
    return [Convolution(channels_in, channels, stride=stride), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


class Block(nn.Module):
    """Residual block: two 3x3 convolutions beside the identity (He et al. 2016, https://arxiv.org/abs/1512.03385).

    Shapes: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolve(channels, channels), Convolution(channels, channels), nn.BatchNorm2d(channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Apply the block."""
        return functional.relu(features + self.body(features), inplace=True)


class Network(nn.Module):
    """Multi-head residual network; 0.49 million parameters at width 32.

        images   (N, S, S, 3) RGB in 0..255, uint8 or float, S >= 16
        stem     3x3 convolution, stride 2               (N,  w, S/2,  S/2)
        stage 1  3x3 convolution, stride 2; one block    (N, 2w, S/4,  S/4)
        stage 2  3x3 convolution, stride 2; one block    (N, 4w, S/8,  S/8)
        pooling  average to a 4x4 grid, dropout          (N, 64w)
        heads    one linear layer per attribute          5 x (N, classes), logits in the order of `ATTRIBUTES`

    Faces are cropped alike, so where something is says what it is: hence the 4x4 grid. Blocks sit only where the
    picture is small and keeps its shape: at equal seconds this beats a shortcut around every convolution by 0.005 of
    mean accuracy, since more epochs fit into them (bench/README.md).

    Images are normalised inside, so that the exported graph takes the bytes that a decoder gives. Batch normalisation
    (Ioffe and Szegedy 2015) folds into the convolutions at inference.
    """

    def __init__(self, width: int = 32, dropout: float = 0.1) -> None:
        """Make a network with fresh weights.

        Args:
            width: channels of the stem; the cost grows with its square.
            dropout: share of pooled features zeroed while training.
        """
        super().__init__()
        self.width = width
        self.trunk = nn.Sequential(
            *_convolve(3, width, stride=2),
            *_convolve(width, 2 * width, stride=2),
            Block(2 * width),
            *_convolve(2 * width, 4 * width, stride=2),
            Block(4 * width),
        )
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(nn.Linear(4 * width * GRID**2, len(attribute.classes)) for attribute in ATTRIBUTES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of every attribute, each (N, classes), in the order of `ATTRIBUTES`."""
        # 127.5 and 64 bring bytes to about zero mean and unit deviation. NHWC seen as NCHW is channels-last in memory.
        features = self.trunk((images.permute(0, 3, 1, 2).float() - 127.5) / 64)
        side = features.shape[-1]
        # the same where it divides, and its gradient takes a sixth of the time: 6 % of a step
        pooled = (
            functional.avg_pool2d(features, side // GRID)
            if side % GRID == 0
            else functional.adaptive_avg_pool2d(features, GRID)
        )
        pooled = self.dropout(pooled.flatten(1))
        return tuple(head(pooled) for head in self.heads)


class Classifier(nn.Module):
    """What is exported: uint8 images (N, S, S, 3) to probabilities, per attribute float32 (N, classes)."""

    def __init__(self, network: Network, temperatures: Mapping[str, float] | None = None) -> None:
        """Put probabilities on top of a network.

        Args:
            network: gives the logits.
            temperatures: attribute -> what its logits are divided by (`stages.common.calibration`); 1 if None.
        """
        super().__init__()
        self.network = network
        self.temperatures = [1.0 if temperatures is None else temperatures[one.name] for one in ATTRIBUTES]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Probabilities of every attribute, in the order of `ATTRIBUTES`."""
        heads = zip(self.network(images), self.temperatures, strict=True)
        return tuple((logits.float() / temperature).softmax(1) for logits, temperature in heads)


def count_parameters(network: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(parameter.numel() for parameter in network.parameters())
