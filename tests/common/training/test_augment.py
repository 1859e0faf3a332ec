"""Effect of augmentation on pictures, strength by strength."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.common.contract.params import load_params
from stages.common.contract.version import ROOT
from stages.common.training.augment import _affine_grid, augment
from stages.train.params import Params
from tests.common.prepared import NONE, USUAL

pytestmark = pytest.mark.slow

COUNT, SIDE = 64, 40


def pictures(*ink: tuple[slice, slice]) -> Tensor:
    """Red, green and blue as 200, 100 and 40, and black in some rectangles: uint8 (COUNT, SIDE, SIDE, 3)."""
    images = torch.tensor([200, 100, 40], dtype=torch.uint8).repeat(COUNT, SIDE, SIDE, 1)
    for rows, columns in ink:
        images[:, rows, columns] = 0
    return images


DOT = (slice(18, 22), slice(18, 22))
BAR = (slice(19, 21), slice(8, 32))
LEFT = (slice(10, 30), slice(4, 9))


def changed(images: Tensor, *, usual: bool = False, **strengths: float) -> Tensor:
    torch.manual_seed(0)
    return augment(images, (USUAL if usual else NONE).model_copy(update=strengths))


def dark(images: Tensor) -> Tensor:
    """How dark each pixel is, 0 to 1: (N, S, S)."""
    return 1 - images[..., 0] / 200


def middle(images: Tensor) -> Tensor:
    """The mean position of what is dark, right and down of the picture's middle, as a share of the side: (N, 2)."""
    places = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    weights = dark(images) / dark(images).sum((1, 2), keepdim=True)
    return torch.stack([(weights.sum(1) * places).sum(1), (weights.sum(2) * places).sum(1)], 1)


def extent(images: Tensor, axis: int) -> Tensor:
    """How far what is dark reaches, in pixels: (N,)."""
    return dark(images).amax(axis).sum(1)


def test_the_defaults_are_mild() -> None:
    assert load_params(Params, ROOT / "params.yaml").augmentation == USUAL
    images = pictures(DOT)
    moved = changed(images, usual=True)
    assert (moved.shape, moved.dtype) == (images.shape, torch.float32)
    corner = moved[:, 0, 0]
    torch.testing.assert_close(corner[:, 0], 2 * corner[:, 1])  # no other colours
    assert (corner[:, 0] / 200).min() >= 0.92
    assert (corner[:, 0] / 200).max() <= 1.08
    assert len({image.numpy().tobytes() for image in moved}) == COUNT


def test_without_strengths_nothing_changes() -> None:
    images = pictures(LEFT, DOT)
    torch.testing.assert_close(changed(images), images.float(), atol=0.01, rtol=0)


def test_mirror_is_a_share() -> None:
    images = pictures(LEFT)
    torch.testing.assert_close(changed(images, mirror=1), images.flip(2).float(), atol=0.01, rtol=0)
    mirrored = (middle(changed(images, mirror=0.25))[:, 0] > 0).float().mean()
    assert mirrored == pytest.approx(0.25, abs=0.12)


def test_move_shifts_either_way_by_so_much_at_most() -> None:
    shifts = middle(changed(pictures(DOT), move=0.2))
    assert shifts.abs().max() <= 0.21
    assert shifts.min() < -0.15
    assert shifts.max() > 0.15


def test_scale_changes_width_and_height_apart() -> None:
    images = changed(pictures((slice(10, 30), slice(10, 30))), scale=0.25)
    for axis in (1, 2):
        sides = extent(images, axis) / 20
        assert 0.78 <= sides.min() < 0.85  # 1 / 1.25
        assert 1.25 < sides.max() <= 1.36  # 1 / 0.75
    assert (extent(images, 1) - extent(images, 2)).abs().max() > 4


def test_turn_turns_by_so_many_degrees_at_most_and_changes_no_size() -> None:
    images = changed(pictures(BAR), turn=30)
    places = torch.arange(SIDE) + 0.5 - SIDE / 2
    weights = dark(images) / dark(images).sum((1, 2), keepdim=True)
    across, down = ((weights.sum(axis) * places**2).sum(1) for axis in (1, 2))
    both = (weights * places[:, None] * places).sum((1, 2))
    angles = torch.atan2(2 * both, across - down) / 2 * 180 / math.pi
    assert angles.abs().max() <= 31
    assert angles.min() < -20
    assert angles.max() > 20
    assert dark(images).sum((1, 2)) == pytest.approx(dark(pictures(BAR).float()).sum((1, 2)), rel=0.05)


@pytest.mark.parametrize(("strength", "apart"), [("light", False), ("color", True)])
def test_light_changes_all_channels_alike_and_color_each_apart(strength: str, apart: bool) -> None:
    corner = changed(pictures(), usual=False, **{strength: 0.2})[:, 0, 0] / torch.tensor([200, 100, 40])
    assert 0.8 <= corner.min() < 0.85
    assert 1.15 < corner.max() <= 1.2001
    between = (corner.amax(1) - corner.amin(1)).max()
    assert between > 0.2 if apart else between < 1e-5


def test_cut_out_covers_a_square_with_the_mean_colour_and_nothing_else() -> None:
    images = pictures(BAR, LEFT)
    images[:, ::2, ::2] = 10  # so that no pixel has the mean colour by itself
    plain = changed(images)
    covered = changed(images, cut_out=0.5)
    mean = plain.mean((1, 2), keepdim=True)
    touched = (covered != plain).any(3)
    torch.testing.assert_close(covered[touched], mean.expand_as(plain)[touched])
    rows, columns = touched.any(2).sum(1), touched.any(1).sum(1)
    assert (touched.sum((1, 2)) == rows * columns).all()
    assert rows.max() == columns.max() == SIDE / 2
    assert rows.min() < SIDE / 2  # its middle lies anywhere, so some reach over the border


def test_what_is_added_leaves_the_rest_of_the_chance_as_it_is() -> None:
    images = pictures(LEFT, DOT)
    usual, more = changed(images, usual=True), changed(images, usual=True, cut_out=0.3)
    same = (usual == more).all(3).float().mean((1, 2))
    assert same.min() >= 1 - 0.35**2


def test_pixels_are_taken_from_where_pytorch_takes_them_also_while_the_network_computes_in_bfloat16() -> None:
    theta = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = functional.affine_grid(theta, [3, 3, 64, 64], align_corners=False)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(_affine_grid(theta, 64), expected)
