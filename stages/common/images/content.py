"""The part of a picture that is not near-white: the face, if it stands on white."""

import numpy as np
import numpy.typing as npt

from stages.common.images.decode import ImageError
from stages.common.images.resizer import Picture
from stages.common.images.settings import ImagesSection


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
    # the darkest pixel of a column, not all dark pixels: a third of the time
    columns = (values[top : height - bottom].min(axis=0) < settings.near_white).tobytes()
    return columns.find(1) // channels, top, columns.rfind(1) // channels + 1, height - bottom


def _first_dark(rows: npt.NDArray[np.uint8], settings: ImagesSection) -> int:
    """The first row that is not near-white, found without reading the rows far behind it."""
    for start in range(0, len(rows), 16):
        found = (rows[start : start + 16] < settings.near_white).tobytes().find(1)
        if found >= 0:
            return int(start + found // rows.shape[1])
    raise ImageError(f"blank: no pixel is darker than near-white ({settings.near_white})")
