"""The private parts of cykooz-resizer do what is relied on; another version of it has to pass this."""

import numpy as np
import pytest
from PIL import Image

from stages.common.images.resizer import multiply_by_opacity, resized


def test_areas_are_averaged_and_all_channels_are_treated_alike() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 4), np.uint8)
    means = picture.reshape(4, 2, 4, 3, 4).mean(axis=(1, 3))
    assert np.abs(resized(picture, 4, 4, enlarge=False) - means).max() <= 1


def test_a_larger_picture_is_interpolated() -> None:
    picture = np.zeros((1, 2, 4), np.uint8)
    picture[0, 1] = 255
    row = resized(picture, 8, 3, enlarge=True)[1, :, 0].tolist()
    assert row == sorted(row)
    assert len(set(row)) > 4


@pytest.mark.parametrize("step", [1, 2])
def test_colours_are_multiplied_by_opacity_in_the_memory_given(step: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 5, 4), np.uint8)[::step].copy()
    expected = Image.fromarray(pixels, "RGBA").convert("RGBa").tobytes()
    multiply_by_opacity(pixels)
    assert pixels.tobytes() == expected
