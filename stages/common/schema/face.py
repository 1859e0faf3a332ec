"""The face that was cut out of a picture, as in index.csv and predictions.csv."""

from typing import NamedTuple

import numpy as np


class Face(NamedTuple):
    """The number of faces found, and the box of the chosen face, in pixels of the file's upright picture.

    Attributes:
        faces: number of detected faces; without a face, the box is the whole picture.
        face_left: the first column of the box.
        face_top: its first row.
        face_right: the column behind its last one.
        face_bottom: the row below its last one.
    """

    faces: int
    face_left: int
    face_top: int
    face_right: int
    face_bottom: int

    def scaled(self, by: int, width: int, height: int) -> "Face":
        """The same in a picture of `width` x `height` that has `by` times as many pixels a side."""
        left, top, right, bottom = (by * side for side in self[1:])
        return Face(self.faces, left, top, min(width, right), min(height, bottom))


NO_FACES = np.empty((0, len(Face._fields)), np.int32)
"""For images without face detection."""
