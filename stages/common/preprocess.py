"""From an image file to the network's input: the one function that training and prediction share.

`preprocess` = `decode` (file to RGB picture on white), `crop` (to its content) and `fit` (square, resize). Its settings
are stored beside the prepared data and in the model's metadata, so a model gets its pictures made as in training.

What is decided here, and why:
    formats    PNG and JPEG by content, whatever the name says. Others are refused, not guessed at.
    animation  refused: a label says nothing about which frame it means. (The first picture of a phone's MPO, which is a
               JPEG with a preview behind it, is the photograph itself and is taken.)
    alpha      composited on white, the background that the crop looks for.
    EXIF       the orientation is applied: the picture is upright, as in every viewer. ICC profiles are ignored.
    blank      a picture without any pixel darker than near-white holds no face and is refused.
    aspect     kept: the crop is padded to a square with white. Stretching would make long hair and a round face look
               alike, and hair length is a matter of proportions.
    filter     area averaging (Pillow's BOX: every input pixel counts once) when shrinking, bilinear when enlarging,
               where area averaging would only repeat pixels.
"""

import hashlib
import io
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from stages.common.params import Section

Image.MAX_IMAGE_PIXELS = (
    None  # `max_megapixels` is the limit; Pillow's own would warn at 89 and raise at 179 megapixels
)

FORMATS = ("PNG", "JPEG")
WHITE = (255, 255, 255)


class ImagesSection(Section):
    """Section `images`: what is taken for a picture of a face. `decode` and `crop` read these settings.

    Attributes:
        near_white: 1-255; a pixel whose channels are all at or above it is background.
        max_megapixels: larger pictures are refused before they are decoded.
    """

    near_white: int = Field(ge=1, le=255)
    max_megapixels: float = Field(gt=0)


class Preprocessing(ImagesSection):
    """Settings of `preprocess`.

    Attributes:
        version: of the steps themselves; a model that was trained with other steps is refused.
        image_size: side of the result in pixels.
    """

    version: Literal[1] = 1
    image_size: int = Field(ge=8, le=1024)


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason, for `rejected.csv`."""


def read_image_file(path: Path, settings: ImagesSection) -> bytes:
    """Read a file that should be an image; whatever is no regular file is never opened (a FIFO would hang).

    Raises:
        ImageError: absent, no regular file, empty, or larger than any allowed picture.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        if status.st_size == 0:
            raise ImageError("empty file")
        # 16-bit RGBA without compression takes 8 bytes a pixel; the spare megabyte is for metadata
        if status.st_size > settings.max_megapixels * 8e6 + 1e6:
            raise ImageError(
                f"{status.st_size / 1e6:.0f} MB, more than a picture of {settings.max_megapixels:g} megapixels needs"
            )
        with path.open("rb") as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error


class Decoded(NamedTuple):
    """A decoded file: an upright RGB picture on white; the file's format (PNG, JPEG or MPO) and colour mode."""

    picture: Image.Image
    format: str
    mode: str


def decode(content: bytes, settings: ImagesSection) -> Image.Image:
    """The picture of `decode_file`."""
    return decode_file(content, settings).picture


def decode_file(content: bytes, settings: ImagesSection) -> Decoded:
    """Decode a PNG or JPEG file to an upright RGB picture on white.

    Raises:
        ImageError: not PNG or JPEG, damaged or cut short, animated, or too large (found before decoding).
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow warns of odd metadata, which do not matter here
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
            _check_header(picture, settings)
            kind, mode = str(picture.format), picture.mode  # decoding changes the mode of some
            if kind == "PNG":
                _check_sums(content)
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return Decoded(_on_white(picture), kind, mode)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not a PNG or JPEG image") from error
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"damaged: {reason}") from error


def _check_header(picture: Image.Image, settings: ImagesSection) -> None:
    width, height = picture.size
    if width * height > settings.max_megapixels * 1e6:
        raise ImageError(f"{width} x {height} pixels are more than {settings.max_megapixels:g} megapixels")
    if picture.format == "PNG" and getattr(picture, "is_animated", False):
        raise ImageError("an animation")


def _check_sums(png: bytes) -> None:
    """Check the checksum of every chunk up to the end mark; decoding looks only at those before the pixels.

    Pillow's `verify` does this too, but uses the picture up: opening it twice costs 20 % of decoding 128x128.
    """
    view, start = memoryview(png), 8
    while start < len(png):
        if len(png) < start + 12:
            break
        (length,) = struct.unpack_from(">I", png, start)
        kind, end = png[start + 4 : start + 8], start + 8 + length
        if len(png) < end + 4:
            break
        if struct.unpack_from(">I", png, end)[0] != zlib.crc32(view[start + 4 : end]):
            raise ImageError(f"damaged: wrong checksum of chunk {kind.decode('ascii', 'backslashreplace')}")
        if kind == b"IEND":
            return
        start = end + 4
    raise ImageError("damaged: cut short")


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # 16-bit grey, which convert() would clip instead of scale
        values = np.asarray(picture)
        grey = (values >> 8).astype(np.uint8)
        grey[values == picture.info.get("transparency", -1)] = 255
        picture = Image.fromarray(grey)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() == (255, 255):
            return picture.convert("RGB")  # as most are: a third of the time of compositing
        return Image.alpha_composite(Image.new("RGBA", picture.size, (*WHITE, 255)), picture).convert("RGB")
    return picture.convert("RGB")


def pixels_digest(picture: Image.Image) -> str:
    """Digest (32 hex digits of SHA-256) of what a picture shows: equal for equal pixels under any name and encoding."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:32]


def crop(picture: Image.Image, settings: ImagesSection) -> Image.Image:
    """Cut an RGB picture to its content, the bounding box of what is not near-white.

    Raises:
        ImageError: every pixel is near-white.
    """
    return picture.crop(content_box(np.asarray(picture), settings))


def content_box(pixels: npt.NDArray[np.uint8], settings: ImagesSection) -> tuple[int, int, int, int]:
    """The bounding box of what is not near-white: left, top, right, bottom, the last two exclusive.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        settings: say what near-white is.

    Raises:
        ImageError: every pixel is near-white.
    """
    height, width, _ = pixels.shape
    ink = pixels.reshape(height, width * 3) < settings.near_white
    rows, columns = ink.any(axis=1).tobytes(), ink.any(axis=0).tobytes()
    if 1 not in rows:
        raise ImageError(f"blank: no pixel is darker than near-white ({settings.near_white})")
    return columns.find(1) // 3, rows.find(1), columns.rfind(1) // 3 + 1, rows.rfind(1) + 1


def fit(content: Image.Image, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Centre a cropped RGB picture on a white square and resize it.

    Returns:
        uint8 (S, S, 3), RGB.
    """
    width, height = content.size
    side, longest = settings.image_size, max(width, height)
    size = (max(1, round(side * width / longest)), max(1, round(side * height / longest)))
    kernel = Image.Resampling.BOX if longest >= side else Image.Resampling.BILINEAR
    square = Image.new("RGB", (side, side), WHITE)
    square.paste(content.resize(size, kernel), ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.array(square)


def preprocess(source: Path | bytes, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Make the network's input of one image file or its content.

    Returns:
        uint8 (S, S, 3), RGB, S = `settings.image_size`.

    Raises:
        ImageError: the image cannot be used; the message says why.
    """
    content = read_image_file(source, settings) if isinstance(source, Path) else source
    return fit(crop(decode(content, settings), settings), settings)
