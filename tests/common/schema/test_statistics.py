"""Corrections for many tests, and Wilson's interval by hand."""

import numpy as np
import pytest

from stages.common.schema.statistics import holm, independent, tarone, wilson


def test_p_is_multiplied_by_the_tests_that_are_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_an_interval_of_a_share_stays_a_share() -> None:
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)  # of 90 in 100
    assert wilson(0, 10)[0] == 0
    assert wilson(1, 10)[1] == 1


def test_answers_that_are_wrong_together_tell_less() -> None:
    right = np.repeat([True, False], [18, 2])
    alone, pairs = np.arange(40), np.repeat(np.arange(20), 2)
    assert independent(np.repeat(right, 2), alone) == 40
    assert independent(np.repeat(right, 2), pairs) == pytest.approx(19)  # 20, of which one goes for the unknown mean
    assert independent(np.tile([True, False], 20), pairs) == 40  # each group as the whole
    assert independent(np.ones(40, bool), pairs) == 20
    assert independent(np.ones(40, bool), np.zeros(40, int)) == 1


def test_tests_that_could_find_nothing_take_no_part_of_the_level() -> None:
    p = np.array([0.01, 0.5, 0.25, 1.0])
    least = np.array([0.001, 0.5, 0.25, 0.02])
    assert tarone(p, least, 0.05).tolist() == pytest.approx([0.02, 1, 1, 1])  # of two that could
    assert tarone(p, p, 0.05).tolist() == pytest.approx([0.01, 1, 1, 1])
    assert tarone(p[:0], p[:0], 0.05).tolist() == []
