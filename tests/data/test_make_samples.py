"""The sample data: the same bytes for the same seed, labels that fit, and nothing of the user's overwritten."""

import csv
import io
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from PIL import Image

from data.make_samples import LABELS, annotation_table, draw_face, filenames, main, make_samples
from tests.common.samples import DEFAULT_ATTRIBUTES
from tests.processes import stop_when
from tests.waiting import wait_until


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_same_seed_same_bytes_whatever_the_global_random_state(tmp_path: Path) -> None:
    random.seed(1)
    make_samples(tmp_path / "one", count=10, lots=2)
    random.seed(2)
    state = random.getstate()
    make_samples(tmp_path / "two", count=10, lots=2)
    assert random.getstate() == state
    make_samples(tmp_path / "other", count=10, lots=2, seed=43)
    one, two, other = (read_files(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values()) - {b""}


@pytest.mark.slow
def test_a_larger_set_drawn_by_processes_contains_the_smaller(tmp_path: Path) -> None:
    make_samples(tmp_path / "small", count=2, lots=2)
    make_samples(tmp_path / "large", count=110, lots=2)
    small, large = read_files(tmp_path / "small" / "raw"), read_files(tmp_path / "large" / "raw")
    assert small.items() <= large.items()
    assert len(large) == len(set(large.values())) == 110


def test_lots_hold_one_rgba_picture_an_annotation(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--count", "7", "--lots", "3"]) == 0
    with (tmp_path / "annotations.csv").open(newline="") as file:
        names = [row["filename"] for row in csv.DictReader(file)]
    pictures = sorted(path.relative_to(tmp_path / "raw").as_posix() for path in (tmp_path / "raw").rglob("*.png"))
    assert pictures == [f"{name.split('_')[0]}/{name}" for name in names]
    assert Counter(name.split("_")[0] for name in names) == {"s1": 3, "s2": 2, "s3": 2}
    for path in pictures:
        with Image.open(tmp_path / "raw" / path) as picture:
            picture.load()
            assert (picture.mode, picture.size) == ("RGBA", (160, 170))


def test_labels_are_in_range_balanced_and_a_bald_head_has_no_hair_color() -> None:
    table = annotation_table([draw_face(42, name) for name in filenames(2000, 4)])
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 2000
    assert all((row["hair_color_label"] == "") == (row["hair_length"] == "0") for row in rows)
    for attribute in DEFAULT_ATTRIBUTES:
        counts = Counter(row[attribute.column] for row in rows if row[attribute.column])
        assert set(counts) == {str(index) for index in range(len(attribute.classes))}
        assert min(counts.values()) > 0.75 * sum(counts.values()) / len(attribute.classes)


def test_the_generator_and_the_attributes_agree() -> None:
    assert {attribute.name: (attribute.column, list(attribute.classes)) for attribute in DEFAULT_ATTRIBUTES} == LABELS


def test_styles_are_the_same_pictures_with_attributes_of_their_own(tmp_path: Path) -> None:
    make_samples(tmp_path / "faces", count=4, lots=2)
    assert main(["--out", str(tmp_path / "styles"), "--count", "4", "--lots", "2", "--styles"]) == 0
    faces, styles = read_files(tmp_path / "faces"), read_files(tmp_path / "styles")
    attributes = yaml.safe_load(styles.pop("attributes.yaml"))
    rows = list(csv.DictReader(io.StringIO(styles.pop("annotations.csv").decode())))
    assert styles == {name: content for name, content in faces.items() if name != "annotations.csv"}
    assert (
        list(rows[0])
        == ["filename", "top", "eyes", "clothes", "skin"]
        == ["filename", *(a["name"] for a in attributes)]
    )
    assert all(row[attribute["name"]] in attribute["classes"] for row in rows for attribute in attributes)


def test_a_second_run_leaves_a_whole_set_alone_and_completes_one_without_annotations(tmp_path: Path) -> None:
    assert make_samples(tmp_path, count=4, lots=2)
    before = read_files(tmp_path)
    assert not make_samples(tmp_path, count=4, lots=2)
    (tmp_path / "annotations.csv").unlink()
    assert make_samples(tmp_path, count=4, lots=2)
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("foreign", ["annotations.csv", "raw/s1/s1_00000.png", "raw/me.png", "raw/.hidden"])
def test_other_data_are_never_overwritten(tmp_path: Path, foreign: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    assert main(["--out", str(tmp_path), "--count", "4", "--lots", "2"]) == 65
    assert capsys.readouterr().err.splitlines() == [
        f"make_samples: {path} is other data, which samples must not replace: "
        f"move it away, or name another --out ({tmp_path})"
    ]
    assert read_files(tmp_path) == {foreign: b"mine", ".lock-samples": b""}


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data.make_samples", "--out", str(tmp_path), "--count", "400"]
    with subprocess.Popen(command, process_group=0) as process:
        stop_when(process, lambda: list(tmp_path.rglob("*.png")), "an image")
        os.kill(process.pid, signal.SIGKILL)
    assert list(tmp_path.rglob("*.png"))
    assert not (tmp_path / "raw").exists()
    assert not (tmp_path / "annotations.csv").exists()

    def is_gone() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(is_gone, "the end of its workers")
    assert make_samples(tmp_path, count=4, lots=2)
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "annotations.csv", ".lock-samples"}


def test_wrong_counts_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--count", "2", "--lots", "3"]) == 64
    assert "--lots must be 1 or more" in capsys.readouterr().err
