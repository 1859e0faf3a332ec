"""The network: one trunk of convolutions, and linear heads."""

import itertools
import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.common.schema.attributes import Attributes, names
from stages.common.schema.dataset import Split
from stages.common.schema.learned import Learned, all_learned, masks

GRID = 4
"""Cells along each side of the pooled features."""


class Convolution(nn.Module):
    """3x3 convolution without bias, (N, C, H, W) -> (N, C', H/stride, W/stride); its weight is stored as a matrix.

    A row is one filter, in the order height, width, channel. Muon orthogonalises this matrix, and the same memory
    viewed as (C', C, 3, 3) is channels-last, so nothing is copied.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        fan_in = channels_in * 3 * 3
        self.weight = nn.Parameter(torch.empty(channels, fan_in).uniform_(-1, 1) / math.sqrt(fan_in))

    @property
    def filters(self) -> Tensor:
        """The weight as (C', C, 3, 3)."""
        return self.weight.view(len(self.weight), 3, 3, -1).permute(0, 3, 1, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Apply the convolution."""
        return functional.conv2d(features, self.filters, stride=self.stride, padding=1)


class Heads(nn.Module):
    """One linear layer for all attributes, (N, features) -> the logits of each, (N, classes).

    A layer per attribute would need as many small products, forward and backward. In a state dict, every attribute has
    its own part, with the names of an `nn.ModuleList` of layers; fresh weights are drawn in the same way.
    """

    def __init__(self, features: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.classes = list(classes)
        layers = [nn.Linear(features, count) for count in classes]
        self.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))
        self.register_state_dict_post_hook(_part)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_join)  # type: ignore[no-untyped-call]

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Logits of every attribute."""
        return torch.split(functional.linear(features, self.weight, self.bias), self.classes, 1)


def _part(heads: Heads, state: MutableMapping[str, Tensor], prefix: str, _metadata: object) -> None:
    """Split the layer into the parts of the attributes."""
    for name in ("weight", "bias"):
        for number, part in enumerate(torch.split(state.pop(prefix + name), heads.classes)):
            state[f"{prefix}{number}.{name}"] = part


def _join(heads: Heads, state: MutableMapping[str, Tensor], prefix: str, *_: object) -> None:
    """Join the parts; if one is absent, PyTorch reports the whole layer as absent."""
    for name in ("weight", "bias"):
        keys = [f"{prefix}{number}.{name}" for number in range(len(heads.classes))]
        if all(key in state for key in keys):
            state[prefix + name] = torch.cat([state.pop(key) for key in keys])


class Network(nn.Module):
    """Plain multi-head network; 70,000 parameters at width 16, and 1,025 a class.

        images   (N, S, S, 3) RGB in 0..255, uint8 or float, S >= 16
        trunk    five 3x3 convolutions, each with batch normalisation and ReLU
                 stride 2                         (N,  w, S/2,  S/2)
                 stride 2, stride 1               (N, 2w, S/4,  S/4)
                 stride 2, stride 1               (N, 4w, S/8,  S/8)
        pooling  average to a 4x4 grid, dropout   (N, 64w)
        heads    linear, for every attribute      each (N, classes), logits in the order of the attributes

    Faces are cropped alike, so the place of a feature says what it is: hence the 4x4 grid. Shortcuts (He et al. 2016)
    were tried around all convolutions and around those that keep the shape. At equal seconds of training they are worse
    or no better, because more epochs fit into that time without them (bench/README.md).

    Images are normalised inside, so that the exported graph takes the bytes of a decoder. Batch normalisation (Ioffe
    and Szegedy 2015) folds into the convolutions at inference.
    """

    def __init__(self, attributes: Attributes, width: int = 16, dropout: float = 0.1) -> None:
        """Make a network with fresh weights.

        Args:
            attributes: the attributes to answer.
            width: channels of the first convolution; the cost grows with its square.
            dropout: share of pooled features zeroed while training.
        """
        super().__init__()
        self.attributes = attributes
        self.width = width
        layers: list[nn.Module] = []
        widths = (3, width, 2 * width, 2 * width, 4 * width, 4 * width)
        for (before, after), stride in zip(itertools.pairwise(widths), (2, 2, 1, 2, 1), strict=True):
            layers += [Convolution(before, after, stride), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.trunk = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.heads = Heads(4 * width * GRID**2, [len(attribute.classes) for attribute in attributes])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of every attribute, each (N, classes)."""
        return self.logits(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """The trunk's feature maps of images: (N, 4w, S/8, S/8)."""
        # 127.5 and 64 bring bytes to about zero mean and unit deviation. NHWC seen as NCHW is channels-last in memory.
        features: Tensor = self.trunk((images.permute(0, 3, 1, 2).float() - 127.5) / 64)
        return features

    def logits(self, features: Tensor) -> tuple[Tensor, ...]:
        """The heads' logits of `features`: of every attribute (N, classes)."""
        side = features.shape[-1]
        # the same where it divides, and its gradient takes a sixth of the time: 6 % of a step
        pooled = (
            functional.avg_pool2d(features, side // GRID)
            if side % GRID == 0
            else functional.adaptive_avg_pool2d(features, GRID)
        )
        logits: tuple[Tensor, ...] = self.heads(self.dropout(pooled.flatten(1)))
        return logits


class Outputs(nn.Module):
    """A network's outputs before temperatures: logits per attribute (N, classes), last embeddings (N, 4w).

    An embedding is the output of the trunk for an image, averaged over the whole grid. It is used for drift.

    If mirrored, it uses every image and its mirror image: logits are then the logarithms of the mean of both
    probabilities, and the embedding is the mean of both embeddings. So a temperature is fitted to the same logits to
    which it will be applied, and its fit need not know about mirroring.
    """

    def __init__(self, network: Network, learned: Learned | None = None, *, mirrored: bool = False) -> None:
        """Put a network to use.

        Args:
            network: gives the logits.
            learned: the classes that training has seen, all if None; the others get minus infinity, and attributes that
                are never answered get NaN (`stages.common.schema.learned`).
            mirrored: whether to use mirror images as well.
        """
        super().__init__()
        self.network = network
        self.mirrored = mirrored
        attributes = network.attributes
        for number, mask in enumerate(masks(attributes, learned or all_learned(attributes))):
            needed = torch.from_numpy(mask) if mask.any() else None  # None: all seen, no step in the graph
            self.register_buffer(f"mask_{number}", needed, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of every attribute, and last the embeddings."""
        seen = self._look(images)
        if not self.mirrored:
            return seen
        *pairs, (one, other) = zip(seen, self._look(images.flip(2)), strict=True)  # 2: width of (N, S, S, 3)
        return (*self._masked(_mean_of_probabilities(*pair) for pair in pairs), (one + other) / 2)

    def _look(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.network.features(images)
        logits = (raw.float() for raw in self.network.logits(features))
        return (*self._masked(logits), features.float().mean((2, 3)))

    def _masked(self, logits: Iterable[Tensor]) -> list[Tensor]:
        found = ((raw, getattr(self, f"mask_{number}")) for number, raw in enumerate(logits))
        return [raw if mask is None else raw + mask for raw, mask in found]


def _mean_of_probabilities(one: Tensor, other: Tensor) -> Tensor:
    """Logarithm of the mean of two logits' probabilities; a value too small for float32 counts as 1e-30."""
    return ((one.softmax(1) + other.softmax(1)) / 2).clamp(min=1e-30).log()


class Classifier(nn.Module):
    """The exported model: uint8 images (N, S, S, 3) to probabilities, float32 (N, classes) each, and embeddings.

    Embeddings are those of `Outputs`.
    """

    def __init__(
        self,
        network: Network,
        temperatures: Mapping[str, float] | None = None,
        learned: Learned | None = None,
        *,
        mirrored: bool = False,
    ) -> None:
        """Put probabilities on top of a network.

        Args:
            network: gives the logits.
            temperatures: attribute -> divisor of its logits (`stages.common.inference.calibration`); 1 if None.
            learned: as of `Outputs`; the classes that training has not seen get probability 0.
            mirrored: as of `Outputs`.
        """
        super().__init__()
        self.outputs = Outputs(network, learned, mirrored=mirrored)
        self.temperatures = [1.0 if temperatures is None else temperatures[name] for name in names(network.attributes)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Probabilities of every attribute, and last the embeddings."""
        *logits, embeddings = self.outputs(images)
        scaled = (raw / divisor for raw, divisor in zip(logits, self.temperatures, strict=True))
        return (*(raw.softmax(1) for raw in scaled), embeddings)


def outputs_of(module: nn.Module, images: Split, device: torch.device) -> list[npt.NDArray[np.float32]]:
    """Run a module in evaluation mode on `device` over N images: per output (N, ...)."""
    module.to(device)
    batches = []
    with torch.inference_mode():
        for start in range(0, len(images), 512):
            batch = torch.from_numpy(images.take(slice(start, start + 512))).to(device)
            batches.append([output.cpu().numpy() for output in module(batch)])
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
