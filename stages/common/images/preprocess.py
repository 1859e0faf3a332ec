"""From an image file to the network's input: the one function that training and prediction share.

`preprocess` = `content_of` (file to RGB picture on white, cropped to its content) and `fit_square` (square, resize).
Its settings are stored beside the prepared data and in the model's metadata, so a model gets its pictures made as in
training.

What is decided here, and why (`stages.common.images.decode` says what becomes of formats, alpha and orientation):
    blank      a picture without any pixel darker than near-white holds no face and is refused.
    size       a JPEG that is large for the network's input is decoded to fewer pixels (`PICTURE_DETAIL`); if the
               content turns out to be a small part of it, decoded again, whole.
    aspect     kept: the crop is padded to a square with white. Stretching would make long hair and a round face look
               alike, and hair length is a matter of proportions.
    filter     area averaging when shrinking (every input pixel counts once, but one whose middle is the border of two
               results may count in both), bilinear when enlarging, where area averaging would only repeat pixels. By
               cykooz-resizer, the Rust crate fast_image_resize: half of Pillow's time for 160x170 pixels.
"""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.images.decode import ImageError, decode_file, read_image_file
from stages.common.images.resizer import Picture, resized
from stages.common.images.settings import ImagesSection, Preprocessing

PICTURE_DETAIL, CONTENT_DETAIL = 3, 2
"""Pixels a side that a reduced JPEG, and its content, must have for one of the result."""


class Content(NamedTuple):
    """A picture cut to its content, and the digest by which the image is known (`Decoded.pixels`), cut or not."""

    picture: Picture
    pixels: str


def content_of(file: bytes, settings: Preprocessing) -> Content:
    """Decode a file and cut its picture to the content.

    Raises:
        ImageError: the image cannot be used; the message says why.
    """
    decoded = decode_file(file, settings, PICTURE_DETAIL * settings.image_size)
    if decoded.reduced > 1:
        with suppress(ImageError):  # blank: what is dark may be too small to be seen at this size
            content = crop(decoded.picture, settings)
            if max(content.shape) >= CONTENT_DETAIL * settings.image_size:
                return Content(content, decoded.pixels)
        decoded = decode_file(file, settings)
    return Content(crop(decoded.picture, settings), decoded.pixels)


def crop(picture: Picture, settings: ImagesSection) -> Picture:
    """Cut a picture to its content, the bounding box of what is not near-white.

    Raises:
        ImageError: every pixel is near-white.
    """
    left, top, right, bottom = content_box(picture, settings)
    return np.ascontiguousarray(picture[top:bottom, left:right])


def content_box(picture: Picture, settings: ImagesSection) -> tuple[int, int, int, int]:
    """The bounding box of what is not near-white: left, top, right, bottom, the last two exclusive.

    Raises:
        ImageError: every pixel is near-white.
    """
    height, width, channels = picture.shape
    values = picture.reshape(height, width * channels)
    top, bottom = _first_dark(values, settings), _first_dark(values[::-1], settings)
    # the darkest of a column, not all that is dark: a third of the time
    columns = (values[top : height - bottom].min(axis=0) < settings.near_white).tobytes()
    return columns.find(1) // channels, top, columns.rfind(1) // channels + 1, height - bottom


def _first_dark(rows: npt.NDArray[np.uint8], settings: ImagesSection) -> int:
    """The first row that is not near-white, found without looking at the rows far behind it."""
    for start in range(0, len(rows), 16):
        found = (rows[start : start + 16] < settings.near_white).tobytes().find(1)
        if found >= 0:
            return int(start + found // rows.shape[1])
    raise ImageError(f"blank: no pixel is darker than near-white ({settings.near_white})")


def fit_square(content: Picture, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Centre a cropped picture on a white square and resize it.

    Returns:
        uint8 (S, S, 3), RGB.
    """
    height, width, _ = content.shape
    side, longest = settings.image_size, max(width, height)
    size = (max(1, round(side * width / longest)), max(1, round(side * height / longest)))
    pixels = resized(content, *size, enlarge=longest < side)
    square = np.full((side, side, 3), 255, np.uint8)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    inside = square[top : top + size[1], left : left + size[0]]
    for channel in range(3):  # one by one: a third of the time
        inside[..., channel] = pixels[..., channel]
    return square


def preprocess(source: Path | bytes, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Make the network's input of one image file or its content.

    Returns:
        uint8 (S, S, 3), RGB, S = `settings.image_size`.

    Raises:
        ImageError: the image cannot be used; the message says why.
    """
    file = read_image_file(source, settings) if isinstance(source, Path) else source
    return fit_square(content_of(file, settings).picture, settings)
