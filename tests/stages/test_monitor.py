"""Stage monitor: drift, performance, decision, and the log, on features made by hand."""

import csv
import itertools
import json
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages.common.checks.suite import findings, load_suite, run_suite
from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.contract.data_folder import OURS
from stages.common.contract.run import RUN
from stages.common.images.statistics import STATISTICS
from stages.common.inference.answers import answers_of
from stages.common.inference.expected import trust, write_trust
from stages.common.inference.features import Features, join_features
from stages.common.inference.measures import METRICS
from stages.common.inference.partitions import PARTITIONS, count, expected_weights, partition_of, partitions, signals
from stages.common.registry.champion import Champion
from stages.common.registry.monitor_settings import MonitorSection
from stages.common.registry.seen import SEEN
from stages.common.schema.attributes import Attribute, Attributes, names, write_attributes
from stages.common.schema.statistics import wilson
from stages.monitor import monitoring_log
from stages.monitor.decision import decide
from stages.monitor.drift import ALL, FOUND, NONE, NOT_ENOUGH, Drift, Signal, chance, find_drift
from stages.monitor.expectations import SUITE, thresholds
from stages.monitor.monitoring_log import LOG, Check, append_check, read_log
from stages.monitor.new_images import NewImages
from stages.monitor.performance import LOW, OK, Performance, measure, summarise
from stages.monitor.plots import draw_signal
from stages.monitor.stage import STAGE
from stages.monitor.unlabelled import find_unlabelled
from stages.monitor.words import explain
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES

pytestmark = pytest.mark.slow

SETTINGS = MonitorSection(min_accuracy=0.85, min_labels=50, min_images=50, alpha=0.01, min_psi=0.2)


def make(
    images: int,
    seed: int = 0,
    lot: str = "r",
    shift: Mapping[str, float] | None = None,
    classes: Mapping[str, int] | None = None,
    moved: float = 0.0,
) -> Features:
    """Features of images that differ by chance alone.

    Args:
        images: how many.
        seed: of the chance.
        lot: of their names.
        shift: statistic -> what is added to its values, whose deviation is 1.
        classes: attribute -> the class that all of them have.
        moved: added to the embeddings, whose deviation is 1.
    """
    random = np.random.default_rng(seed)
    answers = {attribute.name: random.integers(0, len(attribute.classes), images) for attribute in SAMPLE_ATTRIBUTES}
    answers |= {name: np.full(images, number) for name, number in (classes or {}).items()}
    probabilities = {}
    for attribute in SAMPLE_ATTRIBUTES:
        confidence = random.uniform(0.7, 1, images)
        rest = (1 - confidence) / (len(attribute.classes) - 1)
        values = np.repeat(rest[:, None], len(attribute.classes), axis=1)
        values[np.arange(images), answers[attribute.name]] = confidence
        probabilities[attribute.name] = values.astype(np.float32)
    return Features(
        filenames=[f"{lot}_{number}.png" for number in range(images)],
        statistics={
            name: (random.normal(size=images) + (shift or {}).get(name, 0)).astype(np.float32) for name in STATISTICS
        },
        embeddings=(random.normal(size=(images, 6)) + moved).astype(np.float32),
        probabilities=probabilities,
        examples=random.integers(0, 255, (min(images, 4), 16, 16, 3), np.uint8),
        example_names=[f"{lot}_{number}.png" for number in range(min(images, 4))],
        pictures=np.random.default_rng([seed, *lot.encode()]).integers(1 << 63, size=images, dtype=np.uint64),
    )


REFERENCE = make(250)


def check_drift(*lots: Features, settings: MonitorSection = SETTINGS) -> Drift:
    return find_drift(SAMPLE_ATTRIBUTES, REFERENCE, {f"s{number}": lot for number, lot in enumerate(lots, 3)}, settings)


def of(drift: Drift, signal: str, lot: str = "s3") -> Signal:
    return next(test for test in drift.tests if (test.signal, test.lot) == (signal, lot))


def test_clean_lots_show_no_drift() -> None:
    drift = check_drift(make(100, 1), make(100, 2))
    assert drift.verdict == NONE
    assert drift.lots == {"s3": NONE, "s4": NONE, ALL: NONE}
    assert not drift.concerned


def test_false_alarms_are_as_rare_as_alpha_says() -> None:
    anyhow = SETTINGS.model_copy(update={"alpha": 0.05, "min_psi": 0.0})
    alarms = sum(
        find_drift(
            SAMPLE_ATTRIBUTES,
            make(250, 1000 + seed),
            {"s3": make(60, 2000 + seed), "s4": make(60, 3000 + seed)},
            anyhow,
        ).verdict
        == FOUND
        for seed in range(60)
    )
    assert alarms <= 6  # 3 expected at most


@pytest.mark.parametrize(
    ("changed", "signal"),
    [
        (make(100, 1, shift={"brightness": -1.0}), "brightness"),
        (make(100, 1, moved=1.0), "embedding_"),
        (make(100, 1, classes={"coat_color": 3}), "coat_color_predicted"),
        (make(100, 1, classes={"bow": 0}), "bow_predicted"),
    ],
)
def test_what_moved_is_found_and_named(changed: Features, signal: str) -> None:
    drift = check_drift(changed)
    moved = [test.signal for test in drift.tests if test.drifted]
    assert drift.verdict == FOUND
    assert moved
    assert all(name.startswith(signal) for name in moved)


def test_confidences_that_fall_are_found() -> None:
    lot = make(100, 1)
    unsure = lot.probabilities["bag"] * 0.4 + 0.3
    assert of(check_drift(Features(**{**vars(lot), "probabilities": {**lot.probabilities, "bag": unsure}})),
              "bag_confidence").drifted  # fmt: skip


def test_one_drifted_lot_among_many_is_not_diluted() -> None:
    clean = [make(100, seed) for seed in range(1, 10)]
    drift = check_drift(*clean, make(60, 99, shift={"contrast": 1.2}))
    assert drift.concerned == ["s12"]
    assert not of(drift, "contrast", ALL).drifted


def test_a_drift_that_only_all_lots_together_show_concerns_them_all() -> None:
    lots = [make(20, seed, shift={"warmth": 0.8}) for seed in range(1, 9)]
    drift = check_drift(*lots)
    assert set(drift.lots.values()) == {NOT_ENOUGH, FOUND}
    assert drift.concerned == [ALL]


def test_a_change_that_is_certain_but_small_is_no_drift() -> None:
    test = of(find_drift(SAMPLE_ATTRIBUTES, make(4000), {"s3": make(4000, 1, shift={"white": 0.2})}, SETTINGS), "white")
    assert test.p_corrected is not None
    assert test.p_corrected < 1e-6
    assert not test.drifted


@pytest.mark.parametrize("images", [0, 1, 49])
def test_too_few_images_are_not_enough_data(images: int) -> None:
    drift = check_drift(make(images, 1, shift={"brightness": 9}))
    assert (drift.verdict, drift.lots["s3"]) == (NOT_ENOUGH, NOT_ENOUGH)
    assert not any(test.p is not None or test.drifted for test in drift.tests)


@pytest.mark.parametrize("images", [0, 1, 49])
def test_a_small_reference_is_not_enough_data(images: int) -> None:
    assert find_drift(SAMPLE_ATTRIBUTES, make(images), {"s3": make(100, 1)}, SETTINGS).verdict == NOT_ENOUGH


def test_a_picture_a_hundred_times_is_one_image() -> None:
    lot = make(1, 1, shift={"brightness": 9})
    hundred = Features(
        [f"s3_{number}.png" for number in range(100)],
        {name: np.repeat(values, 100) for name, values in lot.statistics.items()},
        np.repeat(lot.embeddings, 100, axis=0),
        {name: np.repeat(values, 100, axis=0) for name, values in lot.probabilities.items()},
        lot.examples,
        lot.example_names,
    )
    assert check_drift(hundred).verdict == NOT_ENOUGH


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_a_statistic_that_is_constant_or_no_number_is_not_enough_data(value: float) -> None:
    lot = make(100, 1)
    drift = check_drift(
        Features(**{**vars(lot), "statistics": {**lot.statistics, "white": np.full(100, value, np.float32)}})
    )
    assert of(drift, "white").p is None
    assert of(drift, "white").note
    assert drift.lots["s3"] == NONE  # the other signals were tested


def test_a_model_without_numbers_is_not_enough_data() -> None:
    lot = make(100, 1)
    nothing = Features(
        lot.filenames,
        {name: np.full(100, np.nan, np.float32) for name in lot.statistics},
        np.full_like(lot.embeddings, np.nan),
        {name: np.full_like(values, np.nan) for name, values in lot.probabilities.items()},
        lot.examples,
        lot.example_names,
    )
    assert check_drift(nothing).verdict == NOT_ENOUGH


def test_a_class_that_neither_side_lacks_nor_varies_says_nothing() -> None:
    drift = find_drift(
        SAMPLE_ATTRIBUTES, make(100, classes={"bag": 0}), {"s3": make(100, 1, classes={"bag": 0})}, SETTINGS
    )
    assert of(drift, "bag_predicted").p is None
    assert of(drift, "bag_predicted").note


def test_a_statistic_that_only_one_side_has_does_not_matter() -> None:
    lot = make(100, 1)
    fewer = Features(**{**vars(REFERENCE), "statistics": {"brightness": REFERENCE.statistics["brightness"]}})
    tested = {test.signal for test in find_drift(SAMPLE_ATTRIBUTES, fewer, {"s3": lot}, SETTINGS).tests}
    assert tested & set(STATISTICS) == {"brightness"}


def test_cells_of_numbers_hold_a_tenth_each_and_of_ties_none_is_empty() -> None:
    values = pd.Series(np.arange(100.0))
    partition = partition_of(values)
    assert partition
    assert count(values, partition).tolist() == [10] * 10
    assert expected_weights(partition).sum() == pytest.approx(1)
    for tied in ([0.0] * 95 + [1, 2, 3, 4, 5], [1.0] * 95 + [0, 0.1, 0.2, 0.3, 0.4], [0.0, 1.0]):
        found = partition_of(pd.Series(tied))
        assert found
        assert np.diff(found["bins"]).min() > 0
        assert count(pd.Series(tied), found)[-1] > 0
    assert partition_of(pd.Series([1.0, 1.0])) is None
    assert partition_of(pd.Series([], dtype="float64")) is None


def test_partitions_are_json_and_leave_out_what_tells_nothing() -> None:
    lot = make(100)
    statistics = {**lot.statistics, "white": np.full(100, np.nan, np.float32)}
    found = partitions(SAMPLE_ATTRIBUTES, Features(**{**vars(lot), "statistics": statistics}))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["columns"]) == set(signals(SAMPLE_ATTRIBUTES, lot)) - {"white"}


def test_chance_is_what_psi_is_without_drift() -> None:
    means = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        then, now = random.multinomial(2000, [0.1] * 10) / 2000, random.multinomial(1000, [0.1] * 10) / 1000
        means.append(((then - now) * np.log(then / now)).sum())
    assert np.mean(means) == pytest.approx(chance(10, 2000, 1000), rel=0.15)


def labels_of(features: Features, right: float, known: int | None = None) -> dict[int, Any]:
    """Labels with which the answers to the first `right` of the images are right, and of `known` images only."""
    answers = np.stack([features.probabilities[name].argmax(axis=1) for name in SAMPLE_NAMES], axis=1)
    wrong = np.arange(len(features)) >= right * len(features)
    answers[wrong] = (answers[wrong] + 1) % [len(attribute.classes) for attribute in SAMPLE_ATTRIBUTES]
    return dict(list(zip(features.pictures.tolist(), answers.astype(np.int16), strict=True))[:known])


def check_accuracy(*lots: tuple[Features, Mapping[int, Any]]) -> Performance:
    labels = {name: label for _, known in lots for name, label in known.items()}
    return measure(
        SAMPLE_ATTRIBUTES,
        {f"s{number}": lot for number, (lot, _) in enumerate(lots, 3)},
        labels,
        SETTINGS,
        SAMPLE_NAMES,
    )


def test_labels_of_an_attribute_that_the_model_never_answers_measure_nothing() -> None:
    lot = make(100, 1, "s3")
    labels = labels_of(lot, 1)
    silent = {**lot.probabilities, "bag": np.full((100, 2), np.nan, np.float32)}
    features = Features(**{**vars(lot), "probabilities": silent})
    found = measure(SAMPLE_ATTRIBUTES, {"s3": features}, labels, SETTINGS, features.answered).total
    assert (found.attributes["bag"].labels, found.attributes["bag"].value) == (0, None)
    assert found.mean.value == 1


@pytest.mark.parametrize(("right", "verdict"), [(1.0, OK), (0.86, OK), (0.84, LOW)])
def test_the_mean_itself_decides_of_all_labels(right: float, verdict: str) -> None:
    lot = make(100, 1, "s3")
    found = check_accuracy((lot, labels_of(lot, right)))
    assert found.verdict == verdict
    assert found.total.mean.value == pytest.approx(right)
    assert found.concerned == ([ALL] if verdict == LOW else [])


@pytest.mark.parametrize("known", [0, 1, 49])
def test_too_few_labels_are_not_enough_data(known: int) -> None:
    lot = make(100, 1, "s3")
    found = check_accuracy((lot, labels_of(lot, 0.0, known)))
    assert (found.verdict, found.total.mean.value, found.concerned) == (NOT_ENOUGH, None, [])


def test_an_attribute_with_few_labels_is_left_out_of_the_mean() -> None:
    lot = make(100, 1, "s3")
    labels = labels_of(lot, 1.0)
    for name in list(labels)[:60]:
        labels[name][SAMPLE_NAMES.index("bow")] = -1
    total = check_accuracy((lot, labels)).total
    assert total.attributes["bow"].labels == 40
    assert total.attributes["bow"].value is None
    assert total.mean.labels == 400


def test_a_low_lot_among_good_ones_is_named_if_it_is_certain() -> None:
    lots = [make(100, seed, f"s{seed}") for seed in range(3, 13)]
    good = [(lot, labels_of(lot, 1.0)) for lot in lots]
    assert check_accuracy(*good[:-1], (lots[-1], labels_of(lots[-1], 0.5))).concerned == ["s12"]
    assert check_accuracy(*good[:-1], (lots[-1], labels_of(lots[-1], 0.83))).verdict == OK


def test_a_good_lot_that_joins_a_weak_one_makes_no_other_finding() -> None:
    weak, good = make(100, 3, "s3"), make(20, 4, "s4")
    alone = check_accuracy((weak, labels_of(weak, 0.83)))
    joined = check_accuracy((weak, labels_of(weak, 0.83)), (good, labels_of(good, 0.9)))
    assert alone.verdict == joined.verdict == LOW
    assert alone.concerned == joined.concerned


def test_an_answer_that_is_no_number_is_wrong() -> None:
    lot = make(100, 1, "s3")
    broken = {**lot.probabilities, "bag": np.full((100, 2), np.nan, np.float32)}
    found = check_accuracy((Features(**{**vars(lot), "probabilities": broken}), labels_of(lot, 1.0)))
    assert found.total.attributes["bag"].value == 0
    assert found.total.mean.value == pytest.approx(0.8)


def test_intervals() -> None:
    same = np.repeat((np.arange(100) < 90)[:, None], 5, axis=1).astype(float)  # five answers that go together
    apart = np.stack([np.roll(same[:, 0], 20 * column) for column in range(5)], axis=1)
    none = np.zeros((100, 5), int)
    together, single = (summarise(SAMPLE_ATTRIBUTES, answers, none, 50).mean for answers in (same, apart))
    assert (together.low, together.high) == pytest.approx(wilson(0.9, 100))
    assert together.low is not None
    assert single.low is not None
    assert single.low > together.low
    sure = summarise(SAMPLE_ATTRIBUTES, np.ones((100, 5)), none, 50).mean
    assert (sure.low, sure.high) == pytest.approx(wilson(1, 100))


def rare_labels(images: int, rare: int) -> np.ndarray[Any, Any]:
    """(N, 5) labels: of every attribute so many images have the second class."""
    return np.repeat((np.arange(images) < rare)[:, None], 5, axis=1).astype(np.int16)


def test_by_balanced_accuracy_a_rare_class_counts_as_much_and_its_labels_say_how_sure_it_is() -> None:
    right, labels = np.ones((1000, 5)), rare_labels(1000, 40)
    right[:20] = 0
    found = summarise(SAMPLE_ATTRIBUTES, right, labels, 50, "balanced_accuracy").mean
    assert found.value == pytest.approx((1 + 0.5) / 2)
    assert found.labels == 5000
    assert found.low is not None
    assert found.high is not None
    deviation = np.sqrt(0.5 * 0.5 / 40) / 2  # of half a recall of .5 of 40 images, which err in all attributes
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    few = summarise(SAMPLE_ATTRIBUTES, right[:, :], rare_labels(1000, 12), 50, "balanced_accuracy").mean
    assert few.value is None  # 12 and 988 labels tell as much as 47 of equally frequent classes
    assert summarise(SAMPLE_ATTRIBUTES, right, rare_labels(1000, 13), 50, "balanced_accuracy").mean.value is not None


def test_intervals_of_balanced_accuracy_hold_the_true_one() -> None:
    """Of 300 draws of 400 images, 20 of them of a rare class that is found in 6 of 10 cases: 95 % are to be inside."""
    random, inside = np.random.default_rng(0), 0
    labels = rare_labels(400, 20)
    for _ in range(300):
        ease = random.standard_normal((400, 1)) * 0.7 + random.standard_normal((400, 5)) * 0.714
        right = (ease < np.array([1.645, 0.2533])[labels]).astype(float)  # .95 and .6
        found = summarise(SAMPLE_ATTRIBUTES, right, labels, 50, "balanced_accuracy").mean
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= (0.95 + 0.6) / 2 <= found.high
    assert 276 <= inside <= 297


def test_the_metric_decides_what_is_low() -> None:
    lot = make(1000, 1, "s3", classes=dict.fromkeys(SAMPLE_NAMES, 0))  # whatever it sees, it says the first class
    labels = dict(zip(lot.pictures.tolist(), rare_labels(1000, 40), strict=True))
    by = {metric: measure(SAMPLE_ATTRIBUTES, {"s3": lot}, labels, SETTINGS, SAMPLE_NAMES, metric) for metric in METRICS}
    assert {metric: found.verdict for metric, found in by.items()} == {"accuracy": OK, "balanced_accuracy": LOW}
    for found in by.values():
        means = {"mean_accuracy": 0.96, "mean_balanced_accuracy": 0.5, "mean_majority": 0.96}
        assert found.means == pytest.approx(means)
        assert found.measures["bag"]["per_class"][1]["recall"] == 0


CHAMPION = Champion("v3", "k" * 64, 0.97, frozenset({"s1", "s2"}), SAMPLE_ATTRIBUTES, Path("m"), Path("r"))


@pytest.mark.parametrize("right", [1.0, 0.5])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_the_decision(right: float, shift: float) -> None:
    lots = {"s3": make(100, 1, "s3"), "s4": make(100, 2, "s4", shift={"brightness": shift})}
    labels = labels_of(lots["s3"], 1.0) | labels_of(lots["s4"], right)
    new = NewImages(lots, {"s1": 60, "s3": 0, "s4": 7})
    decision = decide(
        CHAMPION,
        new,
        measure(SAMPLE_ATTRIBUTES, lots, labels, SETTINGS, SAMPLE_NAMES),
        find_drift(SAMPLE_ATTRIBUTES, REFERENCE, lots, SETTINGS),
        find_unlabelled(SAMPLE_ATTRIBUTES, lots, labels, {}),
        SETTINGS.min_accuracy,
    )
    assert decision["expected"] == {"images": 0, "mean_accuracy": None, "low": None, "high": None, "lots": []}
    assert (decision["lots"], decision["seen"]["s4"]) == ({"s3": 100, "s4": 100}, 7)
    low, drifted = (["s4"] if right < 1 else []), (["s4"] if shift else [])
    assert decision["performance"]["verdict"] == (LOW if low else OK)
    assert decision["drift"]["verdict"] == (FOUND if drifted else NONE)
    assert decision["retrain"] == bool(low or drifted)
    expected = {"champion": "v3", "performance": low, "drift": drifted, "labelled": {"s4": 100}}
    assert decision["cause"] == (expected if decision["retrain"] else None)
    assert bool(decision["cause_id"]) == decision["retrain"]


@pytest.mark.parametrize(
    ("lots", "labelled", "asked"),
    [
        ({"s3": 0.99, "s4": 0.6}, [], ["s4"]),
        ({"s3": 0.99, "s4": 0.6}, ["s4"], []),
        ({f"s{number}": 0.8 for number in range(3, 11)}, [], [ALL]),  # of a single lot chance may have made it
        ({"s3": 0.99, "s4": 0.99}, [], []),
    ],
)
def test_labels_are_asked_for_where_the_expected_accuracy_is_low_and_there_are_none(
    lots: Mapping[str, float], labelled: list[str], asked: list[str]
) -> None:
    def sure(images: int, seed: int, share: float) -> Features:
        lot = make(images, seed)
        for attribute in SAMPLE_ATTRIBUTES:
            values, rest = lot.probabilities[attribute.name], (1 - share) / (len(attribute.classes) - 1)
            lot.probabilities[attribute.name][:] = np.where(values == values.max(axis=1, keepdims=True), share, rest)
        return lot

    new = {lot: sure(60, seed, share) for seed, (lot, share) in enumerate(lots.items(), 1)}
    test = sure(2000, 0, 0.9)
    kept = labels_of(test, 0.9)
    known = np.array([kept[picture] for picture in test.pictures.tolist()])
    trusts = trust(answers_of(SAMPLE_ATTRIBUTES, test.probabilities, labels=known))
    labels = {picture: label for lot in labelled for picture, label in labels_of(new[lot], 1.0, 1).items()}
    found = find_unlabelled(SAMPLE_ATTRIBUTES, new, labels, trusts)
    assert found.images == 60 * len(lots) - len(labels)
    performance = measure(SAMPLE_ATTRIBUTES, new, labels, SETTINGS, SAMPLE_NAMES)
    drift = Drift(NONE, {}, [], [], pd.DataFrame(), {})
    decision = decide(CHAMPION, NewImages(new, {}), performance, drift, found, SETTINGS.min_accuracy)
    assert decision["labels_needed"] == asked
    assert not decision["retrain"]
    balanced = replace(performance, metric="balanced_accuracy")  # of which nothing is expected
    decision = decide(CHAMPION, NewImages(new, {}), balanced, drift, found, SETTINGS.min_accuracy)
    assert decision["labels_needed"] == []


def decided(
    folder: Path, drift: list[str] | None = None, low: list[str] | None = None, champion: str = "v3", labels: int = 9
) -> Path:
    """An artifact with a decision; of every lot concerned so many images are labelled."""
    folder.mkdir(parents=True, exist_ok=True)
    labelled = dict.fromkeys([*(drift or []), *(low or [])], labels)
    cause = {"champion": champion, "performance": low or [], "drift": drift or [], "labelled": labelled}
    retrain = bool(drift or low)
    decision = {
        "champion": champion,
        "lots": {"s3": 100},
        "performance": {"verdict": "low" if low else "ok", "mean_accuracy": 0.9, "low": 0.8, "high": 0.95,
                        "labels": 100, "lots": low or []},
        "drift": {"verdict": "found" if drift else "none", "lots": drift or [], "tests": 26, "signals": [
            {"lot": "s3", "signal": "white", "moved": "", "then": 1.0, "now": 2.0, "psi": 0.3, "distance": 0.4,
             "p_corrected": 0.001, "drifted": True}]},
        "retrain": retrain,
        "cause": cause if retrain else None,
        "cause_id": artifacts.json_digest(cause)[:12] if retrain else "",
    }  # fmt: skip
    (folder / "decision.json").write_text(json.dumps(decision))
    return folder


def retrains(log: Path, folder: Path, *causes: tuple[list[str], list[str]], champion: str = "v3") -> list[str]:
    """Decisions of checks of (drift, low), one after the other."""
    return [
        str(append_check(log, decided(folder, drift, low, champion), f"{number}")["retrain"])
        for number, (drift, low) in enumerate(causes)
    ]


def test_the_same_cause_leads_to_one_training(tmp_path: Path) -> None:
    log = tmp_path / "logs" / LOG
    log.parent.mkdir()
    found = retrains(log, tmp_path / "a", (["s4"], []), (["s4"], []), ([], []), (["s4"], []))
    assert found == ["yes", "no", "no", "no"]
    assert [check.repeated for check in read_log(log)] == [False, True, False, True]


def test_another_lot_another_kind_and_another_champion_are_other_causes(tmp_path: Path) -> None:
    log, folder = tmp_path / LOG, tmp_path / "a"
    found = retrains(log, folder, (["s4"], []), (["s4", "s5"], []), (["s5"], []), ([], ["s4"]))
    assert found == ["yes", "yes", "no", "yes"]
    assert retrains(log, folder, (["s4", "s5"], ["s4"])) == ["no"]
    assert retrains(log, folder, (["s4"], []), champion="v4") == ["yes"]


def test_further_labels_of_a_lot_are_another_cause(tmp_path: Path) -> None:
    log, folder = tmp_path / LOG, tmp_path / "a"
    asked = [
        append_check(log, decided(folder, drift, labels=labels), f"{drift}{labels}")["retrain"]
        for drift, labels in ((["all"], 9), (["all"], 9), (["all"], 30), (["all"], 20), (["all", "s4"], 30))
    ]
    assert asked == ["yes", "no", "yes", "no", "yes"]


def test_a_check_that_is_tried_again_gets_its_first_answer(tmp_path: Path) -> None:
    log, artifact = tmp_path / LOG, decided(tmp_path / "a", ["s4"])
    assert append_check(log, artifact, "k", "monday")["retrain"] == "yes"
    assert append_check(log, artifact, "k", "monday")["retrain"] == "yes"
    assert append_check(log, artifact, "k", "next monday")["retrain"] == "no"
    assert [check.run for check in read_log(log)] == ["monday", "next monday"]


def test_a_torn_line_spoils_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / LOG
    assert retrains(log, tmp_path / "a", (["s4"], [])) == ["yes"]
    whole = log.read_bytes()
    log.write_bytes(whole + whole[: len(whole) // 2])
    assert retrains(log, tmp_path / "a", (["s4"], [])) == ["no"]
    assert len(read_log(log)) == 2
    assert "line 2 cannot be read" in caplog.text
    assert log.read_bytes().startswith(whole)


def _append_many(log: Path, artifact: Path, who: str) -> None:
    for number in range(6):
        append_check(log, artifact, f"{who}{number}")


def test_two_writers_lose_nothing_and_one_training_comes_of_one_cause(tmp_path: Path) -> None:
    log, artifact = tmp_path / LOG, decided(tmp_path / "a", ["s4"])
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(log, artifact, who)) for who in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    checks = read_log(log)
    assert {check.key for check in checks} == {f"{who}{number}" for who in "ab" for number in range(6)}
    assert sum(check.retrain for check in checks) == 1


def finish(folder: Path, stage: str, **inputs: dict[str, str]) -> Path:
    key = artifacts.json_digest([stage, artifacts.list_files(folder)])
    artifacts.write_manifest(folder, stage=stage, key=key, inputs=inputs)
    return folder


def content_of(artifact: Path) -> str:
    return str(artifacts.read_manifest(artifact)["content"])


KNOWN = make(60, 77, "s1")
"""Images that the champion knows."""


@pytest.fixture
def monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Artifacts of champion, predict and validate as they are asked for, and the stage that is run on them."""

    def run(
        lots: Mapping[str, Features],
        labels: Mapping[int, Any] | None,
        version: str | None = "v3",
        other: str = "",
        attributes: Attributes = SAMPLE_ATTRIBUTES,
        *more: str,
    ) -> int:
        champion, predict, validate = (tmp_path / name for name in ("champion", "predict", "validate"))
        for folder in (champion / "reference", predict / "features", validate):
            folder.mkdir(parents=True, exist_ok=True)
        told = {"version": version, "model_digest": "k" * 64, "mean_accuracy": 0.97, "lots": ["s1", "s2"]}
        (champion / "champion.json").write_text(json.dumps(told if version else {"version": None}))
        if version:
            write_attributes(champion, SAMPLE_ATTRIBUTES)
        REFERENCE.save(champion / "reference" / "features.npz")
        right = labels_of(REFERENCE, 0.9)
        labelled = np.array([right[picture] for picture in REFERENCE.pictures.tolist()])
        write_trust(champion / "reference", answers_of(SAMPLE_ATTRIBUTES, REFERENCE.probabilities, labels=labelled))
        (champion / "reference" / PARTITIONS).write_text(json.dumps(partitions(SAMPLE_ATTRIBUTES, REFERENCE)))
        np.save(champion / "reference" / SEEN, np.sort(KNOWN.pictures))
        finish(champion, "champion")
        KNOWN.save(predict / "features" / "s1.npz")
        for lot, features in lots.items():
            features.save(predict / "features" / f"{lot}.npz")
        finish(predict, "predict", champion={"key": "k", "content": other or content_of(champion)})
        with (validate / "annotations.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("filename", "lot", "path", "digest", "pixels", "group", *names(attributes)))
            for picture, known in (labels or {}).items():
                cells = ["" if label < 0 else label for label in known]
                table.writerow(("x.png", "x", "x/x.png", "", f"{picture:016x}" + "0" * 16, "", *cells))
        write_attributes(validate, attributes)
        finish(validate, "validate")
        arguments = ["--champion", champion, "--predict", predict, "--logs", tmp_path / "logs",
                     "--store", tmp_path / "store", "--result", tmp_path / "result.json"]  # fmt: skip
        arguments += ["--validate", validate] if labels is not None else []
        return main(STAGE, [*map(str, arguments), *more])

    return run


def test_a_check_from_end_to_end(monitor: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lot = make(100, 1, "s4", shift={"brightness": -2.0})
    labels = labels_of(lot, 0.9)
    monkeypatch.setenv(RUN, json.dumps({"run_id": "one"}))
    known = KNOWN.take(np.arange(20))  # which lie in another lot as well
    assert monitor({"s3": join_features([make(80, 2, "s3"), known]), "s4": lot}, labels) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    headline = result["headline"]
    assert {name: headline[name] for name in ("performance", "drift", "new_lots", "images", "retrain", "repeated")} == {
        "performance": "ok", "drift": "found", "new_lots": 2, "images": 180, "retrain": "yes", "repeated": "no",
    }  # fmt: skip
    out = Path(result["path"])
    decision = json.loads((out / "decision.json").read_text())
    assert decision["cause"] == {"champion": "v3", "performance": [], "drift": ["s4"], "labelled": {"s4": 100}}
    assert (decision["lots"], decision["seen"]) == ({"s3": 80, "s4": 100}, {"s1": 60, "s3": 20, "s4": 0})
    report = (out / "report.html").read_text()
    assert "the images are much darker" in report
    assert "Reference: what the model was evaluated on" in report
    assert (out / "data_docs" / "drift" / "index.html").is_file()
    assert "brightness: mean far from the reference" in (out / "findings.csv").read_text()

    assert monitor({}, labels) == 0  # tried again
    again = json.loads((tmp_path / "result.json").read_text())
    assert (again["cached"], again["headline"]) == (True, headline)
    monkeypatch.setenv(RUN, json.dumps({"run_id": "two"}))
    assert monitor({}, labels) == 0
    later = json.loads((tmp_path / "result.json").read_text())
    assert (later["cached"], later["headline"]["retrain"]) == (True, "no")

    lines = (tmp_path / "logs" / LOG).read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        import_module("jsonschema").validate(json.loads(line), Check.model_json_schema())
    assert all(f"\n    {name} " in str(monitoring_log.__doc__) for name in Check.model_fields)


@pytest.mark.parametrize(("version", "lots"), [(None, {"s3": make(100, 1, "s3")}), ("v3", {})])
def test_without_champion_or_new_lots_there_is_nothing_to_monitor(
    monitor: Callable[..., int], tmp_path: Path, version: str | None, lots: Mapping[str, Features]
) -> None:
    assert monitor(lots, {}, version) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["headline"]["drift"] == result["headline"]["performance"] == "nothing to monitor"
    assert result["headline"]["retrain"] == "no"
    assert all(Path(output).exists() for output in result["outputs"].values())
    assert "Nothing to monitor" in Path(result["report"]).read_text()
    assert read_log(tmp_path / "logs" / LOG)[0].champion == version


@pytest.mark.parametrize("lot", ["s2", "s8", "all"])
def test_new_images_are_looked_at_whatever_lot_they_come_into(
    monitor: Callable[..., int], tmp_path: Path, lot: str
) -> None:
    come = make(120, 1, lot, shift={"brightness": -2.0, "sharpness": -2.0})
    known = KNOWN.take(np.arange(30))
    assert monitor({lot: join_features([known, come]) if lot != "s8" else come}, labels_of(come, 0.5)) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    found = json.loads(Path(result["outputs"]["decision"]).read_text())
    assert (found["performance"]["verdict"], found["drift"]["verdict"]) == ("low", "found")
    assert (found["lots"], found["drift"]["lots"], found["retrain"]) == ({lot: 120}, [lot], True)
    assert found["performance"]["mean_accuracy"] == pytest.approx(0.5)
    assert {signal["signal"] for signal in found["drift"]["signals"] if signal["drifted"]} == {
        "brightness",
        "sharpness",
    }
    assert not read_rows(result["outputs"]["to_label"])


def test_drift_of_images_without_labels_asks_for_labels_and_for_no_training(
    monitor: Callable[..., int], tmp_path: Path
) -> None:
    drifted, clean = make(100, 1, "s4", shift={"brightness": -2.0}), make(60, 2, "s3")
    assert monitor({"s3": clean, "s4": drifted}, labels_of(clean, 1.0, 40) | labels_of(KNOWN, 0.0)) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    headline = {name: result["headline"][name] for name in ("drift", "retrain", "labels_needed", "cause_id")}
    assert headline == {"drift": "found", "retrain": "no", "labels_needed": "yes", "cause_id": "none"}
    assert "Label images of lot s4 first" in Path(result["report"]).read_text()
    listed = read_rows(result["outputs"]["to_label"])
    assert [row["lot"] for row in listed] == ["s4"] * 100  # as many as are asked for, of the lot that needs some
    assert all(row["worth_labelling"] and not row["bag"] and row["bag_predicted"] for row in listed)
    expected = json.loads(Path(result["outputs"]["expected"]).read_text())
    assert {lot: estimate["images"] for lot, estimate in expected["lots"].items()} == {"s3": 20, "s4": 100}
    mean = expected["expected"]["mean"]
    assert mean["low"] < mean["value"] < mean["high"]
    assert mean["value"] == pytest.approx(0.9, abs=0.03)
    page = Path(result["report"]).read_text()
    assert "expected accuracy of 120 images without labels: " in page
    assert "), too high because of the drift. New images of lot s4 differ from the reference: the images are" in page
    assert " much darker. Label images of lot s4 first" in page
    assert "too high: drifted" in page
    assert read_log(tmp_path / "logs" / LOG)[0].labels_needed == ["s4"]
    assert monitor({}, labels_of(drifted, 1.0, 3)) == 0  # somebody has begun
    again = json.loads((tmp_path / "result.json").read_text())["headline"]
    assert (again["retrain"], again["labels_needed"]) == ("yes", "no")


def test_the_images_to_label_are_named_by_their_path_and_shown_as_far_as_they_are_there(
    monitor: Callable[..., int], tmp_path: Path
) -> None:
    raw, lot = tmp_path / "raw", make(60, 2, "s4")
    (raw / "later").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (300, 200), "red").save(raw / "later" / f"s4_{number}.png")
    (raw / "later" / "s4_3.png").write_bytes(b"no longer a picture")
    assert monitor({"s4": lot}, {}, "v3", "", SAMPLE_ATTRIBUTES, "--raw", str(raw), "--set", "to_label.images=60") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    listed = [row["filename"] for row in read_rows(result["outputs"]["to_label"])]
    assert sorted(listed) == sorted(
        [*(f"later/s4_{number}.png" for number in range(4)), *(f"s4_{number}.png" for number in range(4, 60))]
    )
    before, _, shown = Path(result["report"]).read_text().rpartition(">Worth labelling<")
    assert "on new labels</h2>" not in before  # without labels these tables would be empty
    assert (shown.count("data:image/jpeg"), shown.count("no picture")) == (3, 57)
    (raw / "later" / "s4_9.png").write_bytes(b"nor does another file change")
    assert monitor({"s4": lot}, {}, "v3", "", SAMPLE_ATTRIBUTES, "--raw", str(raw), "--set", "to_label.images=60") == 0
    assert json.loads((tmp_path / "result.json").read_text())["cached"]


def test_a_model_that_says_the_most_frequent_class_alone_is_no_better_which_is_said_first(
    monitor: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lot = make(1000, 1, "s3", classes={"bag": 0})
    labels = labels_of(lot, 1.0)
    for picture in list(labels)[:40]:
        labels[picture][0] = 1
    assert monitor({"s3": lot}, labels) == 0
    line = "bag is no better than its most frequent class: accuracy 0.9600, and always 'no' has 0.9600"
    assert f"on new labels {line}" in caplog.text
    result = json.loads((tmp_path / "result.json").read_text())
    assert line in Path(result["report"]).read_text().replace("&#39;", "'")
    assert result["headline"]["mean_balanced_accuracy"] == pytest.approx((4 + 0.5) / 5)
    checked = read_log(tmp_path / "logs" / LOG)[0].performance
    assert checked.metric == "accuracy"
    assert checked.mean_balanced_accuracy == pytest.approx((4 + 0.5) / 5)


def test_without_labels_drift_is_told_all_the_same(monitor: Callable[..., int], tmp_path: Path) -> None:
    assert monitor({"s4": make(100, 1, "s4", shift={"brightness": -2.0})}, None) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    headline = {name: result["headline"][name] for name in ("drift", "performance", "retrain")}
    assert headline == {"drift": "found", "performance": NOT_ENOUGH, "retrain": "no"}
    assert "No labels could be read" in Path(result["report"]).read_text()
    assert not read_log(tmp_path / "logs" / LOG)[0].labels_read


def test_labels_of_other_attributes_are_left_out_which_is_said(
    monitor: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lot = make(100, 1, "s4")
    hat, bag = (
        Attribute("hat", ("none", "cap"), "hat", "Hat"),
        replace(SAMPLE_ATTRIBUTES[0], classes=("none", "some")),
    )
    labels = {picture: known[::-1] for picture, known in labels_of(lot, 1.0).items()}  # in another order
    others = (*SAMPLE_ATTRIBUTES[:0:-1][:-1], hat, bag)
    assert monitor({"s4": lot}, labels, attributes=others) == 0
    how = "without scarf, with hat, with other classes of bag"
    line = f"The labels have other attributes than v3 answers ({how}): they are left out"
    assert line in caplog.text
    result = json.loads((tmp_path / "result.json").read_text())
    assert line in Path(result["report"]).read_text()
    found = json.loads(Path(result["outputs"]["performance"]).read_text())["total"]
    assert {name: attribute["labels"] for name, attribute in found["attributes"].items()} == {
        "bag": 0, "scarf": 0, "bow": 100, "coat_color": 100, "coat_length": 100,
    }  # fmt: skip
    assert found["mean"]["value"] == 1


def read_rows(file: str) -> list[dict[str, str]]:
    with Path(file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_lots_of_an_image_say_not_enough_data(monitor: Callable[..., int], tmp_path: Path) -> None:
    assert monitor({"s3": make(1, 1, "s3"), "s4": make(2, 1, "s4")}, {}) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    headline = result["headline"]
    assert (headline["drift"], headline["performance"], headline["retrain"]) == (NOT_ENOUGH, NOT_ENOUGH, "no")
    assert "Largest changes" not in Path(result["report"]).read_text()


def test_what_nothing_can_be_said_about_is_left_out_of_the_suite(monitor: Callable[..., int], tmp_path: Path) -> None:
    lot = make(100, 1, "s3")
    fewer = {"brightness": lot.statistics["brightness"], "white": np.full(100, np.nan, np.float32)}
    assert monitor({"s3": Features(**{**vars(lot), "statistics": fewer})}, {}) == 0
    page = (Path(json.loads((tmp_path / "result.json").read_text())["path"]) / "data_docs/drift/index.html").read_text()
    assert "brightness" in page
    assert "sharpness" not in page


def test_predictions_of_another_champion_are_refused(
    monitor: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert monitor({"s3": make(100, 1, "s3")}, {}, other="f" * 64) == 65
    assert "--predict was made with another champion (ffffffffffff) than --champion" in caplog.text
    assert not (tmp_path / "logs" / LOG).exists()


EXPECTED: Any = load_suite(OURS / f"{SUITE}.json", SAMPLE_ATTRIBUTES)


def suite_findings(table: pd.DataFrame) -> list[str]:
    values = thresholds(partitions(SAMPLE_ATTRIBUTES, REFERENCE), table, SETTINGS.min_psi)
    return [finding.reason for finding in findings(run_suite(EXPECTED, SUITE, table, values))]


def test_clean_images_meet_every_expectation() -> None:
    assert suite_findings(signals(SAMPLE_ATTRIBUTES, make(150, 5))) == []


@pytest.mark.parametrize("expectation", EXPECTED.expectations, ids=lambda expectation: expectation.meta["reason"])
def test_each_expectation_is_failed_by_drift_of_its_column_alone(expectation: Any) -> None:
    table = signals(SAMPLE_ATTRIBUTES, make(150, 5))
    column = expectation.column
    if column.endswith("_predicted"):
        table[column] = table[column].iloc[0]
    elif expectation.expectation_type == "expect_column_mean_to_be_between":
        table[column] += 1.5 * table[column].std()
    else:  # as many images at both ends, so that the mean stays
        middle = table[column].mean()
        table[column] = middle + (table[column] - middle) * 5
    assert expectation.meta["reason"] in suite_findings(table)
    assert all(reason.startswith(f"{column}:") for reason in suite_findings(table))
    assert expectation.severity == "warning"


def test_every_signal_is_told_in_words() -> None:
    drift = check_drift(make(100, 1, shift={"brightness": 2, "warmth": 1}, classes={"bow": 1}, moved=1))
    told = {test.signal: explain(SAMPLE_ATTRIBUTES, test) for test in drift.tests}
    assert told["brightness"] == "the images are much brighter"
    assert told["bow_predicted"].startswith("bow 'yes' is predicted much more often")
    assert told["embedding_1"].startswith("the images look")
    assert all(told.values())


@pytest.mark.parametrize("letters", [4, 11, 300])
def test_names_of_classes_below_the_bars_do_not_touch(letters: int) -> None:
    classes = [f"{number}".ljust(letters, "m") for number in range(6)]
    seen = pd.Series(pd.Categorical(classes * 5, categories=classes))
    figure = draw_signal(seen, seen[:9])
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    boxes = [label.get_window_extent() for label in labels]
    apart = (boxes[1].x1 - boxes[0].x1) * np.sin(np.radians(labels[0].get_rotation()))  # of lines that are turned
    height = 1.4 * float(labels[0].get_fontsize()) * figure.dpi / 72
    assert apart > height or all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))
    assert boxes[0].x0 >= 0
