"""Slices of the test images: which is named, and that chance names none."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import fisher_exact

from stages.common.inference.slices import LEVEL, Change, compare_slices, fallen, measure_slices, totals, worst
from stages.common.schema.attributes import UNKNOWN, Attribute

ATTRIBUTES = (
    Attribute("hat", ("none", "cap", "helmet"), "hat", "Hat"),
    Attribute("scarf", ("no", "yes"), "scarf", "Scarf"),
)
IMAGES = 400
RANDOM = np.random.default_rng(0)
LABELS = np.stack([RANDOM.integers(0, 3, IMAGES), RANDOM.integers(0, 2, IMAGES)], axis=1)
LOTS = [f"s{number % 4}" for number in range(IMAGES)]
ALONE = np.arange(IMAGES)


def all_right() -> npt.NDArray[np.float64]:
    return np.ones(LABELS.shape)


def having(hat: int, scarf: int) -> npt.NDArray[np.int64]:
    return np.flatnonzero((LABELS[:, 0] == hat) & (LABELS[:, 1] == scarf))


def measured(right: npt.NDArray[np.float64], labels: npt.NDArray[Any] = LABELS, groups: Any = ALONE) -> Any:
    return measure_slices(ATTRIBUTES, labels, LOTS, right, groups)


def test_the_pair_of_classes_in_which_the_errors_are_is_named() -> None:
    right, helmets = all_right(), having(2, 1)
    right[helmets[:12], 0] = 0
    found = worst(measured(right))
    assert found is not None
    assert (found.name, found.attribute) == ("hat helmet and scarf yes", "Hat")
    assert (found.labels, found.right) == (len(helmets), len(helmets) - 12)
    assert found.interval[0] < found.accuracy < found.interval[1]
    assert found.elsewhere == 1
    assert f"{len(helmets) - 12} of {len(helmets)} right" in found.text


def test_a_lot_is_named_likewise_and_p_is_that_of_fisher() -> None:
    right = all_right()
    lot = np.flatnonzero(np.array(LOTS) == "s3")
    right[lot[:9], 1] = 0
    right[:3, 1] = 0
    slices = measured(right)
    found = worst(slices)
    assert found is not None
    assert (found.kind, found.name, found.attribute) == ("lot", "lot s3", "Scarf")
    wrong = IMAGES - int(right[:, 1].sum())
    inside = len(lot) - found.right
    table = [[inside, len(lot) - inside], [wrong - inside, IMAGES - len(lot) - wrong + inside]]
    alone = fisher_exact(table, alternative="greater").pvalue
    number = found.p / alone  # of slices that could have been named
    assert number == pytest.approx(round(number))
    assert 1 < number <= len(slices)


def test_too_few_labels_are_never_named_however_wrong_they_are() -> None:
    labels = LABELS.copy()
    rare = having(2, 1)
    labels[rare[2:], 0] = UNKNOWN
    right = np.where(labels == UNKNOWN, np.nan, 1)
    right[rare[:2], 0] = 0  # both of two
    right[having(0, 0)[:40], 0] = 0  # of many more
    slices = measured(right, labels)
    (both,) = (cut for cut in slices if cut.name == "hat helmet and scarf yes" and cut.attribute == "Hat")
    assert (both.labels, both.right, both.p) == (2, 0, 1)


def test_chance_names_a_slice_no_more_often_than_said() -> None:
    random = np.random.default_rng(1)
    rounds = 200
    named = sum(worst(measured((random.random(LABELS.shape) < 0.9).astype(float))) is not None for _ in range(rounds))
    assert named / rounds <= LEVEL + 0.03
    people = np.repeat(np.arange(IMAGES // 8), 8)
    lots = [f"s{person % 4}" for person in people]
    together = 0
    for _ in range(rounds):
        right = (random.random((IMAGES // 8, 2)) < 0.9).astype(float)[people]
        together += worst(measure_slices(ATTRIBUTES, LABELS, lots, right, people)) is not None
    assert together / rounds <= LEVEL + 0.03


def test_the_accuracy_of_all_answers_is_told_of_every_lot_and_pair() -> None:
    right = all_right()
    right[0] = [0, np.nan]
    found = totals(ATTRIBUTES, LABELS, LOTS, right)
    assert [lot["name"] for lot in found["lots"]] == ["lot s0", "lot s1", "lot s2", "lot s3"]
    assert found["lots"][0] == {"name": "lot s0", "labels": 199, "accuracy": pytest.approx(198 / 199)}
    assert len(found["class_pairs"]) == 6
    assert sum(int(class_pair["labels"]) for class_pair in found["class_pairs"]) == 2 * IMAGES - 1


def changes(ours: Any, theirs: Any, groups: Any = ALONE) -> list[Change]:
    return compare_slices(ATTRIBUTES, LABELS, LOTS, ours, theirs, groups, 0.05)


def test_a_slice_that_falls_is_found_though_the_mean_stays() -> None:
    ours, theirs = all_right(), all_right()
    ours[having(1, 0)[:12], 0] = 0
    theirs[having(1, 1)[:12], 0] = 0
    (found, *others) = fallen(changes(ours, theirs), 0.05, 0.05)
    assert (found.name, found.attribute, found.worse, found.better) == ("hat cap and scarf no", "Hat", 12, 0)
    assert found.version == 1
    assert found.candidate == pytest.approx(1 - 12 / len(having(1, 0)))
    assert others == []
    assert fallen(changes(ours, theirs), 0.05, 0.9) == []
    assert fallen(changes(theirs, theirs), 0.05, 0) == []


def test_images_that_belong_together_fall_as_one() -> None:
    ours = all_right()
    lost = having(1, 0)[:12]
    ours[lost, 0] = 0
    people = ALONE.copy()
    people[lost] = np.repeat(lost[:2], 6)  # two people, of six pictures each
    assert fallen(changes(ours, all_right()), 0.05, 0.05)
    assert not fallen(changes(ours, all_right(), people), 0.05, 0.05)


def test_what_one_of_both_never_answers_is_left_out() -> None:
    ours, theirs = all_right(), all_right()
    ours[:, 1] = 0
    theirs[:, 1] = np.nan
    assert changes(ours, theirs) == []
