"""Holm's correction by hand."""

import pytest

from stages.common.holm import adjust


def test_p_is_multiplied_by_the_tests_that_are_left_and_never_falls() -> None:
    assert adjust([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert adjust([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert adjust([]).tolist() == []
