"""From an image file to the network's input: the one function that training and prediction share.

`preprocess` = `content_of` (file to RGB picture on white, cropped) and `fit_square` (square, resize, perhaps grey).
Its settings are stored beside the prepared data and in the model's metadata, so a model gets its pictures made as in
training.

Decisions and their reasons (`stages.common.images.decode` has those about formats, alpha and orientation):
    crop       to the content, for faces on white, as in drawings. A photograph has no such background: there the crop
               is the whole picture, a share around its middle, or the face that `stages.common.images.faces` finds.
    blank      a picture without a pixel darker than near-white has no content and is refused; other crops accept it.
    size       a JPEG that is large for the network's input is decoded to fewer pixels (`PICTURE_DETAIL`). If the crop
               is a small part of it, it is decoded again, whole.
    aspect     kept, except by crop squeeze: the crop is padded to a square with white. Stretching makes long hair look
               like a round face, and hair length is a matter of proportions.
    filter     area averaging when shrinking (every input pixel counts once; a pixel whose middle is the border of two
               results may count in both), bilinear when enlarging, where area averaging would only repeat pixels. By
               cykooz-resizer, the Rust crate fast_image_resize: half of Pillow's time for 160x170 pixels.
"""

import hashlib
import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.images.content import crop_to_content
from stages.common.images.decode import ImageError, decode_file, read_image_file
from stages.common.images.faces import LARGER_SIDE, cut_out, take_face
from stages.common.images.resizer import Picture, resized
from stages.common.images.settings import Preprocessing
from stages.common.images.statistics import LUMA
from stages.common.schema.face import Face

PICTURE_DETAIL, CONTENT_DETAIL = 3, 2
"""Pixels a side that a reduced JPEG, and its crop, must have for each pixel of the result."""


class Content(NamedTuple):
    """A cropped picture.

    Attributes:
        picture: the cropped picture.
        pixels: digest of the whole picture (`Decoded.pixels`), which identifies the image.
        face: the face to which it is cropped; None with another crop.
    """

    picture: Picture
    pixels: str
    face: Face | None = None


def content_of(file: bytes, settings: Preprocessing) -> Content:
    """Decode a file and crop its picture.

    Raises:
        ImageError: the image cannot be used; the message says why.
    """
    if settings.crop == "face":
        return _face_of(file, settings)
    share = max(settings.centre_share or [1])
    decoded = decode_file(file, settings, math.ceil(PICTURE_DETAIL * settings.image_size / share))
    if decoded.reduced > 1:
        with suppress(ImageError):  # blank: the dark part may be too small to be seen at this size
            content = crop(decoded.picture, settings)
            if max(content.shape) >= CONTENT_DETAIL * settings.image_size:
                return Content(content, decoded.pixels)
        decoded = decode_file(file, settings)
    return Content(crop(decoded.picture, settings), decoded.pixels)


def _face_of(file: bytes, settings: Preprocessing) -> Content:
    decoded = decode_file(file, settings, max(LARGER_SIDE, PICTURE_DETAIL * settings.image_size))
    face = take_face(decoded.picture, settings.face)
    whole = face.scaled(decoded.reduced, *decoded.size)
    if not face.faces:
        return Content(decoded.picture, decoded.pixels, whole)
    picture = cut_out(decoded.picture, face, settings.face.margin)
    if decoded.reduced > 1 and len(picture) < CONTENT_DETAIL * settings.image_size:
        picture = cut_out(decode_file(file, settings).picture, whole, settings.face.margin)
    return Content(picture, decoded.pixels, whole)


def crop(picture: Picture, settings: Preprocessing) -> Picture:
    """Crop a picture as the settings say.

    Raises:
        ImageError: crop content, but every pixel is near-white.
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


def fit_square(content: Picture, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Centre a cropped picture on a white square, or stretch it to one, and resize it.

    Returns:
        uint8 (S, S, 3), RGB; three equal channels if the setting is grey.
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
    for channel in range(3):  # each by itself: a third of the time
        inside[..., channel] = pixels[..., channel]
    if settings.grey:
        square[:] = (square @ np.array(LUMA, np.uint16) >> 8)[..., None]
    return square


class Prepared(NamedTuple):
    """Result of preprocessing an image file.

    Attributes:
        content: SHA-256 of the file as it was read; empty if it was refused unread.
        image: the network's input, uint8 (S, S, 3); None if the file cannot be used: then the next two are empty, too.
        pixels: `Content.pixels`.
        face: `Content.face`.
        reason: why the file cannot be used; empty if it can.
    """

    content: str
    image: npt.NDArray[np.uint8] | None = None
    pixels: str = ""
    face: Face | None = None
    reason: str = ""


def prepare(path: str, settings: Preprocessing) -> Prepared:
    """Read a file and make the network's input of it.

    The picture is freed before the caller prepares the next one: with two in memory, the C library would return memory
    to the system after each file, and getting it back takes time.
    """
    content = ""
    try:
        data = read_image_file(path, settings)
        content = hashlib.sha256(data).hexdigest()
        picture, pixels, face = content_of(data, settings)
        return Prepared(content, fit_square(picture, settings), pixels, face)
    except ImageError as error:
        return Prepared(content, reason=str(error))


def preprocess(source: Path | bytes, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Make the network's input of one image file or its content.

    Returns:
        uint8 (S, S, 3), RGB, S = `settings.image_size`.

    Raises:
        ImageError: the image cannot be used; the message says why.
    """
    file = read_image_file(source, settings) if isinstance(source, Path) else source
    return fit_square(content_of(file, settings).picture, settings)
