"""Files of every kind: those that are pictures, and those that are refused."""

import io
from typing import Any

import numpy as np
from PIL import Image

from stages.common.images.jpeg import MAX_PARTS
from tests.common.images.test_decode import KINDS, chunk, png
from tests.common.onnx_models import SIDE
from tests.common.photograph import photograph


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def drawn() -> bytes:
    """A picture that the hand-made model reads the second class of every attribute off, with all its confidence."""
    pixels = np.full((SIDE, SIDE, 3), 77, np.uint8)
    pixels[0, :, 0] = 1
    return encoded(Image.fromarray(pixels))


def pictures() -> dict[str, bytes]:
    """Name -> a file that can be used."""
    photo = photograph().resize((160, 190))
    found = {f"png_{color}_{depth}_{flat}.png": png(color, depth, interlaced=flat == "interlaced")
             for color, depth in KINDS for flat in ("plain", "interlaced")}  # fmt: skip
    found["transparent.png"] = png(3, 8, extra=chunk(b"tRNS", bytes(range(200))))
    forms: dict[str, dict[str, Any]] = {"plain": {}, "progressive": {"progressive": True}, "poor": {"quality": 30}}
    for mode in ("RGB", "L", "CMYK"):
        for name, options in forms.items():
            found[f"jpeg_{mode}_{name}.jpg"] = encoded(photo.convert(mode), "JPEG", **options)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found[f"turned_{orientation}.jpg"] = encoded(photo, "JPEG", exif=exif)
    found["large.jpg"] = encoded(photograph().resize((1024, 1200)), "JPEG")
    found["misnamed.png"] = encoded(photo, "JPEG")
    found["alpha.png"] = encoded(Image.merge("RGBA", (*photo.split(), Image.linear_gradient("L").resize(photo.size))))
    return found


def no_pictures() -> dict[str, bytes]:
    """Name -> a file that is refused."""
    photo = photograph().resize((160, 190))
    whole = encoded(photo)
    return {
        "empty.png": b"",
        "text.png": b"no picture at all",
        "page.jpg": b"<!doctype html><title>404</title>",
        "gif.png": encoded(photo, "GIF"),
        "webp.png": encoded(photo, "WEBP"),
        "cut_short.png": whole[:-200],
        "cut_short.jpg": encoded(photo, "JPEG")[:-2000],
        "flipped.png": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
        "zeros.png": bytes(3000),
        "blank.png": encoded(Image.new("RGB", (40, 40), "white")),
        "animated.png": encoded(photo, "PNG", save_all=True, append_images=[photo.rotate(9)]),
        "bomb.png": encoded(Image.new("L", (10_000, 6_000))),
        "many_chunks.png": whole[:33] + chunk(b"tEXt", b"a\0b") * MAX_PARTS + whole[33:],
    }
