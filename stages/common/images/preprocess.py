"""From an image file to the network's input: the one function that training and prediction share.

`preprocess` = `content_of` (file to RGB picture on white, cropped) and `fit_square` (square, resize, perhaps grey).
Its settings are stored beside the prepared data and in the model's metadata, so a model gets its pictures made as in
training.

What is decided here, and why (`stages.common.images.decode` says what becomes of formats, alpha and orientation):
    crop       to the content where faces stand on white, as drawn ones do. A photograph has no such ground: there the
               whole picture is taken, or, where the face is in the middle, a share around that.
    blank      a picture without any pixel darker than near-white has no content to crop to and is refused; the other
               crops take it as it is.
    size       a JPEG that is large for the network's input is decoded to fewer pixels (`PICTURE_DETAIL`); if the crop
               turns out to be a small part of it, decoded again, whole.
    aspect     kept, but by crop squeeze: the crop is padded to a square with white. Stretching makes long hair and a
               round face look alike, and hair length is a matter of proportions.
    filter     area averaging when shrinking (every input pixel counts once, but one whose middle is the border of two
               results may count in both), bilinear when enlarging, where area averaging would only repeat pixels. By
               cykooz-resizer, the Rust crate fast_image_resize: half of Pillow's time for 160x170 pixels.
"""

import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.images.decode import ImageError, decode_file, read_image_file
from stages.common.images.resizer import Picture, resized
from stages.common.images.settings import ImagesSection, Preprocessing
from stages.common.images.statistics import LUMA

PICTURE_DETAIL, CONTENT_DETAIL = 3, 2
"""Pixels a side that a reduced JPEG, and its crop, must have for one of the result."""


class Content(NamedTuple):
    """A cropped picture, and the digest by which the image is known (`Decoded.pixels`), however it is cropped."""

    picture: Picture
    pixels: str


def content_of(file: bytes, settings: Preprocessing) -> Content:
    """Decode a file and crop its picture.

    Raises:
        ImageError: the image cannot be used; the message says why.
    """
    share = max(settings.centre_share or [1])
    decoded = decode_file(file, settings, math.ceil(PICTURE_DETAIL * settings.image_size / share))
    if decoded.reduced > 1:
        with suppress(ImageError):  # blank: what is dark may be too small to be seen at this size
            content = crop(decoded.picture, settings)
            if max(content.shape) >= CONTENT_DETAIL * settings.image_size:
                return Content(content, decoded.pixels)
        decoded = decode_file(file, settings)
    return Content(crop(decoded.picture, settings), decoded.pixels)


def crop(picture: Picture, settings: Preprocessing) -> Picture:
    """Cut out of a picture what the settings say.

    Raises:
        ImageError: it is to be cropped to its content, and every pixel is near-white.
    """
    if settings.crop == "content":
        return crop_to_content(picture, settings)
    if settings.centre_share is None:
        return picture
    height, width, _ = picture.shape
    across, down = (
        max(1, round(share * side)) for share, side in zip(settings.centre_share, (width, height), strict=True)
    )
    left, top = (width - across) // 2, (height - down) // 2
    return np.ascontiguousarray(picture[top : top + down, left : left + across])


def crop_to_content(picture: Picture, settings: ImagesSection) -> Picture:
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
    """Centre a cropped picture on a white square, or stretch it to one, and resize it.

    Returns:
        uint8 (S, S, 3), RGB; three equal channels if it is to be grey.
    """
    height, width, _ = content.shape
    side, longest = settings.image_size, max(width, height)
    if settings.crop == "squeeze":
        size, enlarge = (side, side), min(width, height) < side
    else:
        size = (max(1, round(side * width / longest)), max(1, round(side * height / longest)))
        enlarge = longest < side
    pixels = resized(content, *size, enlarge=enlarge)
    square = np.full((side, side, 3), 255, np.uint8)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    inside = square[top : top + size[1], left : left + size[0]]
    for channel in range(3):  # one by one: a third of the time
        inside[..., channel] = pixels[..., channel]
    if settings.grey:
        square[:] = (square @ np.array(LUMA, np.uint16) >> 8)[..., None]
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
