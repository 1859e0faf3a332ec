"""Images of every kind, good and bad, through the one function that training and prediction share."""

import io
import os
import random
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from pydantic import ValidationError

from stages.common.images.decode import ImageError, decode, decode_file, pixels_digest
from stages.common.images.preprocess import content_of, crop, preprocess
from stages.common.images.settings import Preprocessing

SETTINGS = Preprocessing(image_size=32, near_white=245, max_megapixels=1)


def cropped(crop: str, share: list[float] | None = None, **more: object) -> Preprocessing:
    return Preprocessing.model_validate(SETTINGS.model_dump() | {"crop": crop, "centre_share": share, **more})


def face(mode: str = "RGB") -> Image.Image:
    """A red ellipse with a blue eye on a white ground of 60 x 80 pixels; it is not symmetric."""
    picture = Image.new("RGB", (60, 80), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((20, 10, 39, 69), fill=(200, 30, 30))
    draw.rectangle((22, 30, 27, 35), fill=(0, 0, 200))
    return picture.convert(mode)


def ink(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.min(image, axis=2) < 245)


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(source: bytes | Path) -> str:
    with pytest.raises(ImageError) as caught:
        preprocess(source, SETTINGS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_content_is_cropped_centred_and_keeps_its_proportions() -> None:
    image = preprocess(encode(face()), SETTINGS)
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    content = ink(image)
    rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
    assert (rows[0], rows[-1]) == (0, 31)  # 60 pixels high: fills the square
    assert (columns[0], columns[-1]) == (10, 20)  # 20 pixels wide: a third of it, in the middle
    wide = preprocess(encode(face().rotate(90, expand=True)), SETTINGS)
    assert ink(wide)[10:21, 16].all()
    assert (wide[:10] == 255).all()


def test_where_the_face_stands_on_the_white_does_not_matter() -> None:
    moved = Image.new("RGB", (300, 200), (250, 250, 250))
    moved.paste(face().crop((20, 10, 40, 70)), (213, 7))
    assert np.abs(preprocess(encode(moved), SETTINGS).astype(int) - preprocess(encode(face()), SETTINGS)).max() <= 5


def extent(image: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is not near-white, the last two inclusive."""
    rows, columns = (np.flatnonzero(ink(image).any(axis=axis)).tolist() for axis in (1, 0))
    return columns[0], rows[0], columns[-1], rows[-1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # of 60 x 80 pixels the face has columns 20 to 39 and rows 10 to 69; 80 of them become 32
        pytest.param(cropped("whole"), (12, 4, 19, 27), id="whole"),
        pytest.param(cropped("squeeze"), (10, 4, 21, 27), id="squeeze"),
        pytest.param(cropped("centre", [1, 1]), (12, 4, 19, 27), id="all of the centre"),
        pytest.param(cropped("centre", [2 / 3, 1]), (12, 4, 19, 27), id="narrow"),
        pytest.param(cropped("centre", [1, 0.75]), (11, 0, 20, 31), id="low"),
    ],
)
def test_a_crop_takes_what_it_says(settings: Preprocessing, expected: tuple[int, int, int, int]) -> None:
    assert extent(preprocess(encode(face()), settings)) == pytest.approx(expected, abs=1)


def test_the_share_of_the_face_around_the_centre_is_its_content() -> None:
    picture = encode(face())
    assert (preprocess(picture, cropped("centre", [1 / 3, 0.75])) == preprocess(picture, SETTINGS)).all()


@pytest.mark.parametrize("side", [32, 200])
def test_squeezing_fills_the_square_whatever_the_proportions(side: int) -> None:
    brown = Image.new("RGB", (300, 40), (90, 60, 30))
    squeezed = preprocess(encode(brown), cropped("squeeze", image_size=side))
    assert squeezed.shape == (side, side, 3)
    assert (squeezed == (90, 60, 30)).all()


def test_grey_takes_the_colours_and_leaves_white() -> None:
    grey = preprocess(encode(face()), cropped("content", grey=True))
    assert (grey == grey[:, :, :1]).all()
    assert (grey[0, 0] == 255).all()
    assert np.abs(grey[16, 16, 0] - (0.299 * 200 + 0.587 * 30 + 0.114 * 30)) <= 1
    alike = preprocess(encode(face("L").convert("RGB")), SETTINGS)  # Pillow's own luma
    assert np.abs(grey.astype(int) - alike).max() <= 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"crop": "centre"}, "crop centre needs centre_share"),
        ({"crop": "whole", "centre_share": [0.5, 0.5]}, "centre_share is of crop centre alone, and crop is whole"),
        ({"centre_share": [0.5, 0.5]}, "and crop is content"),
        ({"crop": "centre", "centre_share": [0.5]}, "at least 2 items"),
        ({"crop": "centre", "centre_share": [0.5, 0]}, "greater than 0"),
        ({"crop": "centre", "centre_share": [1.5, 1]}, "less than or equal to 1"),
        ({"crop": "middle"}, "'content', 'whole'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(told)):
        Preprocessing.model_validate(SETTINGS.model_dump() | wrong)


def test_a_model_of_earlier_code_was_trained_on_content_in_colour() -> None:
    told = {"version": 5, "image_size": 32, "near_white": 245, "max_megapixels": 1}
    assert Preprocessing.model_validate(told) == SETTINGS


def test_shrinking_averages_areas() -> None:
    fine = Image.fromarray(np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 200)  # a chequerboard
    assert (preprocess(encode(fine), SETTINGS) == 100).all()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encode(face().quantize(8)), id="palette"),
        pytest.param(encode(face("RGBA")), id="alpha"),
        pytest.param(encode(face().quantize(8), transparency=7), id="palette with a transparent colour"),
        pytest.param(encode(face("RGB"), interlace=1), id="interlaced"),
    ],
)
def test_the_encoding_does_not_matter(content: bytes) -> None:
    plain = np.asarray(face()).astype(int)
    assert np.abs(decode(content, SETTINGS)[:, :, :3] - plain).max() <= 3


def test_transparency_shows_white_whatever_colour_lies_below() -> None:
    picture = face("RGBA")
    clear = Image.new("RGBA", picture.size, (0, 255, 0, 0))
    clear.paste(picture, mask=Image.fromarray(((np.asarray(face()) < 245).any(axis=2) * 255).astype(np.uint8)))
    assert (preprocess(encode(clear), SETTINGS) == preprocess(encode(face()), SETTINGS)).all()
    half = decode(encode(Image.new("RGBA", (2, 2), (0, 0, 0, 128))), SETTINGS)
    assert half[0, 0].tolist() == [127, 127, 127, 255]
    grey = decode(encode(Image.new("L", (2, 2), 7), transparency=7), SETTINGS)
    assert grey[0, 0].tolist() == [255, 255, 255, 255]


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    assert (decode(encode(ramp), SETTINGS)[:, :, 0].ravel() == np.arange(256)).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_in_any_colour_space(mode: str) -> None:
    decoded = decode(encode(face(mode), "JPEG", quality=95), SETTINGS)[:, :, :3].astype(int)
    assert np.abs(decoded - np.asarray(face(mode).convert("RGB"))).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 270 degrees counter-clockwise
    lying = face().transpose(Image.Transpose.ROTATE_90)
    upright = preprocess(encode(lying, kind, exif=exif), SETTINGS).astype(int)
    assert np.abs(upright - preprocess(encode(face(), kind), SETTINGS)).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_file_is_refused_or_shows_the_same_picture(kind: str) -> None:
    whole = encode(face(), kind)
    expected = preprocess(whole, SETTINGS)
    refused = 0
    for length in range(1, len(whole), 7):
        try:
            image = preprocess(whole[:length], SETTINGS)
        except ImageError:
            refused += 1
        else:  # only the end mark is missing
            assert (image == expected).all()
    assert refused >= len(range(1, len(whole), 7)) - 2


def test_a_flipped_bit_in_a_png_is_never_shown() -> None:
    whole = encode(face())
    expected = preprocess(whole, SETTINGS)
    chance = random.Random(0)  # noqa: S311
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        try:
            image = preprocess(bytes(damaged), SETTINGS)
        except ImageError:
            continue
        assert (image == expected).all()


def test_too_many_pixels_are_refused_by_the_header() -> None:
    small = encode(Image.new("1", (8, 8)))
    header = b"IHDR" + struct.pack(">II", 30000, 30000) + small[24:29]
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    assert reason(bomb) == "too large: 30000 x 30000 pixels are more than 1 megapixels"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_refused_whatever_the_name_says(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(face(), kind))
    shown = "WebP" if kind == "WEBP" else kind
    assert reason(tmp_path / "a.png") == f"{shown} image (convert it to PNG or JPEG)"


def test_an_animation_is_refused() -> None:
    frames = encode(face(), save_all=True, append_images=[face().rotate(180)])
    assert reason(frames) == "animation (save one of its pictures)"


def test_a_blank_picture_is_refused() -> None:
    blank = encode(Image.new("RGB", (9, 9), (250, 246, 255)))
    assert reason(blank).startswith("blank")
    for settings in (cropped("whole"), cropped("squeeze"), cropped("centre", [0.5, 0.5])):  # no content to look for
        assert (preprocess(blank, settings) == (250, 246, 255)).all()


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "real.png").write_bytes(encode(face()))
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    for name in ("fifo.png", "folder.png", "link.png"):
        assert reason(tmp_path / name) == "not a regular file"
    (tmp_path / "empty.png").touch()
    assert reason(tmp_path / "empty.png") == "empty file (copy it again)"
    assert reason(tmp_path / "absent.png") == "cannot be read: No such file or directory"
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(10**10)
    assert "megapixels needs" in reason(tmp_path / "huge.png")


def test_what_the_system_refuses_is_no_fault_of_the_image(tmp_path: Path) -> None:
    shut = tmp_path / "shut.png"
    shut.write_bytes(encode(face()))
    shut.chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root is refused nothing
    try:
        with pytest.raises(PermissionError):
            preprocess(shut, SETTINGS)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["ü" * 125 + "x.png", "眼鏡 😎.png"])  # 255 bytes are the most that file systems take
def test_long_and_foreign_names(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(encode(face()))
    assert preprocess(tmp_path / name, SETTINGS).shape == (32, 32, 3)


def test_the_pixel_digest_sees_the_picture_and_not_the_file() -> None:
    digest = pixels_digest(decode(encode(face()), SETTINGS))
    assert digest == pixels_digest(decode(encode(face("RGBA"), compress_level=1), SETTINGS))
    assert digest != pixels_digest(decode(encode(face().rotate(180)), SETTINGS))


def test_a_jpeg_is_known_by_its_data_however_much_of_them_is_decoded() -> None:
    file = large((101, 53, 457, 750))
    known = decode_file(file, SETTINGS).pixels
    exif = Image.Exif()
    exif[0x010E] = "a face"
    end = file.index(b"\xff\xe0") + 2 + 16
    commented = file[:end] + b"\xff\xfe\x00\x06note" + b"\xff\xe1\x00\x08" + exif.tobytes()[:6] + file[end:]
    assert decode_file(commented + b"what a camera adds", SETTINGS).pixels == known
    assert content_of(file, SETTINGS).pixels == known
    assert content_of(file, SETTINGS.model_copy(update={"image_size": 200, "near_white": 230})).pixels == known
    assert decode_file(large((101, 53, 457, 751)), SETTINGS).pixels != known


def test_sixteen_bits_a_channel_are_scaled() -> None:
    """Pillow cannot write this form, so the file is put together here."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + struct.pack(">HHH", 0x8000, 0x0100, 0xF000) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")
    assert decode(b"\x89PNG\r\n\x1a\n" + chunks, SETTINGS)[0, 0].tolist() == [0x80, 0x01, 0xF0, 255]


def test_a_white_margin_changes_nothing() -> None:
    picture = decode(encode(face()), SETTINGS)
    wider = np.pad(picture, ((5, 5), (20, 10), (0, 0)), constant_values=255)
    assert pixels_digest(crop(wider, SETTINGS)) == pixels_digest(crop(picture, SETTINGS))


def large(box: tuple[int, int, int, int]) -> bytes:
    """A JPEG of 800 x 800 pixels, white but for the face, which fills the box."""
    picture = Image.new("RGB", (800, 800), "white")
    picture.paste(face().crop((20, 10, 40, 70)).resize((box[2] - box[0], box[3] - box[1])), box)
    return encode(picture, "JPEG", quality=95)


def test_a_large_jpeg_is_decoded_to_fewer_pixels_and_shows_the_same() -> None:
    file = large((101, 53, 457, 750))
    content = content_of(file, SETTINGS).picture
    assert content.shape[:2] == pytest.approx((697 / 8, 356 / 8), abs=2)  # 100 x 100 pixels do for a result of 32
    whole = encode(Image.open(io.BytesIO(file)))
    difference = preprocess(file, SETTINGS).astype(int) - preprocess(whole, SETTINGS)
    assert np.abs(difference).mean() < 8  # of 255; an edge may lie a third of a pixel of the result beside


@pytest.mark.parametrize(
    ("settings", "pixels"),
    [
        pytest.param(cropped("whole"), (100, 100), id="whole"),
        pytest.param(cropped("squeeze"), (100, 100), id="squeeze"),
        pytest.param(cropped("centre", [0.5, 0.75]), (150, 100), id="centre"),
        pytest.param(cropped("centre", [0.1, 0.2]), (160, 80), id="a small centre"),
    ],
)
def test_however_a_large_jpeg_is_cropped_it_is_decoded_once_and_shows_the_same(
    settings: Preprocessing, pixels: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = large((101, 53, 457, 750))
    whole = encode(Image.open(io.BytesIO(file)))
    decodes: list[int] = []

    def counted(*arguments: Any) -> Any:
        decoded = decode_file(*arguments)
        decodes.append(decoded.reduced)
        return decoded

    monkeypatch.setattr("stages.common.images.preprocess.decode_file", counted)
    assert content_of(file, settings).picture.shape[:2] == pixels
    assert len(decodes) == 1
    difference = preprocess(file, settings).astype(int) - preprocess(whole, settings)
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("box", [(300, 300, 400, 450), (301, 301, 304, 304)], ids=["small", "a dot"])
def test_a_small_content_of_a_large_jpeg_is_seen_whole(box: tuple[int, int, int, int]) -> None:
    file = large(box)
    whole = encode(Image.open(io.BytesIO(file)))
    assert (preprocess(file, SETTINGS) == preprocess(whole, SETTINGS)).all()


def test_a_blank_large_jpeg_is_refused() -> None:
    assert reason(encode(Image.new("RGB", (800, 800), "white"), "JPEG")).startswith("blank:")


def test_a_cut_large_jpeg_is_refused() -> None:
    file = large((101, 53, 457, 750))
    assert reason(file[: len(file) // 2]).startswith("damaged:")
