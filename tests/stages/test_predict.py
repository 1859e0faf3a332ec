"""Stage predict on a hand-made model: what is answered again, and what becomes of files that are no images."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.images.preprocess import content_of, preprocess
from stages.common.images.settings import Preprocessing
from stages.common.inference.answers import answers_of
from stages.common.inference.expected import write_trust
from stages.common.inference.features import Features, load_features
from stages.common.inference.to_label import TO_LABEL
from stages.common.registry.seen import SEEN, picture_of
from stages.common.schema.attributes import write_attributes
from stages.common.schema.face import Face
from stages.predict.counts import add_counts, count_answers, least_sure
from stages.predict.images import LOT_BYTES, find_images
from stages.predict.stage import STAGE
from tests.common.onnx_models import METADATA, PREPROCESSING, SIDE, metadata_of, save_model, slow_down, squander
from tests.common.photograph import photograph
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES
from tests.processes import stop_when
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Answer = tuple[int, int, int, int, int]


def draw(path: Path, answer: Answer) -> None:
    """A picture that the model reads this answer off; another one for every name, so that no two files are equal."""
    pixels = np.full((SIDE, SIDE, 3), 77, np.uint8)
    pixels[0, : len(SAMPLE_NAMES), 0] = answer
    pixels[1, :, 2] = list(artifacts.json_digest(path.name)[:SIDE].encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_reference(folder: Path, never: Collection[str] = ()) -> None:
    """Write the reference of a version: 50 images, of which it answered 40 right with .8."""
    folder.mkdir()
    random = np.random.default_rng(0)
    labels = np.zeros((50, len(SAMPLE_ATTRIBUTES)), np.int16)
    labels[:10] = 1
    rest = {attribute.name: 0.2 / (len(attribute.classes) - 1) for attribute in SAMPLE_ATTRIBUTES}
    said = {
        attribute.name: np.full((50, len(attribute.classes)), rest[attribute.name], np.float32)
        for attribute in SAMPLE_ATTRIBUTES
    }
    for name, values in said.items():
        values[:, 0] = 0.8
        if name in never:
            values[:] = np.nan
    answers = answers_of(SAMPLE_ATTRIBUTES, said, labels=labels)
    write_trust(folder, answers)
    embeddings = random.integers(0, 4, (50, SIDE)).astype(np.float32)
    none = np.empty((0, SIDE, SIDE, 3), np.uint8)
    Features([f"r_{number}.png" for number in range(50)], {}, embeddings, said, none, []).save(folder / "features.npz")
    np.save(folder / SEEN, np.empty(0, np.uint64))


class Data:
    """A raw folder in the making, and the artifact of stage champion."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.champion, self.store = folder / "raw", folder / "champion", folder / "store"
        self.told = folder / "result.json"

    def add(self, lot: str, count: int, answer: Answer = (1, 0, 1, 3, 2)) -> None:
        for number in range(count):
            draw(self.raw / lot / f"{lot}_{number}.png", answer)

    def release(
        self,
        version: str | None = "v3",
        model: str = "a",
        spoil: Callable[[Path], object] = lambda path: path,
        **changes: Any,
    ) -> None:
        """Write what stage champion would, and let `spoil` change the model."""
        shutil.rmtree(self.champion, ignore_errors=True)
        self.champion.mkdir()
        told: dict[str, Any] = {"version": version}
        if version:
            spoil(save_model(self.champion / "model.onnx", **changes))
            told |= {"model_digest": model * 64, "mean_accuracy": 0.9, "lots": ["a"]}
            write_attributes(self.champion, SAMPLE_ATTRIBUTES)
            write_reference(self.champion / "reference", changes.get("never", ()))
        artifacts.write_json(self.champion / "champion.json", told)
        self.finish()

    def finish(self) -> None:
        """Write the manifest of the champion as it is now."""
        (self.champion / artifacts.MANIFEST).unlink(missing_ok=True)
        key = artifacts.json_digest(artifacts.list_files(self.champion))
        artifacts.write_manifest(self.champion, stage="champion", key=key)

    def run(self, *overrides: str, lots: str = "") -> int:
        arguments = ["--raw", str(self.raw), "--champion", str(self.champion), "--store", str(self.store)]
        arguments += ["--result", str(self.told), *(("--lots", lots) if lots else ())]
        items = ("predict.workers=1", "predict.batch_size=4", *overrides)
        return main(STAGE, [*arguments, *(word for item in items for word in ("--set", item))])

    def result(self, *overrides: str, lots: str = "") -> tuple[Path, Mapping[str, Any]]:
        """Run and return artifact and headline."""
        assert self.run(*overrides, lots=lots) == 0
        result = json.loads(self.told.read_text())
        return Path(result.get("path", ".")), result["headline"]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Two lots, of 10 and 5 images, and a version v3."""
    data = Data(tmp_path)
    data.add("a", 10)
    data.add("b", 5, (0, 1, 0, 0, 1))
    data.release()
    return data


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def predictions(artifact: Path, lot: str) -> dict[str, dict[str, str]]:
    return {row["filename"]: row for row in rows(artifact / "outputs" / f"predictions_{lot}.csv")}


def test_a_name_with_a_carriage_return_stays_one_row(data: Data) -> None:
    draw(data.raw / "a" / "a_\r1.png", (1, 0, 1, 3, 2))
    (data.raw / "a" / "a_\r2.png").write_bytes(b"x")
    artifact, headline = data.result()
    assert (headline["images"], headline["undecodable"]) == (16, 1)
    assert "a_\r1.png" in predictions(artifact, "a")
    assert [row["filename"] for row in rows(artifact / "undecodable.csv")] == ["a_\r2.png"]


def test_what_is_left_out_is_listed_also_if_nothing_else_changes(data: Data) -> None:
    assert rows(data.result()[0] / "ignored.csv") == []
    (data.raw / "a" / "a_1.gif").write_bytes(b"GIF89a")
    artifact, headline = data.result()
    assert [row["path"] for row in rows(artifact / "ignored.csv")] == ["a/a_1.gif"]
    assert headline["lots_reused"] == 2


def test_every_image_is_answered_and_every_row_names_the_version(data: Data) -> None:
    artifact, found = data.result()
    headline = dict(found)
    assert (headline.pop("expected_accuracy"), headline.pop("to_label")) == (0.8, 2)
    assert headline.pop("findings").endswith("_answered no for many images")
    assert headline == {"version": "v3", "images": 15, "lots": 2, "lots_reused": 0, "undecodable": 0}
    found = predictions(artifact, "a") | predictions(artifact, "b")
    assert len(found) == 15
    for filename, row in found.items():
        answer = (1, 0, 1, 3, 2) if filename.startswith("a") else (0, 1, 0, 0, 1)
        assert row["model_version"] == "v3"
        assert not set(SAMPLE_NAMES) & row.keys()
        for attribute, expected in zip(SAMPLE_ATTRIBUTES, answer, strict=True):
            assert row[f"{attribute.name}_predicted"] == attribute.classes[expected]
            assert row[f"{attribute.name}_confidence"] == "0.8000"
            assert row[f"{attribute.name}_answered"] == ("no" if attribute.name == "bag" else "yes")

    metrics = json.loads((artifact / "metrics" / "predictions.json").read_text())
    assert metrics["images_per_s"] > 0
    assert metrics["lots"]["b"]["classes"]["coat_length"] == {"cropped": 0, "short": 5, "long": 0, "abstained": 0}
    assert metrics["classes"]["bag"] == {"no": 0, "yes": 0, "abstained": 15}
    features = load_features(artifact / "features" / "b.npz")
    assert list(features.filenames) == list(features.example_names) == [f"b_{number}.png" for number in range(5)]
    assert features.embeddings[:, :5].tolist() == [[0, 1, 0, 0, 1]] * 5
    assert features.probabilities["bow"].argmax(1).tolist() == [0] * 5
    settings = Preprocessing.model_validate(PREPROCESSING)
    digests = [content_of((data.raw / "b" / name).read_bytes(), settings).pixels for name in features.filenames]
    assert features.pictures.tolist() == [picture_of(digest) for digest in digests]
    assert len(set(features.pictures.tolist())) == 5
    assert (artifact / "data_docs" / "predictions" / "index.html").is_file()
    page = (artifact / "report.html").read_text()
    assert page.count("data:image/jpeg") == 15 + 2  # the least sure, and those to label
    assert "15 images predicted by v3" in page


def test_of_images_that_are_new_labels_are_asked_for_and_accuracy_is_expected(data: Data) -> None:
    artifact, _ = data.result()
    known = load_features(artifact / "features" / "a.npz").pictures
    np.save(data.champion / "reference" / SEEN, np.sort(known))
    data.add("c", 3, (1, 1, 1, 1, 1))
    shutil.copytree(data.raw / "c", data.raw / "d" / "c_other")  # the same pictures, under names of the same lot
    data.finish()
    artifact, headline = data.result()
    asked = rows(artifact / TO_LABEL)
    assert sorted(row["lot"] for row in asked) == ["b", "c"]  # nearly the same picture is asked for once, a is known
    assert headline["to_label"] == 2
    for row in asked:
        assert (data.raw / row["filename"]).is_file()
        assert row["worth_labelling"]
        for attribute in SAMPLE_ATTRIBUTES:
            assert row[attribute.column] == ""
            assert row[f"{attribute.name}_predicted"] in attribute.classes
            assert row[f"{attribute.name}_confidence"] == "0.8000"
    metrics = json.loads((artifact / "metrics" / "predictions.json").read_text())
    assert [metrics["lots"][lot]["new"] for lot in "abc"] == [0, 5, 6]
    assert metrics["lots"]["a"]["expected"] is None
    mean = metrics["expected"]["mean"]
    assert mean["low"] < mean["value"] < mean["high"]
    assert mean["value"] == pytest.approx(0.8)
    page = (artifact / "report.html").read_text()
    assert "Worth labelling" in page
    assert "Expected accuracy" in page


def test_images_are_cropped_as_the_model_says(data: Data) -> None:
    framed = PREPROCESSING | {"crop": "centre", "centre_share": [0.5, 0.5]}
    data.release(metadata=METADATA | {"preprocessing": framed})
    for path in data.raw.rglob("*.png"):
        picture = Image.new("RGB", (2 * SIDE, 2 * SIDE))
        picture.paste(Image.open(path), (SIDE // 2, SIDE // 2))
        picture.save(path)
    artifact, _ = data.result()
    for row in predictions(artifact, "a").values():
        said = [row[f"{attribute.name}_predicted"] for attribute in SAMPLE_ATTRIBUTES]
        assert said == [attribute.classes[at] for attribute, at in zip(SAMPLE_ATTRIBUTES, (1, 0, 1, 3, 2), strict=True)]


def test_the_face_is_cut_out_as_in_training_and_its_box_stands_beside_the_answers(data: Data) -> None:
    told = PREPROCESSING | {"crop": "face", "face": {"margin": 1.0}}
    data.release(metadata=METADATA | {"preprocessing": told})
    shutil.rmtree(data.raw)
    (data.raw / "a").mkdir(parents=True)
    picture = Image.new("RGB", (900, 900))  # black above the face, which the model takes for the first class
    picture.save(data.raw / "a" / "a_1.png")
    picture.paste(photograph().resize((200, 234)), (350, 330))
    picture.save(data.raw / "a" / "a_0.png")
    artifact, headline = data.result()
    assert (headline["images"], headline["undecodable"]) == (1, 1)
    assert rows(artifact / "undecodable.csv")[0]["reason"].startswith("no face found (")
    (row,) = predictions(artifact, "a").values()
    settings = Preprocessing.model_validate(told)
    content = content_of((data.raw / "a" / "a_0.png").read_bytes(), settings)
    assert content.face is not None
    assert [int(row[name]) for name in Face._fields] == list(content.face)
    features = load_features(artifact / "features" / "a.npz")
    assert (features.examples[0] == preprocess(data.raw / "a" / "a_0.png", settings)).all()


def test_an_attribute_that_is_never_answered_has_empty_cells_and_is_named(
    data: Data, caplog: pytest.LogCaptureFixture
) -> None:
    data.release(never=["coat_length"])
    artifact, headline = data.result()
    assert headline["never_answered"] == "coat_length"
    for row in (predictions(artifact, "a") | predictions(artifact, "b")).values():
        cells = [row[f"coat_length_{part}"] for part in ("predicted", "confidence", "answered")]
        assert cells == ["", "", "no"]
        assert row["bow_predicted"]
    line = "coat_length is never answered: training has no label of it"
    assert line in caplog.text
    page = (artifact / "report.html").read_text()
    assert line in page
    assert "Coat length" not in page, "the figures of an attribute without an answer read as if the model were unsure"
    assert not [row for row in rows(artifact / "findings.csv") if row["column"].startswith("coat_length")]


def test_a_lot_is_answered_once_by_a_model_whatever_becomes_of_others(data: Data) -> None:
    first, _ = data.result()
    data.add("c", 3)
    second, headline = data.result()
    assert headline["lots_reused"] == 2
    table = "outputs/predictions_a.csv"
    assert (first / table).samefile(second / table)  # not written anew
    draw(data.raw / "a" / "a_3.png", (0, 0, 0, 0, 0))
    artifact, headline = data.result()
    assert headline["lots_reused"] == 2
    assert predictions(artifact, "a")["a_3.png"]["coat_length_predicted"] == "cropped"
    (data.raw / "c" / "c_0.png").unlink()
    assert data.result()[1]["lots_reused"] == 2

    data.release("v4", "b", confidence=0.9)
    artifact, headline = data.result()
    assert (headline["version"], headline["lots_reused"]) == ("v4", 0)
    assert predictions(artifact, "b")["b_0.png"]["bag_confidence"] == "0.9000"
    data.release("v3", "a")  # a rollback
    data.add("d", 2)
    artifact, headline = data.result()
    assert (headline["version"], headline["lots_reused"]) == ("v3", 3)
    assert {row["model_version"] for row in rows(artifact / "outputs" / "predictions_b.csv")} == {"v3"}
    data.release("v5", "a")  # the same model, archived again
    artifact, headline = data.result()
    assert headline["lots_reused"] == 4
    assert {row["model_version"] for row in rows(artifact / "outputs" / "predictions_b.csv")} == {"v5"}
    assert data.result("predict.low_confidence=0.5")[1]["lots_reused"] == 4


def test_what_is_done_ahead_of_some_lots_is_found_and_needs_no_other_lot(data: Data, tmp_path: Path) -> None:
    data.raw.joinpath("b").rename(tmp_path / "elsewhere")
    assert data.result(lots='["a"]')[1] == {"version": "v3", "images": 10, "lots": 1, "lots_reused": 0}
    assert [path.name for path in data.store.glob("predict/*")] == [".cache"]
    (tmp_path / "elsewhere").rename(data.raw / "b")
    assert data.result()[1]["lots_reused"] == 1
    assert data.run(lots='["z"]') == 64


def test_selected_lots_alone_are_predicted(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    artifact, headline = data.result("predict.lots=[b]")
    assert (headline["images"], headline["lots"]) == (5, 1)
    assert [path.name for path in (artifact / "outputs").iterdir()] == ["predictions_b.csv"]
    assert data.run("predict.lots=[b, x]") == 64
    assert "predict.lots: no images of lot x; lots that exist: a, b" in caplog.text


def test_files_that_are_no_usable_images_are_listed_with_the_reason(data: Data) -> None:
    a = data.raw / "a"
    (a / "a_1.png").write_bytes((a / "a_1.png").read_bytes()[:-30])
    (a / "a_2.png").write_bytes(b"")
    (a / "a_3.png").write_bytes(b"GIF89a")
    (a / "a_4.png").unlink()
    os.mkfifo(a / "a_4.png")
    (a / "a_5.png").unlink()
    (a / "a_5.png").symlink_to(a / "a_6.png")
    (a / ".a_7.png").write_bytes(b"")
    (a / "notes.txt").write_text("hello")
    long = "a_" + "x" * 249 + ".png"
    draw(a / long, (1, 1, 1, 1, 1))
    Image.new("RGB", (SIDE, SIDE)).save(a / "a_jpeg.JPG")
    too_long = "l" * (LOT_BYTES + 1)
    draw(a / f"{too_long}_1.png", (0, 0, 0, 0, 0))
    draw(data.raw / "b" / "a_8.png", (0, 0, 0, 0, 0))
    (data.raw / "c").mkdir()
    (data.raw / "c" / "c_1.png").write_bytes(b"x")
    artifact, headline = data.result()

    reasons = {(row["filename"], row["lot"]): row["reason"] for row in rows(artifact / "undecodable.csv")}
    assert "damaged" in reasons.pop(("a_1.png", "a"))
    assert reasons == {
        ("a_2.png", "a"): "empty file (copy it again)",
        ("a_3.png", "a"): "GIF image (convert it to PNG or JPEG)",
        ("a_4.png", "a"): "not a regular file",
        ("a_5.png", "a"): "link",
        (f"{too_long}_1.png", too_long): f"the lot's name, which names files, is longer than {LOT_BYTES} bytes",
        ("c_1.png", "c"): "not a PNG or JPEG image",
    }
    ignored = {row["path"]: row["reason"] for row in rows(artifact / "ignored.csv")}
    assert ignored == {"a/.a_7.png": "hidden", "a/notes.txt": "not a .png or .jpg name"}
    assert (headline["images"], headline["lots"], headline["undecodable"]) == (13, 3, 7)
    names = {*(f"a_{n}.png" for n in (0, 6, 7, 9)), "a/a_8.png", "b/a_8.png", long, "a_jpeg.JPG"}
    assert predictions(artifact, "a").keys() == names
    assert len(load_features(artifact / "features" / "a.npz")) == 8
    assert predictions(artifact, "c") == {}
    assert not (artifact / "features" / "c.npz").exists()
    metrics = json.loads((artifact / "metrics" / "predictions.json").read_text())
    assert (metrics["undecodable"], metrics["ignored"]) == (7, 2)
    assert metrics["lots"]["a"]["images"] == 8
    assert "7 undecodable" in (artifact / "report.html").read_text()
    draw(a / "a_2.png", (0, 0, 0, 0, 0))  # mended: its lot alone is answered again
    assert data.result()[1]["lots_reused"] == 2


def test_the_same_name_in_two_folders_is_two_images(data: Data) -> None:
    for place, answer in (("anna", (0, 0, 0, 0, 0)), ("ben", (1, 1, 1, 4, 2))):
        draw(data.raw / place / "0000.png", answer)
        draw(data.raw / place / "2026" / "0000.png", answer)
    artifact, headline = data.result()
    assert (headline["images"], headline["undecodable"]) == (19, 0)
    for lot, length in (("anna", "cropped"), ("ben", "long")):
        assert predictions(artifact, lot)["0000.png"]["coat_length_predicted"] == length
    within = predictions(artifact, "2026")  # one lot, for it goes by the innermost folder
    assert {name: row["coat_length_predicted"] for name, row in within.items()} == {
        "anna/2026/0000.png": "cropped",
        "ben/2026/0000.png": "long",
    }


def test_what_is_told_to_be_predicted_is_what_was_predicted(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(data.raw / "a")
    (data.raw / "b" / "b_5.png").write_bytes((data.raw / "b" / "b_4.png").read_bytes()[:-30])
    caplog.set_level("INFO")
    assert data.result(lots='["b"]')[1]["images"] == 5
    assert "5 images (and 1 undecodable) predicted by v3" in caplog.text
    assert "lot b: computed, 5 images (and 1 undecodable)" in caplog.text
    assert data.result()[1]["images"] == 5
    assert "lot b: reused, 5 images (and 1 undecodable)" in caplog.text
    assert "6 images" not in caplog.text


def test_no_model_lifts_the_limit_of_the_largest_picture(data: Data) -> None:
    data.release(metadata=METADATA | {"preprocessing": PREPROCESSING | {"max_megapixels": 1e9}})
    Image.new("1", (8000, 8000)).save(data.raw / "b" / "b_large.png")
    artifact, headline = data.result()
    assert (headline["images"], headline["undecodable"]) == (15, 1)
    assert (
        rows(artifact / "undecodable.csv")[0]["reason"] == "too large: 8000 x 8000 pixels are more than 50 megapixels"
    )
    data.release(metadata=METADATA | {"preprocessing": PREPROCESSING | {"max_megapixels": 1e9}})
    assert data.result("images.max_megapixels=100")[1]["images"] == 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"spoil": squander}, "model.onnx cannot be run on 4 images"), ({"batch": 1}, "model.onnx does not fit: input")],
)
def test_a_model_that_cannot_answer_is_bad_data(
    data: Data, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], words: str
) -> None:
    data.release(**changes)
    assert data.run() == 65
    assert words in caplog.text
    assert "Traceback" not in caplog.text


def test_a_model_that_computes_for_minutes_is_stopped_amid_that(data: Data) -> None:
    data.release(spoil=slow_down)
    command = [sys.executable, "-m", "stages.predict", "--raw", data.raw, "--champion", data.champion]
    command += ["--store", data.store, "--set", "predict.workers=1"]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    status = Path("/proc", str(process.pid), "statm")
    # a matrix of 16 MB for each of 30 answers tells that it computes
    wait_until(lambda: int(status.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") > 600e6, "that it computes")
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == 143
    assert b"stopped by SIGTERM in the middle of a computation" in told


def test_a_lot_that_is_removed_while_files_are_looked_at_is_tried_again(data: Data) -> None:
    large = data.raw / "a" / "a_0.png"
    with large.open("wb") as file:
        file.truncate(1 << 30)  # a second of digesting, and no space
    command = [sys.executable, "-m", "stages.predict", "--raw", data.raw, "--champion", data.champion]
    command += ["--store", data.store]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    stop_when(process, lambda: has_open(process.pid, large), "that it reads the large file")
    shutil.rmtree(data.raw / "b")
    process.send_signal(signal.SIGCONT)
    _, told = process.communicate()
    assert process.returncode == 75
    assert b"b_0.png changed while it was being read" in told
    assert b"Traceback" not in told


def has_open(process: int, file: Path) -> bool:
    with contextlib.suppress(OSError):  # one was closed meanwhile
        return any(link.readlink() == file for link in Path("/proc", str(process), "fd").iterdir())
    return False


def test_a_raw_folder_without_a_usable_image_fails(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(data.raw)
    (data.raw / "a").mkdir(parents=True)
    assert data.run() == 65
    assert "holds no .png or .jpg images" in caplog.text
    (data.raw / "a" / "a_1.png").write_bytes(b"")
    assert data.run() == 65
    assert "none of the 1 images can be used; the first is a_1.png: empty file" in caplog.text
    kept = next((data.store / "predict").glob("failed-*"))
    assert len(rows(kept / "undecodable.csv")) == 1
    assert "empty file" in (kept / "report.html").read_text()


def test_before_any_release_nothing_is_done_and_nothing_fails(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.release(None)
    artifact, headline = data.result()
    assert headline == {"version": "none", "images": 0, "lots": 0, "lots_reused": 0, "undecodable": 0}
    assert "no version is released yet" in caplog.text
    result = json.loads(data.told.read_text())
    assert all(Path(path).exists() for path in result["outputs"].values())
    assert list((artifact / "outputs").iterdir()) == []
    assert "No version is released yet" in (artifact / "report.html").read_text()
    assert data.result(lots='["a"]')[1]["version"] == "none"


def test_a_model_with_other_classes_than_it_says_is_refused(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    bagged = replace(SAMPLE_ATTRIBUTES[0], classes=("no", "yes", "rucksack"))
    data.release(metadata=metadata_of((bagged, *SAMPLE_ATTRIBUTES[1:])))
    assert data.run() == 65
    assert "outputs expected [('bag', 'tensor(float)', ['any number', 3])" in caplog.text
    assert not list((data.store / "predict").glob("*/manifest.json"))


def test_answers_that_are_no_probabilities_are_not_published(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.release(confidence=1.5)
    assert data.run() == 65
    assert "bag_confidence above 1 (15 of 15 images, the first a_0.png" in caplog.text
    kept = next((data.store / "predict").glob("failed-*"))
    assert "bag_confidence above 1" in (kept / "report.html").read_text()
    assert not list((data.store / "predict").glob("*/manifest.json"))


def test_a_corrupted_row_is_found(
    data: Data, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.common.inference import predictions as common

    write = common.write_predictions

    def corrupt(path: Path, *rest: Any) -> None:
        write(path, *rest)
        path.write_text(path.read_text().replace(",v3\n", ",v2\n", 1))

    monkeypatch.setattr(common, "write_predictions", corrupt)
    assert data.run() == 65
    assert "model_version differs (2 of 15 images, the first a_0.png, b_0.png)" in caplog.text


def test_a_diverged_model_answers_nothing_which_is_told(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.release(confidence=float("nan"))
    artifact, _ = data.result()
    assert "bag_predicted missing: no answer (15 of 15 images" in caplog.text
    assert predictions(artifact, "b")["b_1.png"]["bag_predicted"] == ""
    metrics = json.loads((artifact / "metrics" / "predictions.json").read_text())
    assert metrics["classes"]["bow"] == {"no": 0, "yes": 0, "abstained": 15}


def test_the_same_is_predicted_in_other_processes_and_batches(data: Data, tmp_path: Path) -> None:
    one, _ = data.result()
    data.store = tmp_path / "other"
    other, _ = data.result("predict.batch_size=64")
    files = ["undecodable.csv", "ignored.csv", "findings.csv"]
    files += [
        path.relative_to(one).as_posix() for folder in ("outputs", "features") for path in (one / folder).iterdir()
    ]
    assert len(files) == 7
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_a_damaged_cached_lot_is_predicted_again(data: Data) -> None:
    data.result()
    kept = next((data.store / "predict" / ".cache").glob("*/features.npz"))
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert data.result("predict.low_confidence=0.5")[1]["lots_reused"] == 1


def test_a_killed_run_leaves_nothing_that_looks_finished_and_the_next_one_completes_it(data: Data) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), dtype=np.uint8)
    noise[: 1000 // SIDE] = 0  # of which the model reads its answers
    Image.fromarray(noise).save(data.raw / "noise.png", compress_level=1)
    for number in range(150):  # some seconds of work
        (data.raw / "n").mkdir(exist_ok=True)
        os.link(data.raw / "noise.png", data.raw / "n" / f"n_{number}.png")
    (data.raw / "noise.png").unlink()
    command = [sys.executable, "-m", "stages.predict", "--raw", str(data.raw), "--champion", str(data.champion)]
    command += ["--store", str(data.store), "--set", "predict.workers=2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    cache = data.store / "predict" / ".cache"
    stop_when(process, lambda: list(cache.glob("[!.]*/manifest.json")), "that a lot is done")
    process.kill()
    process.wait()
    kept = len(list(cache.glob("[!.]*/manifest.json")))
    assert process.returncode == -signal.SIGKILL
    assert not [path for path in (data.store / "predict").glob("*/manifest.json") if path.parent != cache]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    headline = json.loads(done.stdout.splitlines()[-1])["headline"]
    assert headline.pop("findings").endswith("_answered no for many images")
    counted = {"version": "v3", "images": 165, "lots": 3, "lots_reused": kept, "undecodable": 0}
    assert headline == counted | {"to_label": 3, "expected_accuracy": 0.8}


def test_help_loads_no_runtime() -> None:
    code = (
        "import sys; from stages.predict import stage; "
        "assert not {'onnxruntime', 'great_expectations', 'kornia_rs'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_lots_and_names_follow_the_rules_of_validate(tmp_path: Path) -> None:
    for name in ("s2/s2_1.png", "s1/s1_2.jpg", "s1/s1_10.png", "deep/er/7.png", "8.jpeg", ".hidden/s1_3.png"):
        draw(tmp_path / name, (0, 0, 0, 0, 0))
    found = find_images(tmp_path)
    assert {lot: list(images) for lot, images in found.lots.items()} == {
        "all": ["8.jpeg"], "er": ["7.png"], "s1": ["s1_10.png", "s1_2.jpg"], "s2": ["s2_1.png"],
    }  # fmt: skip
    assert found.lots["s1"]["s1_2.jpg"] == "s1/s1_2.jpg"
    assert [row[2:] for row in found.ignored] == [(".hidden", "hidden")]
    assert found.select(["s2"]).names == {"s2"}
    assert found.select([]) is found


def test_counts_add_up_and_the_least_sure_come_first() -> None:
    from stages.common.inference.answers import answers_of
    from stages.common.inference.calibration import Calibration

    random = np.random.default_rng(0)
    probabilities = {
        attribute.name: random.dirichlet(np.ones(len(attribute.classes)), 9) for attribute in SAMPLE_ATTRIBUTES
    }
    probabilities["bag"][4] = np.nan
    calibration = Calibration(
        temperatures=dict.fromkeys(SAMPLE_NAMES, 1.0),
        abstention=dict.fromkeys(SAMPLE_NAMES, 0.7),
        learned={attribute.name: list(attribute.classes) for attribute in SAMPLE_ATTRIBUTES},
        decision={attribute.name: [0.0] * len(attribute.classes) for attribute in SAMPLE_ATTRIBUTES},
        decided_by=dict.fromkeys(SAMPLE_NAMES, "accuracy"),
    )
    answers = answers_of(SAMPLE_ATTRIBUTES, probabilities, calibration)
    counts = count_answers(answers)
    assert all(sum(classes.values()) == 9 for classes in counts.values())
    assert counts["bag"]["abstained"] == 9 - (probabilities["bag"].max(axis=1) >= 0.7).sum()
    assert add_counts([counts, counts])["bag"]["no"] == 2 * counts["bag"]["no"]
    cases = least_sure("a", [f"{number}.png" for number in range(9)], answers, 5)
    lowest = np.nanmin([probability.max(axis=1) for probability in probabilities.values()], axis=0)
    assert [case.filename for case in cases] == [f"{index}.png" for index in np.argsort(lowest)[:5]]
    assert [case.confidence for case in cases] == sorted(lowest)[:5]
