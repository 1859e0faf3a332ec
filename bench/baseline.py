"""A training step as it is commonly written: the baseline for the product's step, in the same call.

    python -m bench.baseline [--classes N ...] [--device cpu|cuda] [--seconds S]

A residual network (He et al. 2016, https://arxiv.org/abs/1512.03385): 3x3 convolution to 64 channels and batch
normalisation, four residual blocks of stride 2 to 64, 128, 256 and 512 channels, heads with dropout; float32, AdamW,
gradients clipped at 1, 32 images of 64x64 a step. The step is bare: the images are in memory in the form of the
network's input, and nothing is augmented, validated or logged. Prints images a second.
"""

import argparse
import itertools
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.common.contract.cpus import available_cpus

BATCH = 32
SIDE = 64
WARM_UP_STEPS = 5


def _convolution(before: int, after: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(after))


class _Block(nn.Module):
    """Two convolutions and a shortcut, of stride 2."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(before, after, 3, 2), _convolution(after, after, 3, 1)
        self.shortcut = _convolution(before, after, 1, 2)

    def forward(self, features: Tensor) -> Tensor:
        changed = self.second(functional.relu(self.first(features)))
        return functional.relu(changed + self.shortcut(features))


class Baseline(nn.Module):
    """float32 images (N, 3, S, S) -> logits of every attribute, (N, classes)."""

    def __init__(self, classes: list[int]) -> None:
        super().__init__()
        blocks = [_Block(*widths) for widths in itertools.pairwise((64, 64, 128, 256, 512))]
        self.trunk = nn.Sequential(_convolution(3, 64, 3, 1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.heads = nn.ModuleList(nn.Sequential(nn.Dropout(0.5), nn.Linear(512, count)) for count in classes)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Apply the network."""
        features = self.trunk(images)
        return [head(features) for head in self.heads]


def measure(classes: list[int], device: str, seconds: float) -> float:
    """Images a second, over so many seconds after some warm-up steps."""
    torch.set_num_threads(available_cpus())
    torch.manual_seed(0)
    network = Baseline(classes).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    images = torch.randn(BATCH, 3, SIDE, SIDE, device=device)
    labels = [torch.randint(count, (BATCH,), device=device) for count in classes]
    steps, started = -WARM_UP_STEPS, 0.0
    while steps <= 0 or time.monotonic() < started + seconds:
        if steps == 0:
            _wait(device)
            started = time.monotonic()
        optimizer.zero_grad()
        losses = [functional.cross_entropy(*pair) for pair in zip(network(images), labels, strict=True)]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1)
        optimizer.step()
        steps += 1
    _wait(device)
    return steps * BATCH / (time.monotonic() - started)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 2, 2], help="of each attribute")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=20, help="(default: %(default)s)")
    arguments = parser.parse_args()
    print(f"{measure(arguments.classes, arguments.device, arguments.seconds):.1f}")


if __name__ == "__main__":
    main()
