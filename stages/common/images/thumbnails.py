"""Thumbnails for reports."""

import base64
import io

from PIL import Image

SIDE = 72
"""Pixels of the longer side; a drawn face still shows what is wrong with its labels, at some 2 kB a piece."""


def thumbnail(picture: Image.Image) -> str:
    """A picture as a JPEG data URI of at most `SIDE` pixels a side."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
