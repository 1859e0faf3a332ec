"""Resizing by cykooz-resizer, the Rust crate fast_image_resize. Its private parts are used here alone.

The Python layer of the package chooses among modes, which takes 2 us of 29, and copies an image that is a view. The
locks pin the package's version; another version must pass the tests of this module.
"""

import numpy as np
import numpy.typing as npt
from cykooz_resizer import FilterType, ResizeAlg, ResizeOptions
from cykooz_resizer.rust_lib import PilImageWrapper, RustAlphaMulDiv, RustResizer
from PIL import Image

Picture = npt.NDArray[np.uint8]
"""uint8 (H, W, 4): red, green, blue and 255. Pillow uses such memory without a copy."""

# all four channels alike: to multiply colours by opacity, and to divide them again, would take twice the time
_AREA = ResizeOptions(ResizeAlg.convolution(FilterType.box), use_alpha=False).rust_options
_BILINEAR = ResizeOptions(ResizeAlg.convolution(FilterType.bilinear), use_alpha=False).rust_options


def wrapped(picture: Picture) -> Image.Image:
    """Pillow's view of contiguous memory (H, W, 4), without a copy: RGBA."""
    height, width, _ = picture.shape
    return Image.frombuffer("RGBA", (width, height), picture, "raw", "RGBA", 0, 1)


def resized(picture: Picture, width: int, height: int, *, enlarge: bool) -> Picture:
    """A picture in another size: bilinear if it becomes larger, else by averaging areas."""
    result = np.empty((height, width, 4), np.uint8)
    kernel = _BILINEAR if enlarge else _AREA
    RustResizer().resize_pil(PilImageWrapper(wrapped(picture)), PilImageWrapper(wrapped(result)), kernel)
    return result


def multiply_by_opacity(pixels: npt.NDArray[np.uint8]) -> None:
    """Multiply the colours of RGBA pixels (H, W, 4) by their opacity, in place, rounded as by Pillow."""
    RustAlphaMulDiv().multiply_alpha_pil_inplace(PilImageWrapper(wrapped(pixels)))
