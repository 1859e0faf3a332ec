"""The measures that every stage tells, compared with scikit-learn and with what can be counted by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, precision_recall_fscore_support

from stages.common.inference.answers import Answers
from stages.common.inference.measures import RARE, average_precision, cells_of, measure, no_better, no_better_in_brief
from stages.common.schema.attributes import Attribute
from stages.common.schema.statistics import wilson

HAT = Attribute("hat", ("none", "cap", "helmet"), "hat", "Hat")
RANDOM = np.random.default_rng(0)


def answers(labels: list[int], predicted: list[int]) -> Answers:
    """Answers about hats, each with a probability of .8."""
    return Answers(HAT, np.array(labels), np.where(np.eye(3)[predicted] > 0, 0.8, 0.1))


def some_answers(count: int = 400) -> Answers:
    """Of hats some 5 % are helmets; tied scores are among them."""
    labels = RANDOM.choice(3, count, p=[0.7, 0.25, 0.05])
    scores = RANDOM.random((count, 3)).round(1) + np.eye(3)[labels] * 0.3 + 0.01
    return Answers(HAT, labels, scores / scores.sum(axis=1, keepdims=True))


def test_figures_are_those_of_scikit_learn() -> None:
    of = some_answers()
    found = measure(of)
    scores = precision_recall_fscore_support(of.labels, of.predicted, zero_division=0)
    for name, expected in zip(("precision", "recall", "f1", "support"), scores, strict=True):
        assert [figures[name] for figures in found["per_class"]] == pytest.approx(list(expected))
        if name != "support":
            assert found[name] == pytest.approx(expected.mean())
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(of.labels, of.predicted))
    assert found["majority"] == pytest.approx((of.labels == 0).mean())
    rare = [figures for figures in found["per_class"] if "average_precision" in figures]
    assert [figures["class"] for figures in rare] == ["helmet"]
    positive = of.labels == 2
    assert rare[0]["average_precision"] == pytest.approx(average_precision_score(positive, of.probabilities[:, 2]))
    assert rare[0]["support"] < RARE * found["labels"]


def test_intervals_are_of_the_labels_of_the_class_and_of_the_answers_with_it() -> None:
    found = measure(answers([0] * 8 + [1] * 2, [0] * 7 + [1] * 2 + [0]))
    none, cap, helmet = found["per_class"]
    assert (none["recall_interval"], none["precision_interval"]) == (list(wilson(7 / 8, 8)), list(wilson(7 / 8, 8)))
    assert (cap["support"], cap["recall"], cap["precision"]) == (2, 0.5, 0.5)
    assert cap["recall_interval"] == list(wilson(0.5, 2))
    assert (helmet["support"], helmet["recall"], helmet["precision"], helmet["f1"]) == (0, None, None, None)
    json.dumps(found, allow_nan=False)


def test_intervals_are_wider_where_images_belong_together() -> None:
    alone = answers([0] * 80 + [-1] * 4, [0] * 60 + [1] * 20 + [0] * 4)
    together = replace(alone, groups=np.repeat(np.arange(21), 4))
    (low, high), (lower, higher) = (
        measure(answers)["per_class"][0]["recall_interval"] for answers in (alone, together)
    )
    assert higher - lower > 1.8 * (high - low)
    assert measure(together)["per_class"][0]["recall"] == 0.75


def test_a_class_that_is_never_predicted_has_no_precision_and_counts_as_none_in_the_mean() -> None:
    found = measure(answers([0, 0, 0, 1], [0, 0, 0, 0]))
    assert found["per_class"][1]["precision"] is None
    assert (found["precision"], found["balanced_accuracy"]) == (3 / 4 / 2, 1 / 2)


def test_one_class_alone_has_no_balanced_accuracy() -> None:
    found = measure(answers([1, 1], [1, 1]))
    assert (found["accuracy"], found["majority"], found["balanced_accuracy"]) == (1, 1, None)
    assert list(no_better({"hat": found}, "accuracy")) == ["hat"]
    assert not no_better({"hat": found}, "balanced_accuracy")


def test_an_image_without_an_answer_is_found_last() -> None:
    score = np.array([0.9, -1.0, 0.5, 0.1])
    assert average_precision(score, np.array([True, True, False, False])) == pytest.approx((1 + 2 / 4) / 2)


def test_the_attribute_that_is_no_better_than_its_most_frequent_class_is_told_with_both_figures() -> None:
    found = {"hat": measure(answers([0] * 9 + [1], [0] * 10)), "other": measure(answers([0] * 9 + [1], [0] * 9 + [1]))}
    line = "hat is no better than its most frequent class: accuracy 0.9000, and always 'none' has 0.9000"
    assert no_better(found, "accuracy") == {"hat": line}
    always = "balanced accuracy 0.5000, and always 'none' has 0.5000"
    assert always in no_better(found, "balanced_accuracy")["hat"]


def test_many_attributes_that_are_no_better_are_named_in_one_line() -> None:
    lines = {f"a{number}": f"a{number} is no better" for number in range(4)}
    assert no_better_in_brief(lines, "balanced_accuracy") == [
        "4 attributes are no better than their most frequent class by balanced accuracy: a0, a1, a2, a3"
    ]
    few = {name: lines[name] for name in ("a0", "a1", "a2")}
    assert no_better_in_brief(few, "accuracy") == list(few.values())


def test_the_mean_over_cells_is_the_mean_of_the_measure() -> None:
    both = [some_answers(), some_answers()]
    labels = np.stack([answers.labels for answers in both], axis=1)
    labels[:300, 1] = -1
    right = np.stack([answers.right.astype(float) for answers in both], axis=1)
    right[:300, 1] = np.nan
    told = [measure(Answers(HAT, labels[:, at], answers.probabilities)) for at, answers in enumerate(both)]
    assert cells_of(right, labels, "accuracy").mean == pytest.approx(
        np.mean([measures["accuracy"] for measures in told])
    )
    balanced = cells_of(right, labels, "balanced_accuracy")
    assert balanced.mean == pytest.approx(np.mean([measures["balanced_accuracy"] for measures in told]))
    assert balanced.right.shape == (400, 6)


def test_what_has_one_class_is_no_part_of_a_mean_of_balanced_accuracies() -> None:
    right = np.array([[1, 1], [0, 1], [1, np.nan]])
    labels = np.array([[0, 2], [1, 2], [1, -1]])
    assert cells_of(right, labels, "balanced_accuracy").mean == pytest.approx((1 + 1 / 2) / 2)
    assert np.isnan(cells_of(right[:, 1:], labels[:, 1:], "balanced_accuracy").mean)
