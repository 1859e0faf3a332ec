"""Thumbnails for reports, and sheets of them."""

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

SIDE = 72
"""Pixels of the longer side, some 2 kB each; wrong labels of a drawn face can still be recognised."""
SHEET = 36
"""Pictures of a sheet."""
ROW = 12
"""Pictures in a row of a sheet."""
GAP = 4
"""Pixels between pictures. `GROUND` is the colour there: pictures may be white at their edges."""
GROUND = 208


def thumbnail(picture: Image.Image | npt.NDArray[np.uint8]) -> str:
    """A picture, or its pixels (H, W, 3 or 4), as a JPEG data URI of at most `SIDE` pixels a side."""
    small = (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).convert("RGB")
    small.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def thumbnail_of(path: Path) -> str:
    """The same of an image file that has been decoded before: upright, on white; "" if it can no longer be read."""
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (2 * SIDE, 2 * SIDE))
            upright = ImageOps.exif_transpose(picture)
            upright.thumbnail((2 * SIDE, 2 * SIDE))
            shown = upright.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    white = Image.new("RGBA", shown.size, "white")
    white.alpha_composite(shown)
    return thumbnail(white)


def for_sheet(count: int) -> npt.NDArray[np.int64]:
    """Positions of the pictures that a sheet shows: up to `SHEET` of `count`, evenly spread."""
    return np.linspace(0, count - 1, min(SHEET, count), dtype=np.int64)


def contact_sheet(images: npt.NDArray[np.uint8], most: int) -> Image.Image:
    """Pictures side by side, in rows of `ROW`.

    Args:
        images: uint8 (N, S, S, 3), RGB.
        most: pixels a side; larger ones are shrunk.
    """
    side = min(most, images.shape[1])
    columns, rows = min(ROW, len(images)), -(-len(images) // ROW)
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + GAP) + GAP), (GROUND,) * 3)
    for number, image in enumerate(images):
        row, column = divmod(number, ROW)
        picture = Image.fromarray(image)
        picture.thumbnail((side, side))
        sheet.paste(picture, (column * (side + GAP) + GAP, row * (side + GAP) + GAP))
    return sheet
