"""The image part of validate: what becomes of images of every kind, duplicates, and what is kept per lot."""

import io
import json
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from stages.common.checks.suite import findings, load_suite, run_suite
from stages.common.contract.artifacts import file_digest
from stages.common.contract.data_folder import OURS
from stages.common.contract.errors import TryAgainError
from stages.common.contract.params import load_params
from stages.common.contract.stage import Context
from stages.common.contract.version import ROOT
from stages.common.images.listing import list_folder
from stages.validate.duplicates import Duplicates, find_duplicates
from stages.validate.image_table import image_table, images_to_inspect
from stages.validate.inspection import inspect_images
from stages.validate.look import LookJob, look_at, look_at_sources
from stages.validate.params import Params
from stages.validate.perceptual import find_near
from stages.validate.table import join_images, listed_files
from tests.common.samples import DEFAULT_ATTRIBUTES

pytestmark = pytest.mark.slow

SUITE = OURS / "images.json"
LABELS = [attribute.column for attribute in DEFAULT_ATTRIBUTES]
PARAMS = load_params(Params, ROOT / "params.yaml", [])


def draw(number: int, width: int = 90, height: int = 80) -> Image.Image:
    """A face-like drawing on white that looks like no other number's."""
    random = np.random.default_rng(number)
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = random.integers(4, [width - 30, height - 30])
        w, h = random.integers(6, 26, 2)
        pen.ellipse((x, y, x + w, y + h), fill=tuple(random.integers(0, 200, 3).tolist()))
    return picture


def encode(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


class Raw:
    """A raw folder in the making, and what validate makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder / "raw", folder / "cache"
        self.cache.mkdir()
        self.labels: dict[str, dict[str, str]] = {}

    def add(self, path: str, content: bytes | Image.Image, **labels: str) -> str:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else encode(content))
        self.labels[path] = labels
        return path

    def context(self, digest: Callable[[Path], str] = file_digest) -> Context[Params]:
        def digests(files: Iterable[str | Path]) -> Iterator[str]:
            return (digest(Path(file)) for file in files)

        return Context(
            PARAMS, {"raw": self.folder}, self.cache, digests, {}, self.folder, self.folder, {}, "", self.folder
        )

    def rows(self) -> pd.DataFrame:
        """The annotations joined with the images; a row is called by its path."""
        cells: dict[str, Any] = {"filename": list(self.labels), "source": "a.csv", "row": range(len(self.labels))}
        cells |= {name: [labels.get(name) for labels in self.labels.values()] for name in LABELS}
        rows = pd.DataFrame(cells, list(self.labels)).astype(dict.fromkeys(["filename", *LABELS], "str"))
        return join_images(DEFAULT_ATTRIBUTES, rows, listed_files(list_folder(self.folder).images))

    def facts(self, digest: Callable[[Path], str] = file_digest) -> pd.DataFrame:
        return inspect_images(images_to_inspect(self.rows()), self.context(digest))

    def check(self) -> tuple[dict[str, list[str]], Duplicates]:
        """Reason -> the rows that fail, and the duplicates."""
        table, duplicates = image_table(
            DEFAULT_ATTRIBUTES, self.rows(), self.facts(), PARAMS.validate.near_duplicate_bits
        )
        return failing(table), duplicates


def failing(table: pd.DataFrame) -> dict[str, list[str]]:
    with warnings.catch_warnings():
        result = run_suite(load_suite(SUITE, ()), "images", table, PARAMS.validate.model_dump())
    return {finding.reason: finding.rows or [] for finding in findings(result)}


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path)


def problem(raw: Raw, content: bytes | Image.Image, name: str = "a/a_1.png") -> str:
    """Why an image cannot be used; empty if it can."""
    facts = raw.facts() if raw.add(name, content) else None
    assert facts is not None
    return str(facts["problem"].fillna("").loc[name])


def test_one_image_per_expectation_fails_it_alone(raw: Raw) -> None:
    good = [raw.add(f"s1/s1_{number}.png", draw(number), beard="1") for number in range(3)]
    expected: Mapping[str, list[str]] = {
        "image missing": ["s1/s1_absent.png"],
        "image name in several folders": ["several.png"],
        "several images have a similar name, none exactly this": ["s3_1.png"],
        "image found under another spelling of its name": ["s3_2.png"],
        "image in a folder whose name starts with = + - @ . or holds control characters": [
            raw.add("=cmd()/s1_10.png", draw(10))
        ],
        "image cannot be used": [raw.add("s1/s1_11.png", encode(draw(11))[:-100])],
        "image too small": [raw.add("s1/s1_12.png", draw(12).crop((20, 20, 60, 51)))],
        "the same picture has other labels under another name": [
            raw.add("s1/s1_13.png", draw(13), beard="1"),
            raw.add("s2/s2_13.png", draw(13), beard="0"),
        ],
        "image very long": [raw.add("s1/s1_14.png", draw(14, 260, 80))],
        "unusual colour mode": [raw.add("s1/s1_15.jpg", encode(draw(15).convert("CMYK"), "JPEG"))],
        "content has another format than the name says": [raw.add("s1/s1_16.png", encode(draw(16), "JPEG"))],
        "the same picture as another image": [raw.add("s2/s2_0.png", draw(0), beard="1")],
        "nearly the same picture as another image": [raw.add("s2/s2_1.jpg", encode(draw(1), "JPEG", quality=85))],
    }
    raw.labels |= {"s1/s1_absent.png": {}, "several.png": {}, "s3_1.png": {}, "s3_2.png": {}}
    for number, name in enumerate(("s3_1.jpg", "S3_1.JPG", "s3_2.PNG"), start=20):
        del raw.labels[raw.add(f"s3/{name}", encode(draw(number), "PNG" if name.endswith("PNG") else "JPEG"))]
    for folder in "ab":
        raw.add(f"{folder}/several.png", draw(17))
        del raw.labels[f"{folder}/several.png"]
    assert {reason: sorted(rows) for reason, rows in raw.check()[0].items()} == expected
    reasons = {expectation["meta"]["reason"] for expectation in json.loads(SUITE.read_text())["expectations"]}
    assert reasons == set(expected)
    assert not {row for rows in expected.values() for row in rows} & set(good)


def test_no_picture_at_all(raw: Raw) -> None:
    raw.add("a/a_1.png", draw(1))  # that no row names
    raw.labels = {}
    assert raw.check()[0] == {}
    raw.labels = {"a_2.png": {"beard": "1"}}
    assert raw.check()[0] == {"image missing": ["a_2.png"]}
    raw.add("a/a_3.png", b"no image")
    assert raw.check()[0] == {"image missing": ["a_2.png"], "image cannot be used": ["a/a_3.png"]}


def bomb() -> bytes:
    """A one-bit PNG whose header says 30000 x 30000."""
    small = encode(Image.new("1", (8, 8)))
    header = b"IHDR" + struct.pack(">II", 30000, 30000) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(encode(draw(0))[:-100], "damaged: ", id="PNG cut short"),
        pytest.param(encode(draw(0), "JPEG")[:-400], "damaged: ", id="JPEG cut short"),
        pytest.param(b"", "empty file", id="zero bytes"),
        pytest.param(bomb(), "too large: 30000 x 30000 pixels are more than 50 megapixels", id="bomb"),
        pytest.param(encode(draw(0), "GIF"), "GIF image (convert it to PNG or JPEG)", id="GIF"),
        pytest.param(encode(draw(0), "WEBP"), "WebP image (convert it to PNG or JPEG)", id="WebP"),
        pytest.param(encode(draw(0), "BMP"), "BMP image (convert it to PNG or JPEG)", id="BMP"),
        pytest.param(b"<html>not found</html>", "HTML page in place of the image", id="text"),
        pytest.param(
            encode(draw(0), save_all=True, append_images=[draw(1)]), "animation", id="animation"
        ),
        pytest.param(Image.new("RGB", (80, 80), (250, 250, 250)), "blank: ", id="blank"),
    ],
)  # fmt: skip
def test_what_training_could_not_use_is_refused_here(raw: Raw, content: bytes | Image.Image, reason: str) -> None:
    assert problem(raw, content).startswith(reason)
    assert list(raw.check()[0]) == ["image cannot be used"]


SIXTEEN = Image.fromarray(np.asarray(draw(0).convert("L")).astype(np.uint16) * 257)
CLEAR = draw(0).convert("RGBA")
CLEAR.putalpha(draw(0).convert("L").point(lambda value: 0 if value == 255 else 255))


@pytest.mark.parametrize(
    ("content", "mode", "warned"),
    [
        pytest.param(encode(draw(0)), "RGB", False, id="RGB"),
        pytest.param(encode(CLEAR), "RGBA", False, id="alpha"),
        pytest.param(encode(draw(0).quantize(64)), "P", False, id="palette"),
        pytest.param(encode(draw(0).convert("L")), "L", False, id="grey"),
        pytest.param(encode(draw(0).convert("LA")), "LA", False, id="grey with alpha"),
        pytest.param(encode(SIXTEEN), "I;16", True, id="16 bits"),
        pytest.param(encode(draw(0).convert("1")), "1", True, id="two colours"),
    ],
)  # fmt: skip
def test_colour_modes(raw: Raw, content: bytes, mode: str, warned: bool) -> None:
    raw.add("a/a_1.png", content)
    facts = raw.facts().loc["a/a_1.png"]
    assert (facts["mode"], facts["width"], facts["height"]) == (mode, 90, 80)
    assert list(raw.check()[0]) == (["unusual colour mode"] if warned else [])


def test_encoding_and_margin_make_no_other_picture(raw: Raw) -> None:
    wide = Image.new("RGB", (200, 150), "white")
    wide.paste(draw(0), (60, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    raw.add("a/a_1.png", draw(0))
    raw.add("a/a_2.png", CLEAR)
    raw.add("a/a_3.png", wide)
    raw.add("a/a_4.png", encode(draw(0).transpose(Image.Transpose.ROTATE_90), exif=exif))
    facts = raw.facts()
    assert (facts["cropped"].nunique(), facts["pixels"].nunique()) == (1, 2)  # the margin is part of the picture
    assert (set(facts["width"]), set(facts["height"])) == ({90, 200}, {80, 150})
    found = raw.check()[1]
    assert found.exact == [["a/a_1.png", "a/a_2.png", "a/a_3.png", "a/a_4.png"]]
    assert set(found.group) == {"a/a_1.png"}


def test_the_digest_tells_apart_what_the_hash_does_not(raw: Raw) -> None:
    speck = draw(0)
    speck.putpixel((45, 40), (1, 2, 3))
    first, second = raw.add("a/a_1.png", draw(0)), raw.add("a/a_2.png", speck)
    facts = raw.facts().loc[[first, second]]
    assert (facts["pixels"].nunique(), facts["hash"].nunique()) == (2, 1)
    assert raw.check()[1].near == [[first, second]]


def test_names_of_any_kind(raw: Raw) -> None:
    names = ["s_" + "x" * 249 + ".png", "gr\u00f6\u00dfe/\u00e4_\u732b.png", "a b/c'd_1.PNG"]
    for number, name in enumerate(names):
        raw.add(name, draw(number))
    assert raw.check()[0] == {}
    assert sorted(raw.facts().index) == sorted(names)


def test_what_is_no_regular_file_is_never_opened(raw: Raw, tmp_path: Path) -> None:
    raw.add("a/a_1.png", draw(1))
    os.mkfifo(raw.folder / "a/a_2.png")  # opening it would wait for ever
    (raw.folder / "a/a_3.png").mkdir()
    (tmp_path / "secret.png").write_bytes(encode(draw(2)))
    (raw.folder / "a/a_4.png").symlink_to(tmp_path / "secret.png")
    (raw.folder / "a/a_5.png").symlink_to("/dev/zero")
    others = [f"a/a_{number}.png" for number in range(2, 6)]
    raw.labels |= {name: {} for name in others}
    assert raw.check()[0] == {"image missing": others}
    looks = look_at(([raw.folder / name for name in others], PARAMS.images))  # if it became one after the listing
    assert [look.problem for look in looks] == ["not a regular file"] * 4


def test_labels_contradict_only_where_both_are_known(raw: Raw) -> None:
    a, b, c = (raw.add(f"s{n}/s{n}_0.png", draw(0)) for n in range(3))
    raw.labels |= {a: {"beard": "1"}, b: {"glasses_binary": "0"}, c: {"beard": "1", "hair_length": "2"}}
    assert raw.check()[0] == {"the same picture as another image": [b, c]}
    raw.labels[c] = {"beard": "0"}
    _, duplicates = raw.check()
    assert duplicates.columns["contradicts"].to_dict() == {
        a: f"beard 1, {c} says 0",
        b: f"beard: {a} says 1, {c} says 0",
        c: f"beard 0, {a} says 1",
    }


def test_only_lots_that_changed_are_looked_at(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def spy(job: LookJob) -> str:
        looked.extend(Path(source.path).name for source in job[0])
        return look_at_sources(job)

    monkeypatch.setattr("stages.validate.inspection.look_at_sources", spy)
    for lot in "ab":
        for number in range(2):
            raw.add(f"{lot}/{lot}_{number}.png", draw(number + 10 * ord(lot)), beard="0")
    before = raw.facts()
    assert len(looked) == 4
    raw.labels["a/a_0.png"] = {"beard": "1"}
    pd.testing.assert_frame_equal(raw.facts(), before)
    assert len(looked) == 4  # labels are no part of it

    raw.add("c/c_0.png", draw(77))
    raw.add("a/a_1.png", b"not an image")
    after = raw.facts()
    assert sorted(looked[4:]) == ["a_0.png", "a_1.png", "c_0.png"]
    assert after.loc["a/a_1.png", "problem"] == "not a PNG or JPEG image"
    pd.testing.assert_frame_equal(after.loc[["a/a_0.png", "b/b_0.png"]], before.loc[["a/a_0.png", "b/b_0.png"]])


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"\xff\xfe"])
def test_a_damaged_piece_is_made_again(raw: Raw, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    raw.add("a/a_1.png", draw(1))
    before = raw.facts()
    (piece,) = raw.cache.glob("*/looks.jsonl")
    whole = piece.read_bytes()
    for content in (damage, whole.replace(b'"PNG"', b'"JPEG"')):
        piece.write_bytes(content)
        pd.testing.assert_frame_equal(raw.facts(), before)
        assert f"cannot be used and is computed again: {piece} is damaged" in caplog.text
        caplog.clear()
        assert piece.read_bytes() == whole


def test_a_file_that_changes_while_it_is_read_is_tried_again(raw: Raw) -> None:
    raw.add("a/a_1.png", draw(1))
    with pytest.raises(TryAgainError, match=r"a_1\.png changed while it was being read"):
        raw.facts(digest=lambda _: "the digest of what it was before")
    assert not list(raw.cache.rglob("*.json"))


def test_workers_find_the_same(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        raw.add(f"a/a_{number}.png", draw(number))
    alone = raw.facts()
    raw.cache = raw.cache / "other"
    raw.cache.mkdir()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr("stages.common.workers.pool.WORKER_BYTES", 1)
    pd.testing.assert_frame_equal(raw.facts(), alone)


def brute_force(hashes: np.ndarray, bits: int) -> list[int]:
    single = np.unpackbits(hashes, axis=1)
    return [
        next((j for j in range(i) if np.count_nonzero(single[i] != single[j]) <= bits), -1) for i in range(len(hashes))
    ]


@pytest.mark.parametrize("bits", [0, 1, 4, 9, 64])
@pytest.mark.parametrize("constant", [0, 200])
def test_near_hashes_are_found_as_by_comparing_all(bits: int, constant: int) -> None:
    random = np.random.default_rng(bits)
    centres = random.integers(0, 2, (40, 256))
    centres[:, :constant] = 0  # as of pictures with much white
    single = np.repeat(centres, 8, axis=0)
    for row in single:
        row[random.choice(np.arange(constant, 256), random.integers(0, 2 * bits + 3) % 56, replace=False)] ^= 1
    hashes = np.packbits(random.permutation(single), axis=1)
    assert find_near(hashes, bits)[0].tolist() == brute_force(hashes, bits)
    assert (find_near(hashes, bits)[0] >= 0).any()


def test_no_hashes_and_one() -> None:
    assert [pairs.tolist() for pairs in find_near(np.zeros((0, 32), np.uint8), 4)] == [[], []]
    assert [pairs.tolist() for pairs in find_near(np.zeros((1, 32), np.uint8), 4)] == [[-1], [0]]


def test_groups_follow_the_links() -> None:
    bits = np.zeros((5, 256), np.uint8)
    bits[1, :4] = bits[2, :8] = 1  # b is near a, c near b but not near a
    bits[3:, 100:200] = 1
    hashes = [row.tobytes().hex() for row in np.packbits(bits, axis=1)]
    facts = pd.DataFrame(
        {"pixels": list("vwxyz"), "cropped": list("vwxyy"), "hash": hashes}, pd.Index(list("abcde"), dtype="str")
    )
    found = find_duplicates(facts, pd.DataFrame(index=facts.index), 4)
    assert (found.exact, found.near) == ([["d", "e"]], [["a", "b", "c"]])
    assert found.columns["near_duplicate_of"].dropna().to_dict() == {"b": "a", "c": "b"}
    assert found.group.tolist() == ["a", "a", "a", "d", "d"]


def test_one_picture_brings_two_that_are_not_alike_into_one_group() -> None:
    """It links to the first of them alone; the second must not be taken for one by itself."""
    bits = np.zeros((3, 256), np.uint8)
    bits[1, :8] = bits[2, :4] = 1
    first, group = find_near(np.packbits(bits, axis=1), 4)
    assert (first.tolist(), group.tolist()) == ([-1, -1, 0], [0, 0, 0])
