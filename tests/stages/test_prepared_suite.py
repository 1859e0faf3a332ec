"""The suite of prepared data: every expectation of it is failed by one corrupted row or table, and by that alone."""

from typing import Any

import pandas as pd

from stages.common.checks.suite import findings, load_suite, run_suite
from stages.common.contract.data_folder import OURS
from stages.prepare_train.params import DataSection, PrepareTrainSection
from stages.prepare_train.statistics import Row
from stages.prepare_train.table import suite_thresholds
from tests.common.samples import SAMPLE_ATTRIBUTES

SUITE: Any = load_suite(OURS / "prepared.json", SAMPLE_ATTRIBUTES)
THRESHOLDS: dict[str, float] = {
    "min_std": 10, "mean_min": 60, "mean_max": 230, "std_min": 30, "std_max": 110,
    "train_min": 12, "train_max": 20, "val_min": 1, "val_max": 6, "test_min": 1, "test_max": 6,
}  # fmt: skip

CORRUPTED_ROW: dict[str, dict[str, object]] = {
    "filename empty": {"filename": None},
    "filename is in the index twice": {"filename": "s1_39.png"},
    "two images have the same row of a shard": {"row": "39"},
    "split not in train,val,test": {"split": "Train"},
    "split empty": {"split": None},
    "digest of the picture empty": {"pixels": None},
    "group of the picture empty": {"group": None, "splits_of_picture": None},
    "picture, near duplicate or group in more than one split": {"splits_of_picture": 2},
    "bag not in 0,1": {"bag": "2"},
    "scarf not in 0,1": {"scarf": "yes"},
    "bow not in 0,1": {"bow": "-1"},
    "coat_color not in 0,1,2,3,4": {"coat_color": "5"},
    "coat_length not in 0,1,2": {"coat_length": "1.0"},
    "image nearly of one colour": {"std": 9.9},
}

CORRUPTED_TABLE: dict[str, dict[str, Any]] = {
    "columns of the index are not as expected": {"extra": 1},
    "images darker or brighter than usual": {"mean": 59.0},
    "images of less or more contrast than usual": {"std": 111.0},
}
CORRUPTED_TABLE |= {
    f"a class of {attribute.name} is missing in the train split": {attribute.name: "0"}
    for attribute in SAMPLE_ATTRIBUTES
}


def good_table(splits: str = "t" * 16 + "vvvv" + "eeee") -> pd.DataFrame:
    """One row an image; every class of every attribute stands in the train split."""
    names = {"t": "train", "v": "val", "e": "test"}
    count = len(splits)
    return pd.DataFrame(
        {
            "filename": [f"s1_{number}.png" for number in range(count)],
            "lot": "s1",
            "row": [str(number) for number in range(count)],
            "split": [names[letter] for letter in splits],
            "pixels": [f"{number:032x}" for number in range(count)],
            "group": [f"{number:032x}" for number in range(count)],
            **{
                attribute.name: [str(number % len(attribute.classes)) for number in range(count)]
                for attribute in SAMPLE_ATTRIBUTES
            },
            "splits_of_picture": pd.Series(1, range(count), "Int64"),
            "mean": 180.0,
            "std": 70.0,
        }
    )


def corrupted(table: pd.DataFrame, *rows: dict[str, object]) -> pd.DataFrame:
    """The table with other cells in its first rows."""
    changes = [*rows, *[dict[str, object]()] * (len(table) - len(rows))]
    return pd.DataFrame([good | change for good, change in zip(table.to_dict("records"), changes, strict=True)])


def found(table: pd.DataFrame, **thresholds: float) -> dict[str, list[Any] | None]:
    result = run_suite(SUITE, "prepared", table, THRESHOLDS | thresholds)
    return {finding.reason: finding.rows for finding in findings(result)}


def test_a_good_table_meets_every_expectation() -> None:
    assert not found(corrupted(good_table(), {"bag": None, "coat_color": None}))  # unknown labels


def test_each_corrupted_row_fails_its_expectation_alone() -> None:
    table = corrupted(good_table("t" * 40), *CORRUPTED_ROW.values())
    expected: dict[str, list[Any] | None] = {reason: [row] for row, reason in enumerate(CORRUPTED_ROW)}
    for reason in ("filename is in the index twice", "two images have the same row of a shard"):
        expected[reason] = [*(expected[reason] or ()), 39]  # the row that it repeats
    expected |= {"the val split is empty": None, "the test split is empty": None}  # rows enough for all reasons
    sizes = {"train_max": 40, "val_min": 0, "test_min": 0}
    assert found(table, **sizes) == expected


def test_each_corrupted_table_fails_its_expectation_alone() -> None:
    for reason, columns in CORRUPTED_TABLE.items():
        assert found(good_table().assign(**columns)) == {reason: None}, reason


def test_sizes_of_the_splits() -> None:
    few = {"train_min": 0.0, "val_min": 0.0, "test_min": 0.0}  # of few images, none is within the binomial spread
    assert found(good_table("t" * 20 + "eeee"), **few) == {"the val split is empty": None}
    assert found(good_table("t" * 20 + "vvvv"), **few) == {"the test split is empty": None}
    # and not alone: without a train split, every class is missing in it
    assert next(iter(found(good_table("v" * 4 + "e" * 4), **few))) == "the train split is empty"
    assert found(good_table("t" * 21 + "vvee")) == {"size of the train split far from its share": None}
    assert found(good_table("t" * 14 + "vvvvvvv" + "eee")) == {"size of the val split far from its share": None}
    assert found(good_table("t" * 14 + "vvv" + "eeeeeee")) == {"size of the test split far from its share": None}


def test_no_expectation_is_untested() -> None:
    sizes = {f"the {split} split is empty" for split in ("train", "val", "test")}
    sizes |= {f"size of the {split} split far from its share" for split in ("train", "val", "test")}
    reasons = [expectation.meta["reason"] for expectation in SUITE.expectations]
    assert sorted(reasons) == sorted({*CORRUPTED_ROW, *CORRUPTED_TABLE, *sizes})


def test_classes_agree_with_the_attributes() -> None:
    for attribute in SAMPLE_ATTRIBUTES:
        sets = [e.value_set for e in SUITE.expectations if getattr(e, "column", "") == attribute.name]
        assert sets == [[str(number) for number in range(len(attribute.classes))]] * 2


def test_sizes_allowed_follow_the_binomial_spread_of_pictures() -> None:
    data = DataSection(image_size=16, train_split=0.8, val_split=0.1, test_split=0.1, seed=1, split="digest")
    section = PrepareTrainSection(
        max_rejected_fraction=0, workers=1, split_deviations=3, min_std=1, mean_range=[0, 255], std_range=[0, 255]
    )
    alone = [Row(f"{n}.png", "a", n, "train", f"{n}", f"{n}", (), f"{n}") for n in range(400)]
    allowed = suite_thresholds(alone, data, section)
    assert (allowed["train_min"], allowed["train_max"]) == (296, 344)  # 320 +- 3 * sqrt(400 * 0.8 * 0.2) = 24
    assert (allowed["test_min"], allowed["test_max"]) == (
        21,
        58,
    )  # 40 +- 3 * sqrt(400 * 0.1 * 0.9) = 18, and a rounding
    pairs = [Row(f"{n}.png", "a", n, "train", f"{n}", f"{n // 4}", (), f"{n // 4}") for n in range(400)]
    assert suite_thresholds(pairs, data, section)["train_min"] == 272  # four images a unit: twice the spread
    given = data.model_copy(update={"split": "given"})
    assert suite_thresholds(alone, given, section)["train_max"] >= 400
