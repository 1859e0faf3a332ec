"""Answers where a class is rare: decisions and abstention, on probabilities that are known to be true."""

import numpy as np
import numpy.typing as npt
import pytest

from stages.common.inference.answers import Answers
from stages.common.inference.calibration import MIN_ANSWERS, choose_abstentions
from stages.common.inference.decision import decided, in_words, lowest_confidence
from stages.common.schema.attributes import Attribute
from stages.train.decide import Decision, decide
from stages.train.params import Wanted

HAT = Attribute("hat", ("none", "bowler"), "hat", "Hat")
COLOR = Attribute("color", ("red", "green", "blue"), "color", "Colour")
RARE = 0.03
SHARES = np.array([1 - RARE, RARE])


def rare(count: int = 4000, seed: int = 0, distance: float = 2.0) -> Answers:
    """Labels of which 3 % are the second class, and the true probability of each given a normal signal."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < RARE).astype(np.int16)
    signal = random.normal(distance * labels, 1)
    odds = distance * signal - distance**2 / 2 + np.log(RARE / (1 - RARE))
    second = 1 / (1 + np.exp(-odds))
    return Answers(HAT, labels, np.stack([1 - second, second], axis=1))


def with_(answers: Answers, decision: Decision) -> Answers:
    return Answers(answers.attribute, answers.labels, answers.probabilities, decision=decision.offsets)


def recall(answers: Answers, number: int) -> float:
    return float((answers.predicted == number)[answers.labels == number].mean())


def precision(answers: Answers, number: int) -> float:
    return float(answers.right[answers.predicted == number].mean())


def test_by_accuracy_the_most_probable_class_is_answered() -> None:
    answers = rare()
    found = decide(answers, "accuracy", None, SHARES)
    assert found.offsets == [0, 0]
    assert (found.by, found.answer) == ("accuracy", "the most probable class")
    np.testing.assert_array_equal(with_(answers, found).predicted, answers.probabilities.argmax(1))


def test_by_balanced_accuracy_a_rare_class_is_found_as_often_as_the_other() -> None:
    answers, others = rare(), rare(seed=1)
    found = decide(answers, "balanced_accuracy", None, SHARES)
    after = with_(others, found)
    assert recall(answers, 1) < 0.35
    assert recall(after, 1) > 0.75
    assert abs(recall(after, 0) - recall(after, 1)) < 0.1
    assert (found.by, found.answer) == ("balanced accuracy", "bowler from a probability of 0.03 on, else none")


def test_with_more_classes_each_counts_as_much_as_it_is_rare() -> None:
    random = np.random.default_rng(0)
    shares = np.array([0.9, 0.08, 0.02])
    labels = random.choice(3, 3000, p=shares)
    logits = random.normal(0, 1, (3000, 3)) + 2 * np.eye(3)[labels]
    powers = shares * np.exp(2 * logits)
    answers = Answers(COLOR, labels, powers / powers.sum(1, keepdims=True))
    balanced = decide(answers, "balanced_accuracy", None, shares)
    means = [
        np.mean([recall(decided, number) for number in range(3)]) for decided in (answers, with_(answers, balanced))
    ]
    assert means[1] > means[0] + 0.1
    assert "red 1, green 11, blue 45" in balanced.answer


def test_a_class_that_training_has_not_seen_is_favoured_by_nothing() -> None:
    answers = Answers(COLOR, np.array([0, 1]), np.array([[0.7, 0.3, 0.0], [0.9, 0.1, 0.0]]))
    found = decide(answers, "balanced_accuracy", None, np.array([0.9, 0.1, 0.0]))
    assert found.offsets[2] == 0
    assert in_words(COLOR, found.offsets, ["red", "green"]) == "green from a probability of 0.1 on, else red"
    assert found.by == "balanced accuracy"
    np.testing.assert_array_equal(with_(answers, found).predicted, [1, 0])


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("wanted", [0.5, 0.9, 1.0])
def test_a_wanted_recall_is_reached_and_not_exceeded(wanted: float, number: int) -> None:
    answers = rare(600)
    found = decide(answers, "accuracy", Wanted(of=HAT.classes[number], recall=wanted), SHARES)
    mine = answers.labels == number
    assert (with_(answers, found).predicted == number)[mine].sum() == np.ceil(wanted * mine.sum())
    assert found.by == f"recall {wanted:g} of {HAT.classes[number]}"
    assert not found.note


@pytest.mark.parametrize("wanted", [0.3, 0.6])
def test_a_wanted_precision_is_reached_with_as_many_answers_as_it_allows(wanted: float) -> None:
    answers = rare()
    found = decide(answers, "balanced_accuracy", Wanted(of="bowler", precision=wanted), SHARES)
    assert precision(with_(answers, found), 1) >= wanted
    assert not found.note
    lower = [found.offsets[0], found.offsets[1] + 0.5]
    given = Answers(HAT, answers.labels, answers.probabilities, decision=lower)
    assert precision(given, 1) < wanted


def test_a_precision_that_cannot_be_reached_is_told_and_the_nearest_taken() -> None:
    answers = rare(distance=0.5)
    highest = answers.probabilities[:, 1].argmax()
    answers.labels[highest] = 0
    found = decide(answers, "accuracy", Wanted(of="bowler", precision=1.0), SHARES)
    best = precision(with_(answers, found), 1)
    assert 0 < best < 1
    assert found.note == f"precision of bowler reaches {best:.3f} at best on validation, not 1"
    for more in np.linspace(-1, 3, 9):
        other = Answers(HAT, answers.labels, answers.probabilities, decision=[0, found.offsets[1] + more])
        given = other.predicted == 1
        assert not given.any() or other.right[given].mean() <= best


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_tell_no_threshold(label: int) -> None:
    answers = Answers(HAT, np.full(50, label), rare(50).probabilities)
    found = decide(answers, "accuracy", Wanted(of="bowler", recall=0.9), SHARES)
    assert found.offsets == [0, 0]
    assert f"{'every' if label else 'no'} validation label is 'bowler'" in found.note
    assert decide(Answers(HAT, np.array([], int), np.empty((0, 2))), "accuracy", None, SHARES).offsets == [0, 0]


def test_an_answer_has_the_probability_of_its_class_however_low() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [np.nan, np.nan], [0.99, 0.01]], np.float32)
    answers = Answers(HAT, np.array([1, 1, 1, 0]), probabilities, [0.5, 0.2], decision=[0.0, 2.5])
    assert answers.predicted.tolist() == [1, 1, 2, 0]
    np.testing.assert_allclose(answers.confidence, [0.1, 0.4, np.nan, 0.99], rtol=1e-6)
    assert answers.answered.tolist() == [False, True, False, True]
    assert answers.right.tolist() == [True, True, False, True]


def test_no_answer_is_less_probable_than_the_lowest_confidence() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        offsets = random.normal(0, 2, 3).tolist()
        lowest = lowest_confidence(COLOR, offsets)
        _, confidence = decided(random.dirichlet(np.ones(3), 2000), offsets)
        assert confidence.min() >= lowest
        at_the_edge = np.exp(-np.array(offsets)) / np.exp(-np.array(offsets)).sum()
        assert at_the_edge.min() == pytest.approx(lowest)
    assert lowest_confidence(COLOR, [0, 0, 0]) == pytest.approx(1 / 3)


def test_how_an_answer_is_chosen_is_said_in_words() -> None:
    assert in_words(HAT, [0, 0]) == in_words(COLOR, ()) == "the most probable class"
    assert in_words(HAT, [0, np.log(4)]) == "bowler from a probability of 0.2 on, else none"
    assert in_words(HAT, [0, -np.log(4)]) == "none from a probability of 0.2 on, else bowler"


def promise(answers: Answers, wanted: float) -> tuple[object, npt.NDArray[np.bool_]]:
    found = choose_abstentions(
        answers.confidence, answers.predicted, answers.right, wanted, np.ones(len(answers.attribute.classes), bool)
    )
    kept = Answers(answers.attribute, answers.labels, answers.probabilities, found.threshold, decision=answers.decision)
    assert found.coverage == kept.answered.mean()
    return found.threshold, kept.answered


def test_the_answers_of_a_rare_class_are_as_accurate_as_promised() -> None:
    """All together reach .97 without a threshold, those of the rare class alone do not; new images are the judge."""
    before, after = [], []
    for seed in range(20):
        answers, later = rare(4000, seed, distance=2.5), rare(20_000, seed + 50, distance=2.5)
        assert answers.right.mean() >= 0.97
        threshold, _ = promise(answers, 0.97)
        assert isinstance(threshold, list)
        assert threshold[0] == 0 < threshold[1]
        kept = Answers(HAT, later.labels, later.probabilities, threshold)
        before.append(later.right[later.predicted == 1])
        after.append(kept.right[kept.answered & (kept.predicted == 1)])
    assert np.concatenate(before).mean() < 0.85
    assert np.concatenate(after).mean() > 0.95


def test_classes_that_keep_the_promise_have_one_threshold() -> None:
    labels = np.repeat([0, 1], [380, 20])
    probabilities = np.where(labels[:, None] == np.arange(2), 0.97, 0.03)  # less sure than right, as few labels make it
    assert promise(Answers(HAT, labels, probabilities), 0.99)[0] == 0


def test_the_confidence_speaks_for_a_class_with_few_answers() -> None:
    """Three right ones of three prove no .99, so what is not that sure is withheld; a class never answered likewise."""
    labels = np.repeat([0, 1], [397, 3])
    sure = np.full(400, 0.995)
    sure[397:] = (0.7, 0.8, 0.995)
    probabilities = np.where(labels[:, None] == np.arange(3), sure[:, None], (1 - sure[:, None]) / 2)
    threshold, given = promise(Answers(COLOR, labels, probabilities), 0.99)
    assert threshold == [0, 0.995, 0.99]
    assert given.sum() == 398


def test_with_hardly_a_label_no_class_abstains() -> None:
    answers = rare(MIN_ANSWERS - 1)
    assert promise(answers, 0.99)[0] == 0
    assert promise(rare(), 0)[0] == 0
