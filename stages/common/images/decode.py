"""From an image file to its picture: PNG or JPEG to upright RGB on white, or a reason why not.

Decisions and their reasons:
    formats    PNG and JPEG, by content, not by name. Others are refused, not guessed.
    animation  refused: a label does not say which frame it means. (A phone's MPO is a JPEG with a preview behind it;
               its first picture, the photograph itself, is taken.)
    alpha      composited on white, the background that the crop looks for.
    EXIF       the orientation is applied: the picture is upright, as in every viewer. ICC profiles are ignored.

    identity   `Decoded.pixels` identifies an image, independently of the file's name and metadata.
    damage     refused, also if a decoder could guess: where libjpeg only warns, half of the picture may be garbage.
    cost       bounded by the number of pixels: a JPEG may pass over them `MAX_SCANS` times.

Three decoders give the same pixels (only simplejpeg can decode to fewer). Pillow can decode every file. Plain PNGs (8
bits, not interlaced, no text that could hold an orientation) go to kornia-rs, which takes half of the time; a file that
it cannot decode or finds damaged goes to Pillow. kornia-rs does not check the checksum of zlib; the CRC of every chunk,
which covers the same bytes, is checked here. JPEGs go to simplejpeg, the only decoder that reports its warnings; Pillow
takes JPEGs that simplejpeg cannot decode (arithmetic coding, for example), and turns CMYK into RGB.
"""

import errno
import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import xxhash
from kornia_rs import io as kornia
from kornia_rs.imgproc import rgba_from_rgb
from PIL import Image, ImageOps

from stages.common.images import room
from stages.common.images.foreign import what_it_is
from stages.common.images.jpeg import MAX_PARTS, Parts, parts_of, without_profiles
from stages.common.images.resizer import Picture, multiply_by_opacity, wrapped
from stages.common.images.settings import ImagesSection
from stages.common.images.thumbnails import thumbnail

Image.MAX_IMAGE_PIXELS = (
    None  # `max_megapixels` is the limit; Pillow's own would warn at 89 and raise at 179 megapixels
)

FORMATS = ("PNG", "JPEG")
WHITE = (255, 255, 255)
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
PLAIN = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs"})
"""Chunks of a plain PNG: of those that change no pixel, the ones that Pillow ignores, too."""

GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
"""Colour types of PNG that are decoded fast, and `MODES`, Pillow's names of them."""
MODES = {GREY: "L", RGB: "RGB", PALETTE: "P", RGBA: "RGBA"}

ORIENTATION = 0x0112
"""EXIF tag; 1 is upright."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> what makes the picture upright."""
LYING = frozenset({5, 6, 7, 8})
"""Of these, those that exchange width and height."""

MAY_SAY_MORE = frozenset({1, 2})
"""Application segments that hold EXIF and XMP, which may turn a JPEG, and MPF, which makes it an MPO."""
CHANNELS = {1: "L", 3: "RGB", 4: "CMYK"}

MAX_SCANS = 100
"""Passes over a JPEG's pixels. Encoders make 10 to 30; each takes .002 s a megapixel, even if it changes nothing."""

BAD_PROFILE = "bad ICC marker"
"""A warning that concerns no pixel; it would hide a warning that does."""

MAX_PROFILES = 100
"""Colour profiles of a PNG, which has one; Pillow takes 2 ms for each, though nothing uses them."""

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors of the system that mean that there is no such file."""

DAMAGED = ("Corrupt JPEG data", "Premature end of JPEG file", "Inconsistent progression sequence")
"""Beginnings of libjpeg's warnings about lost pixels; its other warnings are about odd headers."""


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason, for `rejected.csv`.

    The text before a colon is the kind of reason, with the remedy in brackets, so that equal kinds can be counted.
    """


def read_image_file(path: Path | str, settings: ImagesSection) -> bytes:
    """Read a file that should be an image; whatever is not a regular file is never opened (a FIFO would hang).

    Raises:
        ImageError: absent, not a regular file, empty, or larger than any allowed picture.
        OSError: the system refuses to read it. That is no property of the image, and a reject would be cached.
    """
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        if status.st_size == 0:
            raise ImageError("empty file (copy it again)")
        # 16-bit RGBA without compression takes 8 bytes a pixel; the spare megabyte is for metadata
        if status.st_size > settings.max_megapixels * 8e6 + 1e6:
            size, most = status.st_size / 1e6, settings.max_megapixels
            raise ImageError(f"too large: {size:.0f} MB, more than a picture of {most:g} megapixels needs")
        descriptor = os.open(path, os.O_RDONLY)  # not a file object, which takes 7 us more
        try:
            return os.read(descriptor, status.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        raise ImageError(f"cannot be read: {error.strerror}") from error


class Decoded(NamedTuple):
    """A decoded file.

    Attributes:
        picture: the picture.
        pixels: digest (32 hex digits of XXH3) that identifies the image: it decides split and fold, and shows whether
            the image was seen before. For a PNG, it is over the pixels on white; for a JPEG, over its data without
            metadata, so it does not depend on the size to which the JPEG is decoded. No parameter changes it.
        format: PNG, JPEG or MPO.
        mode: colour mode, by Pillow's name.
        size: width and height of the file's picture, upright.
        reduced: number of pixels of the file per pixel of the picture, along a side.
    """

    picture: Picture
    pixels: str
    format: str
    mode: str
    size: tuple[int, int]
    reduced: int = 1


def pixels_digest(picture: Picture) -> str:
    """Digest (32 hex digits of XXH3) of pixels.

    Not SHA-256, which takes as long for 160x170 pixels as half of their decoding.
    """
    height, width, _ = picture.shape
    return xxhash.xxh3_128_hexdigest(picture.data, seed=width << 32 | height)


def decode(content: bytes, settings: ImagesSection) -> Picture:
    """The picture of `decode_file`."""
    return decode_file(content, settings).picture


def decode_file(content: bytes, settings: ImagesSection, enough: int | None = None) -> Decoded:
    """Decode a PNG or JPEG file to an upright RGB picture on white.

    Args:
        content: of the file.
        settings: limits.
        enough: pixels a side that are enough. A JPEG with at least twice as many is decoded to a half, a quarter or an
            eighth of its sides, which its blocks of 8 x 8 allow: at 500 x 500, in .7 of the time.

    Raises:
        ImageError: not PNG or JPEG, damaged or cut short, animated, or too large (found before decoding).
    """
    if content.startswith(PNG):
        chunks = _checked_chunks(content)
        return _plain_png(content, chunks, settings) or _by_pillow(content, settings)
    if content.startswith(JPEG):
        return _jpeg(content, parts_of(content), settings, enough)
    raise ImageError(what_it_is(content))


def thumbnail_as_decoded(path: Path, settings: ImagesSection) -> str:
    """The thumbnail of an image file, empty if it cannot be used."""
    try:
        return thumbnail(decode(read_image_file(path, settings), settings))
    except ImageError:
        return ""


def as_image(picture: Picture) -> Image.Image:
    """A picture as Pillow's, RGB."""
    return wrapped(picture).convert("RGB")


def _checked_chunks(png: bytes) -> dict[bytes, int]:
    """Check the checksum of every chunk up to the end mark; decoders check only the chunks before the pixels.

    Returns:
        Chunk type -> start of its first chunk; "again" if there are several of a type other than IDAT.
    """
    view, start, first = memoryview(png), len(PNG), dict[bytes, int]()
    parts = profiles = 0
    while start < len(png):
        if len(png) < start + 12:
            break
        length, kind = struct.unpack_from(">I4s", png, start)
        end = start + 8 + length
        if len(png) < end + 4:
            break
        parts += 1
        if parts > MAX_PARTS:
            raise ImageError(f"more than {MAX_PARTS:,} chunks (save it again with another program)")
        profiles += kind == b"iCCP"
        if profiles > MAX_PROFILES:
            raise ImageError(f"more than {MAX_PROFILES} colour profiles (save it again with another program)")
        if struct.unpack_from(">I", png, end)[0] != zlib.crc32(view[start + 4 : end]):
            raise ImageError(f"damaged: wrong checksum of chunk {kind.decode('ascii', 'backslashreplace')}")
        first.setdefault(kind if kind not in first or kind == b"IDAT" else b"again", start)
        if kind == b"IEND":
            return first
        start = end + 4
    raise ImageError("damaged: cut short")


def _plain_png(png: bytes, chunks: dict[bytes, int], settings: ImagesSection) -> Decoded | None:
    """Decode a plain PNG; None for others, which Pillow decodes or refuses.

    kornia-rs does not support palettes. But the indices of a palette have the form of a grey PNG, so kornia-rs gets
    them as such. Palettes with transparency stay with Pillow.
    """
    if not chunks.keys() <= PLAIN or list(chunks)[:1] + list(chunks)[-2:] != [b"IHDR", b"IDAT", b"IEND"]:
        return None
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", png, len(PNG) + 8)
    _check_size((width, height), settings)
    room.claim(width * height / 1e6)
    if depth != 8 or interlaced or color not in MODES:
        return None
    try:
        if color == RGBA:
            picture = _white_behind(kornia.decode_image_png_u8(png, (height, width), "rgba"))
        elif color == RGB:
            picture = np.asarray(rgba_from_rgb(kornia.decode_image_png_u8(png, (height, width), "rgb")))
        elif color == GREY:
            picture = _by_table(kornia.decode_image_png_u8(png, (height, width), "mono"), _GREYS)
        else:
            start = chunks[b"PLTE"]
            colors = np.frombuffer(png, np.uint8, int.from_bytes(png[start : start + 4]), start + 8).reshape(-1, 3)
            header = b"IHDR" + png[16:25] + bytes([GREY]) + png[26:29]
            grey = png[:12] + header + zlib.crc32(header).to_bytes(4) + png[chunks[b"IDAT"] :]
            indices = kornia.decode_image_png_u8(grey, (height, width), "mono")
            if not indices.max() < len(colors) <= 256:
                return None
            table = np.full((len(colors), 4), 255, np.uint8)
            table[:, :3] = colors
            picture = _by_table(indices, table)
    except Exception:  # Pillow gives a better message
        return None
    return Decoded(picture, pixels_digest(picture), "PNG", MODES[color], (width, height))


_GREYS = np.stack([np.arange(256), np.arange(256), np.arange(256), np.full(256, 255)], axis=1).astype(np.uint8)
"""Grey level -> its pixel."""


def _by_table(indices: npt.NDArray[np.uint8], colors: npt.NDArray[np.uint8]) -> Picture:
    """Look up pixels: indices (H, W, 1) of colours (N, 4), all below N."""
    pixels = colors.view(np.uint32).ravel().take(indices, mode="clip")  # as four bytes at once: a fifth of the time
    return pixels.view(np.uint8)


def _white_behind(pixels: npt.NDArray[np.uint8]) -> Picture:
    """Composite RGBA pixels (H, W, 4) on white, in place.

    Opacity says how much darkness of a colour is subtracted from white. So colours are inverted, multiplied by opacity
    and inverted back, rounded as by Pillow.
    """
    whole = pixels.view(np.uint32).ravel()  # alpha is the highest byte
    if whole.min() < OPAQUE:
        whole ^= COLOR
        multiply_by_opacity(pixels)
        whole ^= COLOR
        whole |= OPAQUE
    return pixels


COLOR, OPAQUE = np.uint32(0xFFFFFF), np.uint32(0xFF000000)
"""The bytes of an RGBA pixel as a little-endian number: those of its colour, and that of its opacity."""


def _jpeg(jpeg: bytes, parts: Parts, settings: ImagesSection, enough: int | None) -> Decoded:
    """Decode a JPEG, strictly: a warning of simplejpeg means damage, though Pillow would show something."""
    if what := parts.excess or (f"{MAX_SCANS} passes over its pixels" if parts.scans > MAX_SCANS else ""):
        raise ImageError(f"more than {what} (save it again with another program)")
    _check_size(parts.size, settings)
    if parts.hole:
        raise ImageError("damaged: a part of its data is zeros")
    kind, orientation = "JPEG", 1
    if parts.metadata & MAY_SAY_MORE:
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow warns of odd metadata, which do not matter here
                header = Image.open(io.BytesIO(jpeg), formats=("JPEG",))
                kind, orientation = str(header.format), header.getexif().get(ORIENTATION, 1)
        except Exception:  # Pillow gives a better message
            return _by_pillow(jpeg, settings, parts.digest)
    mode, side = CHANNELS.get(parts.channels, ""), min(parts.size)
    reduced = next((by for by in (8, 4, 2) if enough and side >= by * enough and mode != "CMYK"), 1)
    width, height = parts.size
    room.claim(width * height / 1e6 / (reduced**2 if parts.scans == 1 else 1))  # several passes need all coefficients
    # with this bound it takes 1/2, 1/4 or 1/8; the eighths between have no SIMD and take longer than the next larger
    least = {"min_height": -(-height // reduced), "min_width": -(-width // reduced)}
    try:
        picture = simplejpeg.decode_jpeg(jpeg, "CMYK" if mode == "CMYK" else "RGBA", **least)
    except ValueError as error:
        if BAD_PROFILE in str(error) and parts.profiles:
            return _jpeg(bare := without_profiles(jpeg, parts), parts_of(bare), settings, enough)
        if str(error).startswith(DAMAGED):
            raise ImageError(f"damaged: {str(error).removeprefix('Corrupt JPEG data: ')}") from error
        return _by_pillow(jpeg, settings, parts.digest)
    if mode not in {"L", "RGB"}:
        return _by_pillow(jpeg, settings, parts.digest)
    if orientation in TURNS:
        picture = np.array(wrapped(picture).transpose(TURNS[orientation]))
    upright = (height, width) if orientation in LYING else (width, height)
    return Decoded(picture, parts.digest, kind, mode, upright, reduced)


def _by_pillow(content: bytes, settings: ImagesSection, pixels: str = "") -> Decoded:
    """Decode any file that Pillow can; `pixels` is the digest of the picture if it is known already."""
    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            _check_header(image, settings)
            room.claim(image.width * image.height / 1e6)
            kind, mode = str(image.format), image.mode  # decoding changes the mode of some
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            picture = np.array(_on_white(image))
            return Decoded(picture, pixels or pixels_digest(picture), kind, mode, image.size)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"damaged: {reason}") from error


def _check_header(image: Image.Image, settings: ImagesSection) -> None:
    _check_size(image.size, settings)
    if image.format == "PNG" and getattr(image, "is_animated", False):
        raise ImageError("animation (save one of its pictures)")


def _check_size(size: tuple[int, int], settings: ImagesSection) -> None:
    width, height = size
    if width * height > settings.max_megapixels * 1e6:
        raise ImageError(f"too large: {width} x {height} pixels are more than {settings.max_megapixels:g} megapixels")


def _on_white(picture: Image.Image) -> Image.Image:
    """A picture of any mode as opaque RGBA."""
    if picture.mode.startswith("I;16"):  # 16-bit grey, which convert() would clip instead of scale
        values = np.asarray(picture)
        grey = (values >> 8).astype(np.uint8)
        grey[values == picture.info.get("transparency", -1)] = 255
        picture = Image.fromarray(grey)
    if picture.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", picture.size, (*WHITE, 255)), picture.convert("RGBA"))
    return picture.convert("RGB").convert("RGBA")
