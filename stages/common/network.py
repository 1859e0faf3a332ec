"""The network: one residual trunk, one linear head per attribute."""

import itertools

from torch import Tensor, nn
from torch.nn import functional

from stages.common.attributes import ATTRIBUTES

GRID = 4
"""Cells along each side that pooled features keep."""


class Block(nn.Module):
    """Residual block: two 3x3 convolutions beside a shortcut (He et al. 2016, https://arxiv.org/abs/1512.03385).

    Shapes: (N, C, H, W) -> (N, C', H/stride, W/stride). Where the shape changes, the shortcut is average pooling and a
    1x1 convolution, so that no pixel is skipped (He et al. 2019, "bag of tricks", https://arxiv.org/abs/1812.01187).
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride != 1 else nn.Identity(),
                nn.Conv2d(channels_in, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Apply the block."""
        return functional.relu(self.body(features) + self.shortcut(features))


class Network(nn.Module):
    """Multi-head residual network; 0.73 million parameters at width 48.

        images   (N, S, S, 3) RGB in 0..255, uint8 or float, S >= 16
        stem     3x3 convolution, stride 2        (N,  w, S/2,  S/2)
        stage 1  one block                        (N,  w, S/2,  S/2)
        stage 2  one block, stride 2              (N, 2w, S/4,  S/4)
        stage 3  one block, stride 2              (N, 4w, S/8,  S/8)
        pooling  average to a 4x4 grid, dropout   (N, 64w)
        heads    one linear layer per attribute   5 x (N, classes), logits in the order of `ATTRIBUTES`

    Faces are cropped alike, so where something is says what it is: with the 4x4 grid, 10 epochs on 784 drawn faces
    reach a mean validation accuracy of 0.96, with global average pooling 0.92 (113 images, one seed). Starting the last
    normalisation of each block at zero, usual in long trainings, costs 0.02 to 0.14 in so few steps and is left out.

    Images are normalised inside, so that the exported graph takes the bytes that a decoder gives. Batch normalisation
    (Ioffe and Szegedy 2015) folds into the convolutions at inference.
    """

    def __init__(self, width: int = 48, dropout: float = 0.1) -> None:
        """Make a network with fresh weights.

        Args:
            width: channels of the first stage; the cost grows with its square.
            dropout: share of pooled features zeroed while training.
        """
        super().__init__()
        self.width = width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        widths = (width, width, 2 * width, 4 * width)
        self.trunk = nn.Sequential(
            *(Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)),
            nn.AdaptiveAvgPool2d(GRID),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.heads = nn.ModuleList(nn.Linear(4 * width * GRID**2, len(attribute.classes)) for attribute in ATTRIBUTES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of every attribute, each (N, classes), in the order of `ATTRIBUTES`."""
        # 127.5 and 64 bring bytes to about zero mean and unit deviation. NHWC seen as NCHW is channels-last in memory.
        features = self.trunk(self.stem((images.permute(0, 3, 1, 2).float() - 127.5) / 64))
        return tuple(head(features) for head in self.heads)


class Classifier(nn.Module):
    """What is exported: uint8 images (N, S, S, 3) to probabilities, per attribute float32 (N, classes)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Probabilities of every attribute, in the order of `ATTRIBUTES`."""
        return tuple(logits.float().softmax(1) for logits in self.network(images))


def count_parameters(network: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(parameter.numel() for parameter in network.parameters())
