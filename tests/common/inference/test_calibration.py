"""Calibration and abstention: they find what was done to the confidences, and few labels do not fool them."""

import numpy as np
import numpy.typing as npt
import pytest

from stages.common.inference.calibration import (
    MIN_ANSWERS,
    choose_abstention,
    expected_calibration_error,
    fit_temperature,
    reliability,
    softmax,
)


def draw(count: int, classes: int = 3) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Logits, and labels that are drawn from their probabilities."""
    random = np.random.default_rng(3)
    logits = random.normal(0, 2, (count, classes))
    labels = [random.choice(classes, p=row) for row in softmax(logits)]
    return logits, np.array(labels)


@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_the_temperature_undoes_a_scaling_of_the_logits(factor: float) -> None:
    logits, labels = draw(3000)
    found = fit_temperature(factor * logits, labels)
    assert found == pytest.approx(factor, rel=0.06)
    right = logits.argmax(1) == labels
    wrong, mended = (softmax(factor * logits / divisor).max(1) for divisor in (1, found))
    error, rest = (expected_calibration_error(answers, right) for answers in (wrong, mended))
    assert error is not None
    assert rest is not None
    assert rest < 0.03
    assert factor == 1 or error > 2 * rest


def test_an_unknown_label_does_not_count() -> None:
    logits, labels = draw(500)
    more = np.concatenate([logits, 50 * logits])
    assert fit_temperature(more, np.concatenate([labels, np.full(500, -1)])) == fit_temperature(logits, labels)


@pytest.mark.parametrize("labels", [[], [-1, -1], [0] * 5, [0] * 1000])
def test_few_labels_and_labels_that_are_all_right_leave_the_temperature_near_1(labels: list[int]) -> None:
    sure = np.tile([8.0, 0.0, 0.0], (len(labels), 1))
    assert fit_temperature(sure, np.array(labels, np.int8)) == pytest.approx(1, abs=0.25)


def test_the_temperature_stays_within_its_bounds() -> None:
    sure = np.tile(np.array([80, 0], np.float32), (1000, 1))
    assert fit_temperature(sure, np.ones(1000, np.int8)) == 10
    assert 0.1 <= fit_temperature(sure / 800, np.zeros(1000, np.int8)) < 0.2


def test_the_calibration_error_by_hand() -> None:
    confidence, right = np.array([0.62, 0.64, 0.9, 1.0]), np.array([True, False, True, True])
    bins = reliability(confidence, right, bins=10)
    assert [(interval.count, interval.confidence, interval.accuracy) for interval in bins] == [
        (2, pytest.approx(0.63), 0.5), (1, pytest.approx(0.9), 1), (1, 1, 1),
    ]  # fmt: skip
    assert expected_calibration_error(confidence, right, bins=10) == pytest.approx((2 * 0.13 + 0.1) / 4)
    assert expected_calibration_error(np.array([]), np.array([], bool)) is None


def test_answers_are_given_from_the_lowest_confidence_that_is_accurate_enough() -> None:
    confidence = np.linspace(0.5, 0.995, 100)
    right = np.ones(100, bool)
    right[[3, 10, 40]] = False
    found = choose_abstention(confidence, right, 0.98)  # one error in 59 is too many below, in 89 it is not
    assert not found.note
    assert found.threshold == confidence[11]
    assert found.coverage == 0.89
    assert found.accuracy == pytest.approx(88 / 89)
    assert right[confidence >= found.threshold].mean() == found.accuracy
    assert choose_abstention(confidence, right, 0.97).threshold == 0
    assert choose_abstention(confidence, right, 1).threshold == confidence[41]
    assert choose_abstention(confidence, ~right, 0).threshold == 0


def test_equal_confidences_are_answered_together() -> None:
    confidence = np.repeat([0.9, 0.6], 50)
    right = np.ones(100, bool)
    right[90:] = False
    found = choose_abstention(confidence, right, 0.95)
    assert (found.threshold, found.coverage, found.accuracy) == (0.9, 0.5, 1)


def test_what_cannot_be_had_is_said() -> None:
    few = choose_abstention(np.full(MIN_ANSWERS - 1, 0.9), np.zeros(MIN_ANSWERS - 1, bool), 0.99)
    assert (few.threshold, few.coverage, few.accuracy) == (0, 1, 0)
    assert f"{MIN_ANSWERS} are needed" in few.note
    assert choose_abstention(np.array([]), np.array([], bool), 0.99).coverage is None

    confidence = np.linspace(0.5, 0.995, 100)
    right = np.ones(100, bool)
    right[[20, 99]] = False  # the surest answer is wrong, so no threshold makes up for it
    found = choose_abstention(confidence, right, 0.99)
    assert found.threshold == pytest.approx(confidence[21])
    assert found.note == f"answers reach an accuracy of {78 / 79:.4f} at best, not 0.99"
