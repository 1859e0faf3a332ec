"""Augmentation of a whole batch on its device, CPU or GPU.

torchvision.transforms.v2 draws once per batch, so it must be called image by image to change each image differently:
flip, pad, affine, crop and colour jitter then take 4.5 times as long as this, and scale width and height alike. Its
functions on boxes of whole pixels, which scale them separately, take 1.3 times as long. (CPU seconds of one thread,
medians of 60 batches of 64 images of 64x64, in turns, on a shared machine.)
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from stages.common.training.augmentation import Augmentation


def augment(images: Tensor, strengths: Augmentation) -> Tensor:
    """Mirror, scale, turn, move, light, colour and cover each picture by its own random amounts.

    Args:
        images: (N, S, S, 3), 0..255.
        strengths: strength of each change. A change that is off uses no random numbers or has no effect, so a seed
            gives the same pictures when further changes are added to the code.

    Returns:
        float32 (N, S, S, 3), 0..255; edge pixels are repeated beyond the picture.
    """
    count, device = len(images), images.device

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, device=device) * 2 - 1) * limit

    mirror = torch.where(torch.rand(count, device=device) < strengths.mirror, -1.0, 1.0)
    zero = torch.zeros(count, device=device)
    across, down = (1 + uniform(strengths.scale)) * mirror, 1 + uniform(strengths.scale)
    # The grid spans -1..1, so a share of the side counts twice.
    right, below = uniform(2 * strengths.move), uniform(2 * strengths.move)
    gain = (1 + uniform(strengths.light)).view(-1, 1, 1, 1)
    theta = [across, zero, right, zero, down, below]
    if strengths.turn:
        angle = uniform(math.radians(strengths.turn))
        sine, cosine = angle.sin(), angle.cos()
        theta = [cosine * across, -sine * down, right, sine * across, cosine * down, below]
    if strengths.color:
        gain = gain * (1 + uniform(strengths.color, 3, 1, 1))
    planes = images.permute(0, 3, 1, 2).float()
    grid = _affine_grid(torch.stack(theta, 1).view(-1, 2, 3), planes.shape[-1])
    moved = functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    seen = moved.mul_(gain).clamp_(0, 255)
    if strengths.cut_out:
        seen = torch.where(_squares(seen, strengths.cut_out), seen.mean((2, 3), keepdim=True), seen)
    return seen.permute(0, 2, 3, 1)


def _affine_grid(theta: Tensor, side: int) -> Tensor:
    """`torch.nn.functional.affine_grid` of (N, 2, 3), in a tenth of its time, and in float32 under autocast, too.

    PyTorch's function computes in bfloat16 there, which moves some of 64 pixels by a quarter of a pixel.

    Returns:
        float32 (N, side, side, 2).
    """
    middles = (torch.arange(side, device=theta.device) * 2 + 1) / side - 1
    across, down, moved = theta[:, :, :, None].unbind(2)
    return (across * middles)[:, :, None, :].add((down * middles + moved)[:, :, :, None]).permute(0, 2, 3, 1)


def _squares(planes: Tensor, share: float) -> Tensor:
    """A square in each of the pictures (N, 3, S, S), with its middle anywhere in the picture: bool (N, 1, S, S).

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout",
    https://arxiv.org/abs/1708.04552.
    """
    count, _, side, _ = planes.shape
    middles = torch.rand(count, 2, 1, device=planes.device) * side
    inside = (torch.arange(side, device=planes.device) + 0.5 - middles).abs() < share * side / 2
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
