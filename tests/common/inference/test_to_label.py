"""Which images are worth labels, and that what is filled in is read."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.common.inference.features import Features
from stages.common.inference.to_label import Chooser, Worth, write_to_label
from stages.common.schema.annotations import WORTH_LABELLING
from stages.common.schema.attributes import Attribute
from stages.validate.attributes_file import AttributesFile
from stages.validate.raw_annotations import read_annotations

HAT = Attribute("hat", ("none", "cap", "helmet"), "hat_kind", "Hat")
BRIM = Attribute("brim", ("no", "yes"), "brim", "Brim", unknown_when={"hat": "none"})
BOTH = (HAT, BRIM)


def features(embeddings: Any, sure: Any = 0.99, brim: Any = 0.99, hat: int = 1) -> Features:
    at = np.asarray(embeddings, np.float32)
    probabilities = {}
    for attribute, confidence, answer in ((HAT, sure, hat), (BRIM, brim, 1)):
        count = len(attribute.classes)
        values = np.repeat(((1 - np.broadcast_to(confidence, len(at))) / (count - 1))[:, None], count, axis=1)
        values[:, answer] = confidence
        probabilities[attribute.name] = values.astype(np.float32)
    none = np.empty((0, 1, 1, 3), np.uint8)
    return Features([f"{number}.png" for number in range(len(at))], {}, at, probabilities, none, [])


RANDOM = np.random.default_rng(0)
REFERENCE = features(RANDOM.normal(size=(200, 4)))


def chosen(lot: Features, most: int) -> list[Worth]:
    chooser = Chooser(BOTH, REFERENCE, most)
    chooser.show("lot", lot, np.ones(len(lot), np.bool_))
    return chooser.choose()


def test_the_unsure_come_before_the_sure_and_the_far_before_the_near() -> None:
    usual = RANDOM.normal(size=(50, 4))
    unsure = chosen(features(usual, np.where(np.arange(50) < 6, 0.5, 0.99)), 6)
    assert {image.filename for image in unsure} == {f"{number}.png" for number in range(6)}
    assert all("unsure of Hat: cap 50%" in image.why for image in unsure)
    usual[:6] += 20 * np.arange(1, 7)[:, None]
    far = chosen(features(usual), 6)
    assert {image.filename for image in far} == {f"{number}.png" for number in range(6)}
    assert all("unlike the reference" in image.why for image in far)


def test_what_cannot_be_told_makes_no_image_worth_labels() -> None:
    at = np.stack([np.full(4, 9.0), np.full(4, -9.0)])
    bare = features(at, brim=[0.5, 0.99], hat=0)
    assert [image.why.count("Brim") for image in chosen(bare, 2)] == [0, 0]
    assert chosen(features(at, brim=[0.5, 0.99]), 1)[0].filename == "0.png"


def test_nearly_the_same_picture_and_one_of_the_reference_are_not_asked_for() -> None:
    few = np.array([[9.0, 0, 0, 0], [9.0, 0.001, 0, 0], [0, 9.0, 0, 0]])
    assert {image.filename for image in chosen(features(few), 3)} in ({"0.png", "2.png"}, {"1.png", "2.png"})
    assert chosen(features(REFERENCE.embeddings[:5], 0.5), 5) == []


def test_it_is_the_same_in_any_lots_and_those_shown_first_come_first() -> None:
    at = RANDOM.normal(size=(300, 4)) * 3
    lot = features(at, RANDOM.uniform(0.4, 1, 300))
    whole = chosen(lot, 10)
    parts = Chooser(BOTH, REFERENCE, 10)
    for half in (np.arange(300) < 100, np.arange(300) >= 100):
        parts.show("lot", lot, half)
    assert parts.choose() == whole
    after = Chooser(BOTH, REFERENCE, 10)
    after.show("first", lot, np.arange(300) < 4)
    assert len(after.choose()) == 4
    after.show("rest", lot, np.arange(300) >= 4)
    assert [image.lot for image in after.choose()] == ["first"] * 4 + ["rest"] * 6


def test_a_model_that_gives_no_number_asks_for_labels_too() -> None:
    lot = features(RANDOM.normal(size=(4, 4)) * 9)
    lot.probabilities["hat"][:] = np.nan
    assert [image.why.partition(";")[0] for image in chosen(lot, 2)] == ["no number for Hat"] * 2


def test_without_candidates_there_is_nothing_to_ask() -> None:
    chooser = Chooser(BOTH, REFERENCE, 3)
    chooser.show("lot", REFERENCE, np.zeros(len(REFERENCE), np.bool_))
    assert chooser.choose() == []


@pytest.mark.parametrize("filled", [("cap", ""), ("1", ""), ("", "yes")])
def test_a_row_is_read_as_soon_as_it_is_filled_in(tmp_path: Path, filled: tuple[str, str]) -> None:
    read = partial(read_annotations, AttributesFile(BOTH, {}, {}))
    worth = chosen(features(RANDOM.normal(size=(30, 4)) * 5), 4)
    path = tmp_path / "to_label.csv"
    write_to_label(path, BOTH, worth, {("lot", image.filename): f"lot/{image.filename}" for image in worth})
    annotations = read(path)
    assert annotations.rows.empty
    assert "to_label.csv: 4 of 4 rows are not filled in and are not read" in annotations.notices
    with path.open(newline="") as lines:
        first, *others = csv.DictReader(lines)
    assert (first["lot"], first["hat_predicted"], first["hat_confidence"]) == ("lot", "cap", "0.9900")
    assert first[WORTH_LABELLING]
    first["hat_kind"], first["brim"] = filled
    with path.open("w", newline="") as lines:
        table = csv.DictWriter(lines, first)
        table.writeheader()
        table.writerows([first, *others])
    annotations = read(path)
    assert annotations.rows["filename"].tolist() == [f"lot/{worth[0].filename}"]
    known = annotations.rows[["hat_kind", "brim"]].fillna("").to_numpy().tolist()
    assert known == [["1" if filled[0] else "", "1" if filled[1] else ""]]
    assert "to_label.csv: 3 of 4 rows are not filled in and are not read" in annotations.notices
