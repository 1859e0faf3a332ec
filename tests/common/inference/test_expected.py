"""The accuracy that is expected without labels: that its interval holds the true one, and what it leaves out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.common.inference.answers import Answers
from stages.common.inference.expected import (
    MEAN,
    Certainty,
    certainty,
    expect,
    figures,
    read_trust,
    trust,
    write_trust,
)
from stages.common.schema.attributes import UNKNOWN, Attribute

HAT = Attribute("hat", ("none", "cap", "helmet"), "hat", "Hat")
BRIM = Attribute("brim", ("no", "yes"), "brim", "Brim", unknown_when={"hat": "none"})
BOTH = (HAT, BRIM)


def answer(images: int, seed: int, surplus: float = 0.0) -> list[Answers]:
    """Answers that are right as often as their confidence says, or by `surplus` more often."""
    random = np.random.default_rng(seed)
    answers = []
    for attribute in BOTH:
        count = len(attribute.classes)
        sure = random.choice([0.75, 0.9, 0.99], images, p=[0.1, 0.2, 0.7])
        said = random.integers(1, count, images) if attribute is HAT else random.integers(0, count, images)
        probabilities = np.repeat(((1 - sure) / (count - 1))[:, None], count, axis=1)
        probabilities[np.arange(images), said] = sure
        right = random.random(images) < sure + surplus
        answers.append(Answers(attribute, np.where(right, said, (said + 1) % count), probabilities))
    return answers


def all_of(answers: list[Answers]) -> Certainty:
    return certainty(answers, np.ones(len(answers[0].labels), np.bool_))


def accuracy(answers: list[Answers]) -> dict[str, float]:
    shares = {answer.attribute.name: float(answer.right.mean()) for answer in answers}
    return shares | {MEAN: float(np.mean(list(shares.values())))}


@pytest.mark.parametrize("surplus", [0.0, -0.1])
@pytest.mark.parametrize("images", [40, 400])
def test_the_interval_holds_the_true_accuracy_as_often_as_it_says(surplus: float, images: int) -> None:
    draws, held, off = 200, dict.fromkeys(("hat", "brim", MEAN), 0), []
    for seed in range(draws):
        lot = answer(images, 2 * seed, surplus)
        expected, true = expect(all_of(lot), trust(answer(150, 2 * seed + 1, surplus))), accuracy(lot)
        for name, estimate in expected.items():
            held[name] += estimate.low <= true[name] <= estimate.high
        off.append(expected[MEAN].value - true[MEAN])
    assert all(count >= 0.92 * draws for count in held.values())
    assert abs(np.mean(off)) < 0.01


def test_more_images_and_more_labels_make_it_narrower() -> None:
    def width(images: int, labels: int) -> float:
        estimate = expect(all_of(answer(images, 1)), trust(answer(labels, 2)))[MEAN]
        return estimate.high - estimate.low

    assert width(1000, 1000) < width(1000, 50) < width(50, 50)


def test_groups_whose_answers_go_together_make_it_wider() -> None:
    test = answer(200, 3, -0.2)
    same = [replace(answers, groups=np.arange(200) // 20) for answers in test]
    repeated = [
        replace(
            answers,
            labels=np.repeat(answers.labels[::20], 20),
            probabilities=np.repeat(answers.probabilities[::20], 20, axis=0),
        )
        for answers in same
    ]
    assert trust(repeated)["hat"].variance > 5 * trust(test)["hat"].variance


def test_lots_add_up() -> None:
    lot = answer(100, 4)
    first = np.arange(100) < 30
    parts, whole = (
        figures(expect(certainties, trust(lot)))
        for certainties in (certainty(lot, first) + certainty(lot, ~first), all_of(lot))
    )
    assert parts is not None
    assert whole is not None
    assert parts["mean"] == pytest.approx(whole["mean"])


def test_an_attribute_that_is_never_answered_or_never_labelled_is_left_out_and_so_is_what_cannot_be_told() -> None:
    hat, brim = answer(100, 5)
    never = replace(brim, learned=(), probabilities=np.full((100, 2), np.nan))
    unlabelled = replace(brim, labels=np.full(100, UNKNOWN))
    for without in (never, unlabelled):
        expected = expect(all_of([hat, brim]), trust([hat, without]))
        assert set(expected) == {"hat", MEAN}
        assert expected[MEAN].value == pytest.approx(expected["hat"].value)
    bare = replace(hat, probabilities=np.tile([0.9, 0.05, 0.05], (100, 1)))  # there is no brim to tell of
    assert set(expect(all_of([bare, brim]), trust([hat, brim]))) == {"hat", MEAN}
    assert figures(expect(certainty([hat, brim], np.zeros(100, np.bool_)), trust([hat, brim]))) is None
    assert figures(expect(all_of([hat, brim]), {})) is None


def test_an_answer_that_is_no_number_counts_as_wrong() -> None:
    hat, brim = answer(100, 6)
    broken = hat.probabilities.copy()
    broken[:50] = np.nan
    test = trust([hat, brim])
    before, after = (
        expect(all_of([answers, brim]), test)["hat"].value for answers in (hat, replace(hat, probabilities=broken))
    )
    assert after == pytest.approx(before / 2, abs=0.05)


def test_a_model_that_is_always_right_and_says_so_is_not_expected_to_be_so_for_certain() -> None:
    sure = [
        replace(answers, labels=np.zeros(50, np.int64), probabilities=np.eye(len(answers.attribute.classes))[[0] * 50])
        for answers in answer(50, 7)
    ]
    hat = expect(all_of(sure[:1]), trust(sure[:1]))["hat"]
    assert (hat.value, hat.high) == (1, 1)
    assert hat.low == pytest.approx(0.867, abs=0.01)


def test_it_is_kept_with_the_version_and_absent_of_earlier_ones(tmp_path: Path) -> None:
    assert read_trust(tmp_path) == {}
    test = answer(60, 8)
    write_trust(tmp_path, test)
    assert read_trust(tmp_path) == trust(test)
