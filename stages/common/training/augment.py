"""Augmentation of a whole batch where it lies, on CPU or GPU.

torchvision.transforms.v2 draws once for a whole batch, so it must be called image by image to change each in its own
way: flip, pad, affine, crop and colour jitter then take 4.5 times as long as this, and scale width and height alike.
Its functions on boxes of whole pixels, which scale them apart, take 1.3 times as long. (CPU seconds of one thread,
medians of 60 batches of 64 images of 64x64, in turns, on a machine that others shared.)
"""

import torch
from torch import Tensor
from torch.nn import functional

SCALE, SHIFT, BRIGHTNESS = 0.08, 0.06, 0.08
"""Largest change of width or height, of the position (as a share of the side), and of brightness."""


def augment(images: Tensor) -> Tensor:
    """Mirror, shift, scale and brighten; nothing here turns one hair colour into another.

    Args:
        images: (N, S, S, 3), 0..255.

    Returns:
        float32 (N, S, S, 3): half of them mirrored, width and height scaled apart, shifted, and brighter or darker, by
        uniformly random amounts; edge pixels are repeated.
    """
    count, device = len(images), images.device

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, device=device) * 2 - 1) * limit

    mirror = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count, device=device)
    across, down = (1 + uniform(SCALE)) * mirror, 1 + uniform(SCALE)
    # The grid spans -1..1, so a share of the side counts twice.
    theta = torch.stack([across, zero, uniform(2 * SHIFT), zero, down, uniform(2 * SHIFT)], 1).view(-1, 2, 3)
    planes = images.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(theta, list(planes.shape), align_corners=False)
    moved = functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return (moved * (1 + uniform(BRIGHTNESS)).view(-1, 1, 1, 1)).clamp(0, 255).permute(0, 2, 3, 1)
