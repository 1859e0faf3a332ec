"""The fast decoders show every file as Pillow does, and refuse what Pillow refuses."""

import io
import random
import struct
import time
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from stages.common.images.decode import ImageError, as_image, decode, decode_file
from stages.common.images.settings import ImagesSection

SETTINGS = ImagesSection(near_white=245, max_megapixels=1)
TILE = np.random.default_rng(4).integers(0, 256, (8, 8, 3), dtype=np.uint8)
"""Of equal blocks, the data of one pass over a JPEG may be nothing but zeros."""
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(color: int, depth: int, *, interlaced: bool = False, extra: bytes = b"", width: int = 23) -> bytes:
    """A PNG of noise, 23 x 17, that uses every filter; Pillow cannot write most of these."""
    noise = random.Random(color * 100 + depth)  # noqa: S311
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    data = b""
    for x, y, right, down in passes:
        row = -(-(width - x) // right) * CHANNELS[color] * depth
        for line in range(-(-(17 - y) // down)):
            data += bytes([line % 5]) + noise.randbytes(-(-row // 8))
    palette = chunk(b"PLTE", noise.randbytes(3 << depth)) if color == 3 else b""
    header = struct.pack(">IIBBBBB", width, 17, depth, color, 0, 0, interlaced)
    body = zlib.compress(data)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + extra
        + chunk(b"IDAT", body[:50]) + chunk(b"IDAT", body[50:]) + chunk(b"IEND", b"")
    )  # fmt: skip


def by_pillow(content: bytes) -> npt.NDArray[np.uint8]:
    """Pixels of a file of at most 8 bits a channel, on white."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))


KINDS = [(color, depth) for color, depths in {0: (1, 2, 4, 8), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items() for depth in depths]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color", "depth"), KINDS)
def test_every_kind_of_png_is_the_same_as_by_pillow(color: int, depth: int, interlaced: bool) -> None:
    content = png(color, depth, interlaced=interlaced)
    picture = decode(content, SETTINGS)
    assert (picture[:, :, :3] == by_pillow(content)).all()
    assert (picture[:, :, 3] == 255).all()
    assert picture.flags.c_contiguous


@pytest.mark.parametrize(
    ("color", "depth", "extra"),
    [
        pytest.param(3, 8, chunk(b"tRNS", bytes(range(200))), id="palette"),
        pytest.param(3, 4, chunk(b"tRNS", bytes(range(0, 160, 10))), id="palette of 4 bits"),
        pytest.param(2, 8, chunk(b"tRNS", bytes(6)), id="colour"),
        pytest.param(0, 8, chunk(b"tRNS", b"\0\x07"), id="grey"),
        pytest.param(6, 8, chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"sRGB", b"\0"), id="gamma"),
        pytest.param(2, 8, chunk(b"bKGD", bytes(6)), id="background"),
        pytest.param(2, 8, chunk(b"tEXt", b"Software\0x"), id="text"),
    ],
)
def test_chunks_that_say_more_than_pixels(color: int, depth: int, extra: bytes) -> None:
    content = png(color, depth, extra=extra)
    assert (decode(content, SETTINGS)[:, :, :3] == by_pillow(content)).all()


def test_every_level_at_every_opacity() -> None:
    level, opacity = np.meshgrid(np.arange(256), np.arange(256))
    pixels = np.stack([level, 255 - level, np.full_like(level, 77), opacity], axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    assert (decode(buffer.getvalue(), SETTINGS)[:, :, :3] == by_pillow(buffer.getvalue())).all()


def test_an_index_beyond_the_palette_shows_what_pillow_shows() -> None:
    short = png(3, 8).replace(png(3, 8)[33:][: 12 + 768], chunk(b"PLTE", bytes(range(30))))
    assert (decode(short, SETTINGS)[:, :, :3] == by_pillow(short)).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_a_jpeg_is_the_same_as_by_pillow(mode: str, options: dict[str, int]) -> None:
    buffer = io.BytesIO()
    as_image(decode(png(2, 8, width=51), SETTINGS)).convert(mode).save(buffer, "JPEG", **options)
    found = decode_file(buffer.getvalue(), SETTINGS)
    assert (found.format, found.mode) == ("JPEG", mode)
    assert (found.picture[:, :, :3] == by_pillow(buffer.getvalue())).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_orientation(kind: str, orientation: int) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    as_image(decode(png(2, 8, width=51), SETTINGS)).save(buffer, kind, exif=exif)
    assert (decode(buffer.getvalue(), SETTINGS)[:, :, :3] == by_pillow(buffer.getvalue())).all()


@pytest.mark.parametrize(("color", "depth"), [(0, 8), (2, 8), (3, 8), (6, 8)])
def test_too_few_or_too_many_rows(color: int, depth: int) -> None:
    """All checksums are right: only the decoder can notice. What is too much is ignored."""
    whole = png(color, depth)
    start = whole.index(b"IDAT") - 4
    data = zlib.decompress(whole[start + 8 : start + 58] + whole[start + 70 : -16])
    end = chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="damaged"):
        decode(whole[:start] + chunk(b"IDAT", zlib.compress(data[: len(data) // 2])) + end, SETTINGS)
    longer = whole[:start] + chunk(b"IDAT", zlib.compress(data + data)) + end
    assert (decode(longer, SETTINGS) == decode(whole, SETTINGS)).all()


def test_a_jpeg_with_flipped_bits_is_refused_or_shows_what_pillow_shows() -> None:
    buffer, chance = io.BytesIO(), random.Random(0)  # noqa: S311
    as_image(decode(png(2, 8, width=51), SETTINGS)).save(buffer, "JPEG")
    for _ in range(300):
        damaged = bytearray(buffer.getvalue())
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            picture = decode(bytes(damaged), SETTINGS)
        except ImageError:
            continue
        assert (picture[:, :, :3] == by_pillow(bytes(damaged))).all()


def photo(seed: int, mode: str = "RGB", side: int = 256) -> Image.Image:
    """A picture that changes slowly, as photographs do."""
    noise = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).convert(mode)


def jpeg(picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"quality": 85}),
        ("RGB", {"quality": 95, "subsampling": 0, "optimize": True}),
        ("RGB", {"restart_marker_blocks": 8}),
        ("L", {"quality": 85}),
        ("RGB", {"progressive": True}),
        ("RGB", {"progressive": True, "quality": 85}),
        ("RGB", {"progressive": True, "quality": 95, "subsampling": 0}),
    ],
)
def test_a_jpeg_with_a_hole_in_its_data_is_refused(mode: str, options: dict[str, object]) -> None:
    for seed in (0, 10, 11):
        whole = jpeg(photo(seed, mode), **options)
        start = whole.index(b"\xff\xda") + 14
        for number in range(40):
            at = start + (len(whole) - 250 - start) * number // 40
            with pytest.raises(ImageError, match="damaged"):
                decode(whole[:at] + bytes(200) + whole[at + 200 :], SETTINGS)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_in_its_data_is_refused_turned_and_in_every_mode(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    whole = jpeg(photo(1, mode), exif=exif)
    end = len(whole) // 2
    with pytest.raises(ImageError, match="damaged"):
        decode(whole[:end] + whole[end + 60 :], SETTINGS)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "picture",
    [photo(2, side=96), Image.new("RGB", (300, 200), "white"), Image.fromarray(np.tile(TILE, (40, 40, 1)))],
    ids=["photo", "white", "tiles"],
)
def test_valid_jpegs_of_every_kind_are_taken(mode: str, picture: Image.Image) -> None:
    for quality in (1, 30, 75, 100):
        for options in ({}, {"optimize": True}, {"progressive": True}, {"restart_marker_blocks": 3}):
            found = jpeg(picture.convert(mode), quality=quality, **options)
            plain = decode(found, SETTINGS)
            assert (decode(found + bytes(100) + b"what a program left behind", SETTINGS) == plain).all()
            padded = found[:2] + b"\xff\xe5\x01\x00" + bytes(254) + b"\xff\xff\xff" + found[3:]  # fill bytes
            assert (decode(padded, SETTINGS) == plain).all()


def test_an_odd_colour_profile_neither_refuses_a_jpeg_nor_hides_its_damage() -> None:
    plain = jpeg(photo(5))
    odd = plain[:2] + b"\xff\xe2\0\x14ICC_PROFILE\0\3\2abcd" + plain[2:]
    assert (decode(odd, SETTINGS) == decode(plain, SETTINGS)).all()
    assert decode_file(odd, SETTINGS).pixels == decode_file(plain, SETTINGS).pixels
    with pytest.raises(ImageError, match="damaged"):
        decode(odd[: len(odd) // 2] + odd[len(odd) // 2 + 60 :], SETTINGS)


def many_scans(times: int) -> bytes:
    """A flat progressive JPEG with its last pass over the pixels repeated."""
    whole = jpeg(Image.new("RGB", (1000, 1000), (90, 20, 10)), progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * times + whole[-2:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(many_scans(1000), "more than 100 passes over its pixels", id="scans"),
        pytest.param(many_scans(1), "damaged", id="a pass that changes nothing"),
        pytest.param(
            jpeg(photo(3))[:2] + b"\xff\xfe\0\2" * 3_000_000 + jpeg(photo(3))[2:],
            "more than 100,000 segments",
            id="notes",
        ),
        pytest.param(
            jpeg(photo(3))[:2] + (b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)) * 1500 + jpeg(photo(3))[2:],
            "more than 100 EXIF segments",
            id="EXIF",
        ),
        pytest.param(
            png(2, 8)[:33] + chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(900_000))) * 2_000 + png(2, 8)[33:],
            "more than 100 colour profiles",
            id="profiles",
        ),
        pytest.param(
            png(2, 8)[:33] + chunk(b"teSt", b"") * 2_000_000 + png(2, 8)[33:], "more than 100,000 chunks", id="chunks"
        ),
    ],
)
def test_what_costs_more_than_its_pixels_is_refused_at_once(content: bytes, reason: str) -> None:
    start = time.process_time()
    with pytest.raises(ImageError, match=reason):
        decode(content, SETTINGS)
    assert time.process_time() - start < 1  # of a picture of a megapixel at most


def test_previews_inside_of_a_jpeg_are_no_passes() -> None:
    preview, plain = many_scans(200), jpeg(photo(4))
    inside = plain[:2] + b"\xff\xe3" + (len(preview) + 2).to_bytes(2) + preview + plain[2:]
    assert preview.count(b"\xff\xda") > 100
    for content in (inside, plain + preview):
        assert (decode(content, SETTINGS) == decode(plain, SETTINGS)).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", r"Git LFS pointer .*`git lfs pull`"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP image .*convert it to PNG or JPEG"),
        (b"\0\0\0\x1cftypavif", "AVIF image .*convert"),
        (b"\0\0\0\x18ftypheic", "HEIC image .*convert"),
        (b"GIF89a", "GIF image .*convert"),
        (b"BM\0\0", "BMP image .*convert"),
        (b"\n<!DOCTYPE html><html>", "HTML page .*download the image again"),
        (b'<?xml version="1.0"?><Error>', "XML file .*download"),
        (bytes(5000), "nothing but zeros .*download"),
        (b"hello", "not a PNG or JPEG image"),
    ],
)
def test_what_is_no_image_is_called_by_its_name_with_the_remedy(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=f"^{reason}"):
        decode(content, SETTINGS)
