"""The release gate: what it measures, and whom it lets pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.releases import EQUAL, NO_MARGIN, RARE, START, called_worse, refused, sink
from stages.archive.gate import (
    Comparison,
    GateVerdict,
    apply_gate,
    chance,
    compare,
    interval,
    means_by_metric,
    paired_bootstrap,
)
from stages.archive.meeting import IncomparableError, load_released
from stages.common.inference.answers import answers_of, right_answers
from stages.common.inference.measures import METRICS, Cells, Metric, cells_of
from stages.common.inference.onnx_model import load
from stages.common.schema.statistics import holm
from tests.common.onnx_models import METADATA, PREPROCESSING, save_model
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES

pytestmark = pytest.mark.slow


Right = npt.NDArray[np.float64]


def labels_like(right: Right) -> npt.NDArray[np.int16]:
    """Labels of two classes, that of every second image the second."""
    return np.where(np.isnan(right), -1, np.arange(len(right))[:, None] % 2).astype(np.int16)


def measured(right: Right, metric: Metric = "accuracy") -> GateVerdict:
    """A candidate that has met nobody."""
    return GateVerdict(metric, means_by_metric(right, labels_like(right)), (0.9, 1.0))


def against(name: str, candidate: Right, version: Right, metric: Metric = "accuracy") -> Comparison:
    return compare(SAMPLE_ATTRIBUTES, metric, labels_like(candidate), name, candidate, version)


def accuracies(right: Right) -> Cells:
    return cells_of(right, labels_like(right), "accuracy")


def answers(count: int, wrong: int, attribute: int = 0) -> Right:
    """All right but for the first `wrong` images of one attribute."""
    right = np.ones((count, len(SAMPLE_NAMES)))
    right[:wrong, attribute] = 0
    return right


def test_an_unknown_label_is_no_answer_and_a_nan_is_a_wrong_one() -> None:
    labels = np.array([[0] * 5, [-1] * 5, [1] * 5], np.int8)
    probabilities = {
        attribute.name: np.tile(np.eye(len(attribute.classes), dtype=np.float32)[0], (3, 1))
        for attribute in SAMPLE_ATTRIBUTES
    }  # class 0
    probabilities["bow"][0] = np.nan
    right = right_answers(answers_of(SAMPLE_ATTRIBUTES, probabilities, labels=labels))
    assert np.isnan(right[1]).all()
    assert right[0].tolist() == [1, 1, 0, 1, 1]
    assert right[2].tolist() == [0] * 5
    assert accuracies(right).mean == pytest.approx(0.4)


def test_the_mean_is_of_the_attributes_that_have_labels() -> None:
    right = answers(10, 4)
    right[:, 1] = np.nan
    assert accuracies(right).mean == pytest.approx((0.6 + 3) / 4)
    assert np.isnan(accuracies(np.full((3, 5), np.nan)).mean)


def differing(better: int, worse: int, size: float = 1) -> npt.NDArray[np.float64]:
    """Answers that only the candidate has right, those that only the other has, and some that both have."""
    return np.repeat([size, -size, 0], [better, worse, 100])


def test_where_answers_count_alike_the_exact_binomial_probability_tells() -> None:
    assert chance(differing(0, 0)) == 1
    assert chance(differing(0, 5)) == chance(differing(0, 5, 1 / 7)) == pytest.approx(1 / 32)
    assert chance(differing(5, 5)) > 0.5


def test_images_that_belong_together_are_one_answer_in_test_and_interval() -> None:
    """Twelve pictures of four people that the candidate alone gets wrong: chance alone does that once in 16 times."""
    ours, theirs = answers(200, 12), answers(200, 0)
    people = np.concatenate([np.repeat(np.arange(4), 3), np.arange(4, 192)])
    met = {}
    for metric in METRICS:
        alone, together = (
            compare(SAMPLE_ATTRIBUTES, metric, labels_like(ours), "v1", ours, theirs, groups=groups)
            for groups in (None, people)
        )
        first = SAMPLE_NAMES[0]
        assert alone.attributes[first]["p"] < 0.05 < together.attributes[first]["p"]
        met[metric] = together.attributes[first]["p"]
        widths = [comparison.interval[1] - comparison.interval[0] for comparison in (alone, together)]
        assert widths[1] > 1.4 * widths[0]
    assert met["accuracy"] == pytest.approx(5 / 16)
    assert met["balanced_accuracy"] == pytest.approx(5 / 16, abs=0.05)


def test_equal_models_are_refused_no_more_often_than_said_where_people_have_several_pictures() -> None:
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(60), 5)
    called = np.zeros(2)
    for _ in range(300):
        # each model is right or wrong about a person, four times of five
        one, other = (
            np.where(rng.random(300) < 0.8, (rng.random(60) < 0.8)[people], rng.random(300) < 0.8).astype(float)
            for _ in range(2)
        )
        called += [chance(one - other) < 0.05, chance(np.bincount(people, one - other).astype(np.float64)) < 0.05]
    assert called[1] <= 25  # of 300; 15 are expected at most, 26 or more have a probability of .005
    assert called[0] > 2 * called[1]


def test_the_interval_of_equal_models_is_zero_and_that_of_a_better_one_lies_above() -> None:
    weak, good = answers(200, 40), answers(200, 0)
    for metric in METRICS:
        ours, theirs = (cells_of(right, labels_like(right), metric) for right in (good, weak))
        assert paired_bootstrap(theirs, theirs, np.arange(200)) == (0, 0)
        low, high = paired_bootstrap(ours, theirs, np.arange(200))
        assert 0 < low < 0.04 < high  # 40 of 1,000 answers


def test_the_bootstrap_agrees_with_the_binomial_standard_error() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random((400, 5)) < 0.9).astype(float)
    low, high = interval(accuracies(right), np.arange(400))
    assert (high - low) / (2 * 1.96) == pytest.approx(np.sqrt(0.9 * 0.1 / 2000), rel=0.15)


def everywhere(count: int, wrong: int) -> Right:
    """(N, 5) answers of which `wrong` are wrong in every attribute, each time in other images."""
    right = np.ones((count, 5))
    for column in range(5):
        right[wrong * column : wrong * (column + 1), column] = 0
    return right


@pytest.mark.parametrize(
    ("candidate", "champion", "fit", "words"),
    [
        (answers(200, 0), answers(200, 20), True, "not significantly worse than v1"),
        (answers(200, 3), answers(200, 0), True, "not significantly worse than v1"),  # 3 of 3: p .125
        (answers(200, 12), answers(200, 0), False, "worse than v1 in bag: 12 answers worse, 0 better"),
        (answers(200, 12, 4), answers(200, 40, 0), False, "worse than v1 in coat length"),  # although better on average
        (answers(200, 200), answers(200, 200), False, "mean accuracy 0.8000 is below monitor.min_accuracy (0.85)"),
        (np.zeros((200, 5)), answers(200, 0), False, "mean accuracy 0.0000 is below"),
        (
            everywhere(200, 6),
            everywhere(200, 1)[::-1],
            False,
            "mean accuracy worse than that of v1: difference -0.0250",
        ),
    ],
)
def test_whom_the_gate_lets_pass(candidate: Right, champion: Right, fit: bool, words: str) -> None:
    found = replace(measured(candidate), champion=against("v1", candidate, champion))
    verdict = apply_gate(found, 0.85, 0.05, 0.01)
    assert verdict.fit is fit
    assert words in "; ".join(verdict.reasons)


def test_the_first_version_needs_the_least_accuracy_alone() -> None:
    for metric in METRICS:
        assert apply_gate(measured(everywhere(100, 14), metric), 0.85, 0.05, 0.01).fit
        assert not apply_gate(measured(everywhere(100, 16), metric), 0.85, 0.05, 0.01).fit
        assert not apply_gate(measured(np.full((9, 5), np.nan), metric), 0.85, 0.05, 0.01).fit


def test_what_cannot_be_compared_is_not_released() -> None:
    verdict = apply_gate(measured(answers(200, 0)), 0.85, 0.05, 0.01, ["it cannot be compared with v1"])
    assert (verdict.fit, verdict.reasons) == (False, ["it cannot be compared with v1"])


def test_equal_models_are_refused_no_more_often_than_said() -> None:
    """Five attributes at once, models that are right in 95 of 100 cases independently: at most some 5 % refused."""
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(200):
        one, other = ((rng.random((300, 5)) < 0.95).astype(float) for _ in range(2))
        chances = holm([chance(one - other) for one, other in zip(one.T, other.T, strict=True)])
        refused += min(chances) < 0.05
    assert refused <= 20  # of 200; 10 are expected at most, 20 or more have a probability of .003


def test_small_losses_of_many_releases_stay_near_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each candidate is .002 worse than the champion, which 200 test images do not show; bench/README.md has more."""
    monkeypatch.setattr("stages.archive.gate.RESAMPLES", 400)
    random = np.random.default_rng(0)
    ends = [sink(random, 0.01)[-1] for _ in range(5)]
    assert min(ends) >= START - 0.026  # without the best version .984 becomes .905
    assert sink(random, NO_MARGIN)[-1] < START - 0.06


def test_equal_and_better_candidates_are_seldom_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.archive.gate.RESAMPLES", 400)
    random = np.random.default_rng(0)
    champion = (START, START)
    assert refused(random, 0.01, champion, champion, 300)[0] <= 0.07  # some 3 % are expected
    assert refused(random, 0.01, (START + 0.005, START + 0.005), champion, 300)[0] <= 0.02  # less than 1 % are


def test_a_loss_in_one_attribute_is_seen_although_others_gain() -> None:
    """Against the best version: significantly worse there and by more than the margin, while the mean stays."""
    candidate, best = answers(200, 14, 0), answers(200, 20, 1)
    champion = answers(200, 12, 0)
    champion[100:102, 3] = 0  # as good as the candidate
    found = replace(
        measured(candidate),
        champion=against("v7", candidate, champion),
        best=against("v3", candidate, best),
    )
    assert apply_gate(found, 0.85, 0.05, 0.01).reasons == [
        "worse than v3 in bag: 14 answers worse, 0 better (p 0.00031)"
    ]
    assert apply_gate(found, 0.85, 0.05, 0.1).fit


def with_a_rare_class(lost: int, of_first: int = 0) -> tuple[Right, npt.NDArray[np.int16]]:
    """Answers to 200 images, 8 of which have the second class of the first attribute: so many of either are wrong."""
    labels = labels_like(np.ones((200, 5)))
    labels[:, 0] = np.arange(200) < 8
    right = np.ones((200, 5))
    right[:lost, 0] = 0
    right[100 : 100 + of_first, 0] = 0
    return right, labels


@pytest.mark.parametrize(
    ("candidate", "champion", "refused_by"),
    [((7, 0), (0, 9), "balanced_accuracy"), ((0, 20), (6, 0), "accuracy")],
    ids=["seven of the rare class lost for nine others", "six of it found for twenty others"],
)
def test_a_rare_class_counts_as_much_as_the_other_by_balanced_accuracy_alone(
    candidate: tuple[int, int], champion: tuple[int, int], refused_by: Metric
) -> None:
    (ours, labels), (theirs, _) = with_a_rare_class(*candidate), with_a_rare_class(*champion)
    for metric in METRICS:
        found = GateVerdict(metric, means_by_metric(ours, labels), (0, 1))
        met = compare(SAMPLE_ATTRIBUTES, metric, labels, "v1", ours, theirs)
        verdict = apply_gate(replace(found, champion=met), 0.5, 0.05, 1.0)
        assert verdict.fit is (metric != refused_by), verdict.reasons
        if metric == refused_by == "balanced_accuracy":
            why = "worse than v1 in bag: balanced accuracy 0.5625 against 0.9766, 7 answers worse, 9 better (p 0.0"
            assert why in verdict.reasons[0]


def test_drawn_probabilities_are_the_exact_ones_where_classes_are_almost_equally_frequent() -> None:
    for better, worse in ((2, 9), (5, 5), (0, 6), (20, 12)):
        exact, half = chance(differing(better, worse)), (better // 2, worse // 2)
        halves = differing(*half), differing(better - half[0], worse - half[1], 1 + 1e-14)
        assert chance(np.concatenate(halves)) == pytest.approx(exact, abs=0.015)


def test_equally_good_models_with_a_rare_class_are_called_worse_no_more_often_than_said() -> None:
    by_class, by_bootstrap = called_worse(np.random.default_rng(0), (193, 7), (0.99, 0.7), 400)
    assert by_class <= 0.075  # 5 % at most are expected, 7.5 % of 400 have a probability of .01
    assert by_bootstrap > by_class


def test_equal_and_better_candidates_are_seldom_refused_by_balanced_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.archive.gate.RESAMPLES", 400)
    random = np.random.default_rng(0)
    shares, champion = (*EQUAL[1:], RARE), (START, 0.7)
    (better,) = refused(random, NO_MARGIN, (START, 0.9), champion, 200, shares, metrics=["balanced_accuracy"])
    (equal,) = refused(random, NO_MARGIN, champion, champion, 200, shares, metrics=["balanced_accuracy"])
    assert better <= 0.02
    assert equal <= 0.1  # of five tests of attributes, and one of the mean


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"version": 3}, r"which this code cannot use \(its model has another preprocessing .*version.*train again\)$"),
        ({"near_white": 200}, r"whose images are prepared differently \(.*near_white=200.*\)$"),
    ],
    ids=["of earlier code", "with other parameters"],
)
def test_a_champion_that_cannot_be_compared_ends_no_run(changed: dict[str, Any], why: str, tmp_path: Path) -> None:
    candidate = load(save_model(tmp_path / "candidate.onnx", METADATA))
    champion = save_model(tmp_path / "champion.onnx", METADATA | {"preprocessing": PREPROCESSING | changed})
    with pytest.raises(IncomparableError, match=why):
        load_released(champion, candidate)
    assert load_released(tmp_path / "candidate.onnx", candidate).preprocessing == candidate.preprocessing
