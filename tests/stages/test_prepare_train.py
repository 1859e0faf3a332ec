"""Stage prepare_train from its command line: shards, split, reuse by lot, bad images, and workers that die."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.images.preprocess import preprocess
from stages.common.images.settings import FaceCrop, Preprocessing
from stages.common.schema.attributes import Attribute, names, write_attributes
from stages.common.schema.dataset import SPLITS, read_index, read_split
from stages.common.schema.face import Face
from stages.prepare_train.params import DataSection
from stages.prepare_train.plots import plot_distribution
from stages.prepare_train.split import assign_split
from stages.prepare_train.stage import STAGE
from stages.prepare_train.statistics import Row, count_classes
from tests.common.photograph import on_canvas
from tests.common.samples import SAMPLE_ATTRIBUTES
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

Labels = tuple[int | str, ...]
ROOT = Path(__file__).parents[2]


def draw(path: Path, number: int, **options: Any) -> None:
    """A picture that no other number has: a frame of one colour, so that nothing is cropped away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 12), (number % 200, number // 200, 99)).save(path, **options)


class Data:
    """A data root in the making: raw images and the artifact of stage validate that describes them."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.validated, self.store = folder / "raw", folder / "validate", folder / "store"
        self.labels: dict[str, Labels] = {}
        self.groups: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.raw.mkdir()
        self.validated.mkdir()

    def add(self, lot: str, images: range, labels: Labels = (0, 1, 0, "", 2)) -> None:
        for number in images:
            draw(self.raw / lot / f"{lot}_{number:05d}.png", number)
            self.labels[f"{lot}_{number:05d}.png"] = labels

    def path(self, name: str) -> Path:
        return self.raw / name.partition("_")[0] / name

    def arguments(self, *overrides: str) -> list[str]:
        table = self.validated / "annotations.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", "lot", "path", "digest", "group", *names(SAMPLE_ATTRIBUTES)])
            for name, labels in sorted(self.labels.items()):
                path = self.path(name)
                digest = self.digests.get(name) or (artifacts.file_digest(path) if path.is_file() else "0" * 64)
                group = self.groups.get(name, name)
                writer.writerow([name, name.partition("_")[0], path.relative_to(self.raw), digest, group, *labels])
        write_attributes(self.validated, SAMPLE_ATTRIBUTES)
        artifacts.write_manifest(self.validated, stage="validate", key=artifacts.file_digest(table))
        items = ("prepare_train.workers=1", "data.image_size=16", *overrides)
        paths = ["--raw", str(self.raw), "--validate", str(self.validated), "--store", str(self.store)]
        return [*paths, *(word for item in items for word in ("--set", item))]

    def run(self, *overrides: str) -> int:
        result = self.store.with_name("result.json")
        return main(STAGE, [*self.arguments(*overrides), "--result", str(result)])

    def result(self, *overrides: str) -> tuple[Path, Mapping[str, Any]]:
        """Run and return artifact and headline."""
        assert self.run(*overrides) == 0
        result = json.loads(self.store.with_name("result.json").read_text())
        return Path(result["path"]), result["headline"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """60 images in two lots. The plot, which takes longer than all the rest, has a test of its own."""
    monkeypatch.setattr("stages.prepare_train.plots.plot_distribution", lambda _, path, *__: path.write_bytes(b""))
    data = Data(tmp_path)
    data.add("a", range(30))
    data.add("b", range(30, 60), (1, "", 1, 4, 0))
    return data


def splits(artifact: Path) -> dict[str, str]:
    with (artifact / "index.csv").open(newline="") as file:
        return {row["filename"]: row["split"] for row in csv.DictReader(file)}


def rejected(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(newline="") as file:
        return {row["filename"]: row["reason"] for row in csv.DictReader(file)}


def test_every_image_lies_in_its_shard_with_its_labels(data: Data) -> None:
    artifact, headline = data.result()
    assert headline["images"] == 60
    seen = 0
    for name in ("train", "val", "test"):
        split = read_split(artifact, name)
        images = split.take()
        assert images.shape == (headline[name], 16, 16, 3)
        for filename, image, labels in zip(split.filenames, images, split.labels, strict=True):
            assert image[4, 4, 0] == int(filename[2:7])
            assert labels.tolist() == ([0, 1, 0, -1, 2] if filename.startswith("a") else [1, -1, 1, 4, 0])
            seen += 1
    assert seen == 60


def test_statistics_count_classes_unknown_labels_and_pixels(data: Data) -> None:
    artifact, headline = data.result()
    stats = json.loads((artifact / "metrics" / "data_stats.json").read_text())
    assert sum(stats["labels"]["scarf"][split]["unknown"] for split in ("train", "val", "test")) == 30
    assert sum(stats["labels"]["coat_color"][split]["green"] for split in ("train", "val", "test")) == 30
    assert stats["lots"]["a"]["train"] + stats["lots"]["b"]["train"] == headline["train"]
    settings = json.loads((artifact / "preprocessing.json").read_text())
    framed = {"image_size": 16, "crop": "content", "centre_share": None, "face": FaceCrop().model_dump(), "grey": False}
    assert settings == {"version": 5, "near_white": 245, "max_megapixels": 50, **framed}
    images = read_split(artifact, "train").take().astype(float)
    assert stats["train_pixels"]["mean"] == pytest.approx(images.mean(axis=(0, 1, 2)), abs=1e-3)
    assert stats["train_pixels"]["std"] == pytest.approx(images.std(axis=(0, 1, 2)), abs=1e-3)


def test_the_plot_copes_with_many_lots_and_empty_classes(tmp_path: Path) -> None:
    row = Row("a_1.png", "a", 0, "train", "", "", (0, 0, 0, -1, 2), "")
    lots = {f"a lot with a long name {number}": {"train": 12_345, "val": 0, "test": 9} for number in range(30)}
    classes = count_classes(SAMPLE_ATTRIBUTES, [row])
    plot_distribution(SAMPLE_ATTRIBUTES, tmp_path / "p.png", classes, lots)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (1650, 900)


def test_the_plot_takes_no_name_for_a_formula(tmp_path: Path) -> None:
    price = Attribute("price", ("under $5", "$^$"), "price", "$$")
    counts = {"price": {split: {"under $5": 1, "$^$": 2, "unknown": 0} for split in SPLITS}}
    plot_distribution((price,), tmp_path / "p.png", counts, {"a$_$": dict.fromkeys(SPLITS, 1)})
    assert (tmp_path / "p.png").exists()


def test_a_new_lot_moves_no_old_image_and_computes_only_itself(data: Data) -> None:
    before, _ = data.result()
    data.add("c", range(60, 90))
    after, headline = data.result()
    assert (headline["lots"], headline["lots_reused"]) == (3, 2)
    assert splits(before).items() < splits(after).items()


def test_what_is_done_ahead_of_some_lots_is_found_and_needs_no_other_lot(data: Data, tmp_path: Path) -> None:
    arguments = data.arguments()
    data.raw.joinpath("b").rename(tmp_path / "elsewhere")
    told = tmp_path / "told.json"
    assert main(STAGE, [*arguments, "--lots", '["a"]', "--result", str(told)]) == 0
    result = json.loads(told.read_text())
    assert result["lots"] == ["a"]
    assert result["headline"] == {"images": 30, "rejected": 0, "lots": 1, "lots_reused": 0}
    assert [path.name for path in data.store.glob("prepare_train/*")] == [".cache"]
    assert main(STAGE, [*arguments, "--lots", '["a"]', "--result", str(told)]) == 0
    assert json.loads(told.read_text())["headline"]["lots_reused"] == 1

    (tmp_path / "elsewhere").rename(data.raw / "b")
    assert data.result()[1]["lots_reused"] == 1


def test_a_check_with_a_store_tells_the_lots_that_are_new_or_changed(data: Data, tmp_path: Path) -> None:
    told = tmp_path / "told.json"

    def new_lots() -> Any:
        assert main(STAGE, [*data.arguments(), "--check", "--result", str(told)]) == 0
        return json.loads(told.read_text())["lots"]

    assert new_lots() == {"a": 30, "b": 30}
    assert main(STAGE, [*data.arguments(), "--lots", '["a"]']) == 0
    assert new_lots() == {"b": 30}
    data.result()
    assert new_lots() == {}
    data.add("c", range(60, 70))
    assert new_lots() == {"c": 10}


@pytest.mark.parametrize(
    ("lots", "problem"),
    [
        ('["a", "z"]', "stage validate accepted no image of z"),
        ("a", "expected a JSON list of lots"),
        ("[]", "expected a JSON list of lots"),
        ("[1]", "expected a JSON list of lots"),
    ],
)
def test_lots_that_are_none_are_refused(data: Data, caplog: pytest.LogCaptureFixture, lots: str, problem: str) -> None:
    assert main(STAGE, [*data.arguments(), "--lots", lots]) == 64
    assert problem in caplog.text


def test_a_changed_image_computes_its_lot_and_a_changed_label_none(data: Data) -> None:
    data.result()
    draw(data.path("a_00003.png"), 777)
    assert data.result()[1]["lots_reused"] == 1
    data.labels["b_00031.png"] = (0, 0, 0, 0, 0)
    assert data.result()[1]["lots_reused"] == 2
    assert data.result("data.image_size=17")[1]["lots_reused"] == 0


def test_the_crop_and_the_colours_are_those_of_the_parameters_and_go_with_the_model(data: Data) -> None:
    for number, name in enumerate(data.labels):  # a square of one colour in the middle of another one
        picture = Image.new("RGB", (32, 32), (0, 0, 90))
        picture.paste((200, 100, number), (8, 8, 24, 24))
        picture.save(data.path(name))
    told = ("data.crop=centre", "data.centre_share=[0.5, 0.5]")
    artifact, _ = data.result(*told)
    images = read_split(artifact, "train").take()
    assert (images[..., :2] == (200, 100)).all()
    settings = json.loads((artifact / "preprocessing.json").read_text())
    assert (settings["crop"], settings["centre_share"], settings["grey"]) == ("centre", [0.5, 0.5], False)

    grey, headline = data.result(*told, "data.grey=true")
    assert headline["lots_reused"] == 0
    images = read_split(grey, "train").take()
    assert (images == images[..., :1]).all()
    assert splits(grey) == splits(artifact)


def test_faces_are_cut_out_and_their_boxes_stand_in_the_index(data: Data) -> None:
    data.labels = dict(list(data.labels.items())[:30])
    for number, name in enumerate(data.labels):
        on_canvas((2 * number, number, 200), size=(300, 280)).save(data.path(name))
    on_canvas(size=(300, 280)).save(data.path("a_00007.png"))
    on_canvas((0, 0, 150), (150, 20, 150), size=(300, 280)).save(data.path("a_00009.png"))
    artifact, headline = data.result("data.crop=face")
    assert (headline["images"], headline["rejected"]) == (29, 1)
    assert rejected(artifact)["a_00007.png"].startswith("no face found (")
    rows = {row["filename"]: row for row in read_index(artifact)}
    left, top = (
        int(rows["a_00020.png"][f"face_{side}"]) - int(rows["a_00000.png"][f"face_{side}"]) for side in ("left", "top")
    )
    assert (left, top) == pytest.approx((40, 20), abs=6)
    assert rows["a_00020.png"]["faces"] == "1"
    assert rows["a_00009.png"]["faces"] == "2"
    statistics = json.loads((artifact / "metrics" / "data_stats.json").read_text())
    assert statistics["faces"] == {"1": 28, "2": 1}
    assert "Faces found in a picture" in (artifact / "report.html").read_text()
    told = json.loads((artifact / "preprocessing.json").read_text())
    images = read_split(artifact, "train")
    for name, image in zip(images.filenames, images.take(), strict=True):
        assert (preprocess(data.path(name), Preprocessing.model_validate(told)) == image).all()

    whole, headline = data.result("data.crop=face", "data.face={none: whole, several: reject}")
    assert (headline["images"], headline["rejected"]) == (29, 1)
    assert rejected(whole)["a_00009.png"].startswith("several faces: 2 (")
    row = next(row for row in read_index(whole) if row["filename"] == "a_00007.png")
    assert [row[name] for name in Face._fields] == ["0", "0", "0", "300", "280"]


def test_a_damaged_cached_shard_is_made_again(data: Data) -> None:
    artifact, _ = data.result()
    shard = next((data.store / "prepare_train" / ".cache").glob("*/images.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert data.result("data.seed=1")[1]["lots_reused"] == 1
    with pytest.raises(Exception, match="damaged"):  # the old artifact shares the damaged file and says so
        artifacts.read_manifest(artifact)


def test_the_same_picture_never_crosses_the_split(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(30):  # lot c repeats lot a in another encoding, with other labels for one of them
        draw(data.path(f"c_{number:05d}.png"), number, compress_level=0, pnginfo=None)
        data.labels[f"c_{number:05d}.png"] = data.labels["a_00000.png"]
    data.labels["c_00007.png"] = (1, 1, 0, "", 2)
    artifact, _ = data.result()
    found = splits(artifact)
    assert all(found[f"a_{number:05d}.png"] == found[f"c_{number:05d}.png"] for number in range(30))
    duplicates = json.loads((artifact / "metrics" / "data_stats.json").read_text())["duplicates"]
    assert (duplicates["pictures"], duplicates["images"], duplicates["contradicting_labels"]) == (30, 60, 1)
    assert duplicates["listed"][0] == ["a_00007.png", "c_00007.png"]
    assert len(set(map(tuple, duplicates["listed"]))) == 20
    assert "contradict" in caplog.text


def test_the_split_follows_its_fractions() -> None:
    section = DataSection(image_size=16, train_split=0.7, val_split=0.2, test_split=0.1, seed=1, split="digest")
    parts = [assign_split(f"{number:032x}", section) for number in range(5000)]
    shares = [parts.count(split) / 5000 for split in ("train", "val", "test")]
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.02)


def test_unusable_images_are_listed_with_their_reason(data: Data) -> None:
    whole = data.path("a_00000.png").read_bytes()
    data.path("a_00000.png").write_bytes(whole[:-30])
    data.path("a_00001.png").write_bytes(b"")
    data.path("a_00002.png").write_bytes(b"GIF89a")
    data.path("b_00030.png").unlink()
    data.path("b_00031.png").unlink()
    os.mkfifo(data.path("b_00031.png"))
    artifact, headline = data.result("prepare_train.max_rejected_fraction=0.1")
    assert (headline["images"], headline["rejected"]) == (55, 5)
    reasons = rejected(artifact)
    assert reasons["a_00001.png"] == "empty file (copy it again)"
    assert reasons["a_00002.png"] == "GIF image (convert it to PNG or JPEG)"
    assert reasons["b_00030.png"] == "cannot be read: No such file or directory"
    assert reasons["b_00031.png"] == "not a regular file"
    assert "damaged" in reasons["a_00000.png"]
    assert not reasons.keys() & splits(artifact).keys()
    train = read_split(artifact, "train")
    assert all(image[4, 4, 0] == int(name[2:7]) for name, image in zip(train.filenames, train.take(), strict=True))


def test_a_file_that_is_another_since_it_was_validated_is_rejected(data: Data) -> None:
    old = artifacts.file_digest(data.path("a_00003.png"))
    draw(data.path("a_00003.png"), 777)
    data.digests["a_00003.png"] = old
    artifact, headline = data.result()
    assert (headline["images"], headline["rejected"]) == (59, 1)
    assert rejected(artifact) == {"a_00003.png": "changed since it was validated: run stage validate again"}
    assert "changed since it was validated" in (artifact / "report.html").read_text()
    assert json.loads((artifact / "metrics" / "data_stats.json").read_text())["lots"]["a"]["rejected"] == 1


def test_a_lot_of_which_every_file_is_another_is_told(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.digests = {name: "0" * 64 for name in data.labels if name.startswith("a")}
    assert data.run() == 65
    assert "30 of 60 images cannot be used" in caplog.text
    assert "the first is a_00000.png: changed since it was validated" in caplog.text
    artifact, headline = data.result("prepare_train.max_rejected_fraction=0.5")
    assert (headline["images"], headline["lots"]) == (30, 2)
    assert not (artifact / "shards" / "a.npy").exists()


def test_validation_and_test_hold_nothing_that_is_nearly_a_training_image(data: Data) -> None:
    before = splits(data.result()[0])
    names = {part: [name for name, split in before.items() if split == part] for part in ("train", "val", "test")}
    data.groups = {names["train"][0]: "x", names["val"][0]: "x", names["test"][0]: "x", names["train"][1]: "x"}
    data.groups |= {names["val"][1]: "y", names["test"][1]: "y"}
    artifact, headline = data.result()
    gone = {names["val"][0], names["test"][0], names["val"][1]}
    assert splits(artifact) == {name: split for name, split in before.items() if name not in gone}
    assert (headline["left_out"], headline["images"], headline["rejected"]) == (3, 57, 0)
    with (artifact / "left_out.csv").open(newline="") as file:
        reasons = {row["filename"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons == {
        names["val"][0]: f"val image, nearly the same picture as {names['train'][0]} of train",
        names["test"][0]: f"test image, nearly the same picture as {names['train'][0]} of train",
        names["val"][1]: f"val image, nearly the same picture as {names['test'][1]} of test",
    }
    assert reasons[names["val"][1]] in (artifact / "report.html").read_text()
    for part in names:  # rows of the shard that are left out shift nothing
        split = read_split(artifact, part)
        assert [image[4, 4, 0] for image in split.take()] == [int(name[2:7]) for name in split.filenames]
    stats = json.loads((artifact / "metrics" / "data_stats.json").read_text())
    images = read_split(artifact, "train").take().astype(float)
    assert stats["train_pixels"]["mean"] == pytest.approx(images.mean(axis=(0, 1, 2)), abs=1e-3)
    assert sum(lot["left_out"] for lot in stats["lots"].values()) == 3


def test_rows_move_up_where_images_are_left_out(data: Data) -> None:
    """More images than a worker does at once, so that the gap lies in the midst of the shard."""
    data.add("c", range(60, 200))
    for number in (60, 61, 130):
        data.path(f"c_{number:05d}.png").write_bytes(b"")
    artifact, headline = data.result()
    assert (headline["images"], headline["rejected"]) == (197, 3)
    assert np.load(artifact / "shards" / "c.npy").shape == (137, 16, 16, 3)
    for name in ("train", "val", "test"):
        split = read_split(artifact, name)
        assert [image[4, 4, 0] for image in split.take()] == [int(name[2:7]) for name in split.filenames]


def test_too_many_unusable_images_fail_the_stage(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        data.path(f"a_{number:05d}.png").write_bytes(b"")
    assert data.run() == 65
    assert "4 of 60 images cannot be used" in caplog.text
    assert "a_00000.png: empty file" in caplog.text
    kept = next((data.store / "prepare_train").glob("failed-*"))
    assert len(rejected(kept)) == 4
    assert "empty file" in (kept / "report.html").read_text()
    assert not list((data.store / "prepare_train").glob("*/manifest.json"))
    for number in range(4):
        draw(data.path(f"a_{number:05d}.png"), number)
    assert data.run() == 0


def test_what_is_unusual_is_told_but_does_not_end_the_stage(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.add("c", range(60, 62))
    noise = np.random.default_rng(0).integers(0, 245, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data.path("c_00060.png"))
    artifact, headline = data.result("data.train_split=0.5", "data.val_split=0.4")
    assert (
        "image nearly of one colour (61 of 62 images, the first a_00000.png, a_00001.png, a_00002.png)" in caplog.text
    )
    assert "images of less or more contrast than usual (found 0." in caplog.text
    assert "a class of bow is missing" not in caplog.text
    assert "a class of coat_color is missing in the train split (found no 0, 1, 2, 3" in caplog.text
    findings = (artifact / "findings.csv").read_text()
    assert "image nearly of one colour,c_00061.png,std,0.0" in findings
    assert "c_00060.png" not in findings
    page = (artifact / "report.html").read_text()
    assert page.count("data:image/jpeg") == 12 + 3
    for split in ("train", "val", "test"):
        assert f"{split}: {min(36, headline[split])} of {headline[split]}" in page
    assert "16 x 16 pixels in colour, crop content" in page
    assert "image nearly of one colour" in page


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("data.test_split=0", 64, "data.test_split"),
        ("data.val_split=0", 64, "data.val_split"),
        ("data.train_split=0", 64, "data.train_split"),
        ("data.train_split=0.7", 64, "train_split + val_split + test_split must be 1, not 0.9"),
        ("data.image_size=0", 64, "data.image_size"),
        ("data.image_size=225", 64, "data.image_size"),
        ("data.crop=middle", 64, "data.crop"),
        ("data.crop=centre", 64, "crop centre needs centre_share"),
        ("data.centre_share=[0.5, 0.5]", 64, "centre_share is of crop centre alone"),
        ("data.face={none: largest}", 64, "data.face.none"),
        ("data.face={margin: 3}", 64, "data.face.margin"),
        ("prepare_train.workers=-1", 64, "prepare_train.workers"),
    ],
)
def test_bad_parameters_are_refused(
    data: Data, override: str, code: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert data.run(override) == code
    assert words in caplog.text
    caplog.clear()
    assert main(STAGE, [*data.arguments(override), "--check"]) == code
    assert words in caplog.text


def test_an_empty_split_is_refused_before_anything_is_trained(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    overrides = ("data.train_split=0.5", "data.val_split=0.000001", "data.test_split=0.499999")
    assert data.run(*overrides) == 65
    assert "the val split is empty (found 0, expected at least 1): give more images, or change data.seed" in caplog.text
    kept = next((data.store / "prepare_train").glob("failed-*"))
    assert (kept / "data_docs" / "prepared" / "index.html").is_file()
    assert "the val split is empty" in (kept / "findings.csv").read_text()
    assert "give more images, or change data.seed" in (kept / "report.html").read_text()


def test_a_path_out_of_the_raw_folder_is_refused(
    data: Data, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Data, "path", lambda self, _name: self.raw / "../x.png")
    assert data.run() == 65
    assert "leads out of the raw folder" in caplog.text


@pytest.fixture
def slow(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The stage with two workers in the midst of some seconds of work."""
    data = Data(tmp_path)
    picture = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture, compress_level=1)
    (data.raw / "a").mkdir()
    for number in range(300):
        os.link(picture, data.path(f"a_{number:05d}.png"))
        data.labels[f"a_{number:05d}.png"] = (0, 0, 0, 0, 0)
    arguments = data.arguments("prepare_train.workers=2", "data.image_size=64")
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.prepare_train", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip

    def works() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return any(file.stat().st_size > 10_000 for file in data.store.rglob(".partial-*/images.npy"))

    try:
        wait_until(works, "its work")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def children(process: "subprocess.Popen[str]") -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(group: int) -> list[str]:
    """Processes of a group; a zombie is dead, and whoever is process 1 here may take its time to bury it."""
    stats = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stats.append(file.read_text().rpartition(")")[2].split())
    return [stat[0] for stat in stats if int(stat[2]) == group and stat[0] != "Z"]


def wait_until_group_is_gone(process: "subprocess.Popen[str]") -> None:
    wait_until(lambda: not alive(process.pid), "the end of its processes")


def test_sigterm_ends_all_processes_and_leaves_no_artifact(slow: "subprocess.Popen[str]", tmp_path: Path) -> None:
    slow.send_signal(signal.SIGTERM)
    _, log = slow.communicate(timeout=PATIENCE_S)
    assert slow.returncode == 143, log
    assert "Traceback" not in log
    wait_until_group_is_gone(slow)
    home = tmp_path / "store" / "prepare_train"
    assert not list(home.glob("*/manifest.json"))
    assert not list(home.rglob(".partial-*"))


def test_a_worker_killed_for_memory_is_one_clear_error(slow: "subprocess.Popen[str]", tmp_path: Path) -> None:
    workers = [pid for pid in children(slow) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    _, log = slow.communicate(timeout=PATIENCE_S)
    assert slow.returncode == 69
    assert "memory ran out: give the stage more memory or lower prepare_train.workers" in log
    assert "Traceback" not in log
    wait_until_group_is_gone(slow)


def test_workers_do_not_outlive_a_killed_stage(slow: "subprocess.Popen[str]", tmp_path: Path) -> None:
    slow.kill()
    slow.communicate()
    wait_until_group_is_gone(slow)
