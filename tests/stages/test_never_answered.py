"""Classes without training images are never answered: in no model, no mean and no file, and reports say so."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.inference.onnx_model import load
from stages.common.schema.attributes import UNKNOWN
from stages.common.schema.dataset import read_split
from stages.evaluate.stage import STAGE as EVALUATE
from stages.hyperopt.stage import STAGE as HYPEROPT
from stages.train.stage import STAGE as TRAIN
from tests.common.prepared import make_prepared, make_searched
from tests.common.samples import SAMPLE_NAMES

pytestmark = pytest.mark.slow

BAG, COLOR, LENGTH = (SAMPLE_NAMES.index(name) for name in ("bag", "coat_color", "coat_length"))
GREEN, LONG = 4, 2
QUICK = ["train.epochs=3", "train.width=8", "train.batch_size=16", "train.device=cpu"]

Labels = npt.NDArray[np.int64]
Splits = npt.NDArray[np.str_]


def one_class(labels: Labels, _splits: Splits) -> None:
    labels[:, LENGTH] = LONG


def no_label_in_training(labels: Labels, splits: Splits) -> None:
    labels[splits == "train", LENGTH] = UNKNOWN


def one_class_in_training(labels: Labels, splits: Splits) -> None:
    labels[(splits == "train") & (labels[:, LENGTH] != LONG), LENGTH] = UNKNOWN


def run(stage: Any, out: Path, inputs: dict[str, Path], settings: list[str]) -> Path:
    arguments = [word for name, path in inputs.items() for word in (f"--{name}", str(path))]
    arguments += [word for setting in settings for word in ("--set", setting)]
    assert main(stage, [*arguments, "--out", str(out)]) == 0
    return out


def trained(folder: Path, change: Callable[[Labels, Splits], None]) -> tuple[Path, Path]:
    prepared = make_prepared(folder / "prepared", test=40, change=change)
    make_searched(folder / "searched", prepared)
    model = run(TRAIN, folder / "trained", {"prepare_train": prepared, "hyperopt": folder / "searched"}, QUICK)
    return prepared, model


def metrics_of(artifact: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((artifact / "metrics" / f"{name}.json").read_text()))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (no_label_in_training, "training has no label of it"),
        (one_class, "training knows no class but 'long'"),
        (one_class_in_training, "training knows no class but 'long'"),
    ],
)
def test_an_attribute_with_fewer_than_two_classes_in_training(
    change: Callable[[Labels, Splits], None], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared, train = trained(tmp_path, change)
    line = f"coat_length is never answered: {why}"
    assert line in caplog.text
    metrics = metrics_of(train, "train_metrics")
    accuracies = {name: attribute["accuracy"] for name, attribute in metrics["attributes"].items()}
    assert accuracies == {**accuracies, "coat_length": None}
    others = [accuracy for name, accuracy in accuracies.items() if name != "coat_length"]
    assert metrics["val_mean_accuracy"] == pytest.approx(np.mean(others))
    assert metrics["never_answered"] == [line]
    assert artifacts.read_manifest(train)["headline"]["never_answered"] == "coat_length"
    model = load(train / "model.onnx")
    assert model.answered == [name for name in SAMPLE_NAMES if name != "coat_length"]
    found = model.predict(read_split(prepared, "test").take())
    assert np.isnan(found["coat_length"]).all()
    assert all(np.isfinite(found[name]).all() for name in model.answered)

    evaluated = run(EVALUATE, tmp_path / "evaluated", {"prepare_train": prepared, "train": train}, [])
    measured = metrics_of(evaluated, "eval_metrics")
    length = measured["attributes"]["coat_length"]
    figures = ("accuracy", "f1", "roc_auc", "ece", "threshold", "coverage", "answered_accuracy")
    assert [length[name] for name in figures] == [None] * len(figures)
    assert length["labels"] == (read_split(prepared, "test").labels[:, LENGTH] != UNKNOWN).sum()
    assert length["note"] == f"never answered: {why}"
    for mean, figure in (("mean_accuracy", "accuracy"), ("mean_ece", "ece"), ("mean_coverage", "coverage")):
        values = [attribute[figure] for name, attribute in measured["attributes"].items() if name != "coat_length"]
        assert measured[mean] == pytest.approx(np.mean(values))
    with (evaluated / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            answer = {part: row[f"coat_length_{part}"] for part in ("predicted", "confidence", "answered")}
            assert answer == {"predicted": "", "confidence": "", "answered": "no"}
            assert row["bow_predicted"]
    assert line in (evaluated / "report.html").read_text().replace("&#39;", "'")
    with (evaluated / "findings.csv").open(newline="") as file:
        assert not [row for row in csv.DictReader(file) if row["column"].startswith("coat_length")]


def test_a_class_without_a_label_in_training_is_never_answered_and_its_labels_count_as_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def no_gray(labels: Labels, splits: Splits) -> None:
        labels[(splits == "train") & (labels[:, COLOR] == GREEN), COLOR] = UNKNOWN

    prepared, train = trained(tmp_path, no_gray)
    assert "coat_color is never answered with green: training has no label of it" in caplog.text
    model = load(train / "model.onnx")
    assert model.answered == list(SAMPLE_NAMES)
    found = model.predict(read_split(prepared, "test").take())["coat_color"]
    assert (found[:, GREEN] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)

    evaluated = run(EVALUATE, tmp_path / "evaluated", {"prepare_train": prepared, "train": train}, [])
    color = metrics_of(evaluated, "eval_metrics")["attributes"]["coat_color"]
    labels = read_split(prepared, "test").labels[:, COLOR]
    assert color["unlearned_labels"] == (labels == GREEN).sum() > 0
    known = labels != UNKNOWN
    assert color["accuracy"] == pytest.approx((found.argmax(axis=1) == labels)[known].mean())
    assert f"training has no label of green: its {(labels == GREEN).sum()} here count as wrong" in color["note"]
    assert "coat_color is never answered with green" in (evaluated / "report.html").read_text()


def test_the_search_does_not_judge_trials_by_what_they_cannot_learn(tmp_path: Path) -> None:
    """Labels of validation alone, of an attribute and a class that training has not seen: the loss is that without."""

    def unseen(labels: Labels, splits: Splits) -> None:
        no_label_in_training(labels, splits)
        labels[(splits == "train") & (labels[:, COLOR] == GREEN), COLOR] = UNKNOWN

    def without(labels: Labels, splits: Splits) -> None:
        unseen(labels, splits)
        labels[:, LENGTH] = UNKNOWN
        labels[labels[:, COLOR] == GREEN, COLOR] = UNKNOWN

    found = []
    for name, change in (("unseen", unseen), ("without", without)):
        prepared = make_prepared(tmp_path / name / "prepared", change=change)
        settings = ["hyperopt.max_evals=1", "hyperopt.epochs=2", "hyperopt.device=cpu", "hyperopt.workers=1"]
        best = run(HYPEROPT, tmp_path / name / "out", {"prepare_train": prepared}, settings)
        found.append(metrics_of(best, "hyperopt_results")["best"]["val_loss"])
    assert found[0] == pytest.approx(found[1])
