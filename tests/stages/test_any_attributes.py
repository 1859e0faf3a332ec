"""One attribute of two classes, and forty of which one has two hundred: searched, trained, exported, doubted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages.common.contract.command_line import main
from stages.common.inference.onnx_model import load
from stages.common.schema.attributes import Attribute, Attributes, names
from stages.common.schema.dataset import read_split
from stages.hyperopt.stage import STAGE as HYPEROPT
from stages.label_doubt.stage import STAGE as LABEL_DOUBT
from stages.train.stage import STAGE as TRAIN
from tests.common.prepared import make_prepared, make_searched

pytestmark = pytest.mark.slow

ONE: Attributes = (Attribute("hat", ("no", "yes"), "hat", "Hat"),)
FORTY: Attributes = (
    Attribute("breed", tuple(f"breed {number}" for number in range(200)), "breed_label", "Breed"),
    *(Attribute(f"trait_{number}", ("no", "yes"), f"trait {number}", f"Trait {number}") for number in range(39)),
)
FIRST = (
    "{learning_rate: .004, muon_learning_rate: .06, weight_decay: .01, dropout: .1, width: 16, batch_size: 64, "
    "loss_weights: {%s}}"
)


def run(stage: Any, folder: Path, inputs: list[str], *settings: str) -> Path:
    arguments = [word for name in inputs for word in (f"--{name}", str(folder / name))]
    arguments += [word for setting in ("device=cpu", *settings) for word in ("--set", f"{stage.name}.{setting}")]
    assert main(stage, [*arguments, "--out", str(folder / stage.name)]) == 0
    return folder / str(stage.name)


def told_by(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


@pytest.mark.parametrize("attributes", [ONE, FORTY], ids=["one", "forty"])
def test_the_attributes_are_those_of_the_data_from_the_search_to_the_model(
    attributes: Attributes, tmp_path: Path
) -> None:
    def the_last_class_is_known(labels: npt.NDArray[np.int64], _splits: object) -> None:
        labels[::2, 0] = len(attributes[0].classes) - 1

    last = attributes[-1].name
    prepared = make_prepared(tmp_path / "prepare_train", change=the_last_class_is_known, attributes=attributes)
    first = FIRST % f"{last}: 2"
    searched = run(HYPEROPT, tmp_path, ["prepare_train"], "max_evals=8", "epochs=1", "workers=1", f"first={first}")
    weights = told_by(searched / "best_params.json")["loss_weights"]
    assert list(weights) == list(names(attributes))
    first = told_by(searched / "metrics" / "hyperopt_results.json")["trials"][0]["hyperparameters"]["loss_weights"]
    assert first == dict.fromkeys(names(attributes), 1.0) | {last: 2.0}

    trained = run(TRAIN, tmp_path, ["prepare_train", "hyperopt"], "epochs=3", "processes=1", "use_hyperopt=false")
    model = load(trained / "model.onnx")
    assert model.attributes == attributes
    assert attributes[0].classes[-1] in model.calibration.learned[attributes[0].name]
    images = read_split(prepared, "val").take()
    answers = model.predict(images)
    assert list(answers) == list(names(attributes))
    for attribute in attributes:
        assert answers[attribute.name].shape == (len(images), len(attribute.classes))
        if attribute.name in model.answered:
            np.testing.assert_allclose(answers[attribute.name].sum(axis=1), 1, atol=1e-5)
    assert set(told_by(trained / "metrics" / "train_metrics.json")["attributes"]) == set(names(attributes))

    doubted = run(LABEL_DOUBT, tmp_path, ["prepare_train", "train"], "epochs=1", "folds=2", "width=8", "workers=1")
    assert list(told_by(doubted / "metrics" / "label_doubt.json")["attributes"]) == list(names(attributes))


@pytest.mark.parametrize("how", [["--check"], ["--out", "out"]])
@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        (TRAIN, "train.loss_weights={smile: 2}"),
        (HYPEROPT, f"hyperopt.first={FIRST % 'smile: 2'}"),
    ],
)
def test_a_loss_weight_of_no_attribute_is_refused_before_any_work(
    stage: Any,
    setting: str,
    how: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_prepared(tmp_path / "prepared", train=8, val=8, attributes=FORTY[1:3])
    make_searched(tmp_path / "searched", tmp_path / "prepared")
    inputs = ["--prepare_train", "prepared", *(["--hyperopt", "searched"] if stage is TRAIN else [])]
    assert main(stage, [*inputs, *how, "--set", setting]) == 64
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "loss_weights: smile: no such attribute in the data, which have trait_0, trait_1" in line
