"""Where a face is found, on the one photograph that a library of ours ships, and what is cut out."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from stages.common.images.decode import ImageError
from stages.common.images.faces import cut_out, find_faces, take_face
from stages.common.images.preprocess import content_of, preprocess
from stages.common.images.settings import FaceCrop, Preprocessing
from stages.common.schema.face import Face
from tests.common.photograph import FACE, on_canvas, photograph


def settings(**face: object) -> Preprocessing:
    return Preprocessing(
        image_size=64, near_white=245, max_megapixels=50, crop="face", face=FaceCrop.model_validate(face)
    )


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The area that both boxes have, by that which either has."""
    width, height = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    both = max(0, width) * max(0, height)
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both)


def expected(left: int, top: int, width: int) -> tuple[float, ...]:
    scale = width / 512
    return tuple(scale * side + (left, top)[axis % 2] for axis, side in enumerate(FACE))


def reason(picture: Image.Image, **face: object) -> str:
    with pytest.raises(ImageError) as caught:
        preprocess(encode(picture), settings(**face))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "place", [(0, 0, 300), (590, 20, 300), (320, 330, 300), (60, 400, 120), (120, 0, 590), (700, 90, 80)]
)
def test_a_face_is_found_wherever_it_is(place: tuple[int, int, int]) -> None:
    face = content_of(encode(on_canvas(place)), settings()).face
    assert face is not None
    assert face.faces == 1
    assert overlap(face[1:], expected(*place)) > 0.65


def test_of_several_faces_the_largest_is_taken_or_the_picture_is_refused() -> None:
    picture = on_canvas((40, 100, 200), (400, 60, 400))
    face = content_of(encode(picture), settings()).face
    assert face is not None
    assert face.faces == 2
    assert overlap(face[1:], expected(400, 60, 400)) > 0.65
    assert reason(picture, several="reject").startswith("several faces: 2 (")


def test_a_picture_without_a_face_is_refused_or_taken_whole() -> None:
    empty = on_canvas()
    assert reason(empty).startswith("no face found (")
    file = encode(empty)
    content = content_of(file, settings(none="whole"))
    assert content.face == Face(0, 0, 0, 900, 700)
    whole = settings().model_copy(update={"crop": "whole"})
    assert (preprocess(file, settings(none="whole")) == preprocess(file, whole)).all()


def test_a_face_that_the_edge_cuts_is_told_and_no_box_leaves_the_picture() -> None:
    cut = on_canvas((-180, 100, 400))  # a third of the face lies beyond
    assert reason(cut, edge="reject").startswith("face cut by the picture's edge: left (")
    face = content_of(encode(cut), settings()).face
    assert face is not None
    assert face.face_left == 0
    inside = on_canvas((0, 100, 400))
    assert content_of(encode(inside), settings(edge="reject")).face is not None


@pytest.mark.parametrize(("width", "whole"), [(1800, False), (200, True)], ids=["large", "small"])
def test_the_box_of_a_large_jpeg_counts_its_own_pixels(width: int, whole: bool) -> None:
    file = encode(on_canvas((300, 200, width), size=(3001, 2403)), "JPEG")
    picture, _, face = content_of(file, settings(margin=0.5))
    assert face is not None
    assert overlap(face[1:], expected(300, 200, width)) > 0.65
    side = max(face.face_right - face.face_left, face.face_bottom - face.face_top)
    assert len(picture) == pytest.approx(2 * side if whole else side, abs=4)  # else decoded to fewer pixels
    again = find_faces(picture)
    assert len(again) == 1
    assert overlap(tuple(again[0] / len(picture)), (0.25, 0.25, 0.75, 0.75)) > 0.65


def test_the_box_is_that_of_the_upright_picture() -> None:
    picture = on_canvas((100, 20, 500), size=(1000, 800))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    face = content_of(encode(turned, "JPEG", exif=exif), settings()).face
    assert face is not None
    assert overlap(face[1:], expected(100, 20, 500)) > 0.65


def test_what_is_cut_out_is_a_square_around_the_face_with_white_beyond_the_picture() -> None:
    picture = np.zeros((100, 80, 4), np.uint8)
    picture[40:60, 0:10, 0] = 200
    square = cut_out(picture, Face(1, 0, 40, 10, 60), 0.5)
    assert square.shape == (40, 40, 4)
    assert (square[:, :15] == 255).all()
    assert (square[10:30, 15:25, 0] == 200).all()
    assert (square[10:30, 15:25, 1:] == 0).all()
    assert (square[:10, 15:] == 0).all()


def test_the_mirror_image_has_the_mirrored_box() -> None:
    picture = on_canvas((100, 100, 400))
    boxes = [find_faces(np.asarray(image.convert("RGBA")))[0] for image in (picture, ImageOps.mirror(picture))]
    left, top, right, bottom = boxes[1]
    assert overlap(tuple(boxes[0]), (900 - right, top, 900 - left, bottom)) > 0.8


def test_a_face_is_taken_from_a_tight_picture_of_it() -> None:
    tight = photograph().crop((150, 60, 370, 340)).convert("RGBA")
    assert take_face(np.asarray(tight), FaceCrop()).faces == 1
