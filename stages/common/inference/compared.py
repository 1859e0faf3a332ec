"""The test images on which any two versions are compared, though they never met: each keeps its answers to them."""

from collections.abc import Sequence

PICTURES = "pictures.json"
"""Thumbnails of these images: digest of the picture -> data URI."""
ANSWERS = 10_000
"""That a version keeps; some 60 kB."""


def compared_images(digests: Sequence[str], attributes: int) -> list[int]:
    """The positions of the images that are kept, by their digests, each picture once.

    They are those with the lowest digests (bottom-k sampling: Cohen and Kaplan 2007, "Summarizing Data Using Bottom-k
    Sketches"). So versions whose test images are mostly the same keep mostly the same ones, without knowing of each
    other.

    Args:
        digests: of the pictures of N test images.
        attributes: how many each is answered in.
    """
    first = {digest: position for position, digest in reversed([*enumerate(digests)])}
    return [first[digest] for digest in sorted(first)[: max(1, ANSWERS // attributes)]]
