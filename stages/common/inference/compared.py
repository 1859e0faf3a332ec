"""Test images on which any two versions can be compared later: each version keeps its answers to them."""

from collections.abc import Sequence

PICTURES = "pictures.json"
"""Thumbnails of these images: digest of the picture -> data URI."""
ANSWERS = 10_000
"""Images that a version keeps; some 60 kB."""


def compared_images(digests: Sequence[str], attributes: int) -> list[int]:
    """Positions of the images to keep, each picture once.

    They have the lowest digests (bottom-k sampling: Cohen and Kaplan 2007, "Summarizing Data Using Bottom-k Sketches").
    So versions with mostly the same test images keep mostly the same of them, without knowing of each other.

    Args:
        digests: of the pictures of N test images.
        attributes: number of answered attributes.
    """
    first = {digest: position for position, digest in reversed([*enumerate(digests)])}
    return [first[digest] for digest in sorted(first)[: max(1, ANSWERS // attributes)]]
