"""The one photograph of a face that a library of ours ships, somewhere in a larger picture."""

from functools import cache
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageFilter

FACE = (165, 110, 355, 335)
"""Left, top, right and bottom of the face in the photograph of 512 x 600 pixels, by eye."""


@cache
def photograph() -> Image.Image:
    """Grace Hopper, by the US Navy, in the public domain."""
    return Image.open(Path(mpl.get_data_path(), "sample_data", "grace_hopper.jpg")).convert("RGB")


def on_canvas(*faces: tuple[int, int, int], size: tuple[int, int] = (900, 700)) -> Image.Image:
    """The photograph several times on a dim ground: left, top and width of each."""
    canvas = Image.linear_gradient("L").resize(size).convert("RGB").filter(ImageFilter.GaussianBlur(9))
    for left, top, width in faces:
        canvas.paste(photograph().resize((width, width * 600 // 512)), (left, top))
    return canvas
