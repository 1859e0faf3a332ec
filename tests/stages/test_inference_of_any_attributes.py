"""Attributes are data: one attribute, forty, and one of 200 classes are evaluated, predicted and monitored."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.contract.stage import Stage
from stages.common.inference.features import load_features
from stages.common.schema.attributes import Attribute, Attributes, names, write_attributes
from stages.common.schema.dataset import INDEX, index_columns
from stages.evaluate.stage import STAGE as EVALUATE
from stages.monitor.stage import STAGE as MONITOR
from stages.predict.stage import STAGE as PREDICT
from tests.common.onnx_models import SIDE, metadata_of, save_model

pytestmark = pytest.mark.slow

IMAGES = 60


def attributes_of(count: int, classes: int) -> Attributes:
    """So many attributes, of so many classes each."""
    answers = tuple(f"class {number}" for number in range(classes))
    return tuple(Attribute(f"a{number}", answers, f"column_{number}", f"Title {number}") for number in range(count))


def run(stage: Stage[Any], out: Path, inputs: dict[str, Path]) -> dict[str, Any]:
    arguments = [word for name, path in inputs.items() for word in (f"--{name}", str(path))]
    told = out.parent / f"{out.name}.json"
    assert main(stage, [*arguments, "--out", str(out), "--result", str(told)]) == 0
    return dict(json.loads(told.read_text()))


def finish(folder: Path, stage: str, **inputs: Any) -> dict[str, Any]:
    key = artifacts.json_digest([stage, artifacts.list_files(folder)])
    return {"key": key, **artifacts.write_manifest(folder, stage=stage, key=key, inputs=inputs)}


def make_pictures(classes: int) -> npt.NDArray[np.uint8]:
    """Pictures whose first row holds answers."""
    pictures = np.full((IMAGES, SIDE, SIDE, 3), 77, np.uint8)
    pictures[:, 1, 0, 2] = np.arange(IMAGES)  # no two are the same
    pictures[:, 0, :, 0] = np.random.default_rng(0).integers(0, classes, (IMAGES, SIDE))
    return pictures


def make_prepared(folder: Path, attributes: Attributes, pictures: npt.NDArray[np.uint8], wrong: int) -> dict[str, Any]:
    """Prepared data with labels that are what the pictures hold, but for the first `wrong` images."""
    (folder / "shards").mkdir(parents=True)
    np.save(folder / "shards" / "s1.npy", pictures)
    write_attributes(folder, attributes)
    classes = len(attributes[0].classes)
    with (folder / INDEX).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(index_columns(attributes))
        for number, picture in enumerate(pictures):
            labels = [(int(picture[0, at % SIDE, 0]) + (number < wrong)) % classes for at in range(len(attributes))]
            table.writerow([f"s1_{number}.png", "s1", number, "test" if number else "val", "", "", *labels])
    return finish(folder, "prepare_train")


@pytest.mark.parametrize(("count", "classes", "favour"), [(1, 2, 0.0), (40, 2, 0.0), (2, 200, 0.0), (2, 2, 3.0)])
def test_any_attributes_are_evaluated_predicted_and_monitored(
    count: int, classes: int, favour: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Favoured so much, class 1 is answered of every picture, whatever is most probable; `favour` 0 changes nothing."""
    attributes, pictures = attributes_of(count, classes), make_pictures(classes)
    metadata = metadata_of(attributes)
    metadata["decision"] = {name: [0.0, favour, *[0.0] * (classes - 2)] for name in names(attributes)}
    metadata["decided_by"] = dict.fromkeys(names(attributes), "balanced accuracy")
    titles = [attribute.title for attribute in attributes]
    prepared, train = tmp_path / "prepared", tmp_path / "train"
    content = make_prepared(prepared, attributes, pictures, wrong=7)["content"]
    train.mkdir()
    save_model(train / "model.onnx", metadata, attributes=attributes)
    finish(train, "train", prepare_train={"key": "k", "content": content})
    evaluated = tmp_path / "evaluated"
    found = run(EVALUATE, evaluated, {"prepare_train": prepared, "train": train})
    answers = pictures[:, 0, :, 0].astype(int)
    labels = (answers + (np.arange(IMAGES) < 7)[:, None]) % classes
    if favour:
        answers[:] = 1
    expected = (answers == labels)[1:, np.arange(count) % SIDE].mean()
    assert found["headline"]["mean_accuracy"] == pytest.approx(expected, abs=1e-4)
    page = (evaluated / "report.html").read_text()
    assert ("class 1 from a probability of 0.047 on, else class 0" in page) == bool(favour)
    assert all(title in page for title in titles)

    champion = tmp_path / "champion"
    artifacts.copy_folder(evaluated / "reference", champion / "reference")
    (champion / "model.onnx").write_bytes((train / "model.onnx").read_bytes())
    write_attributes(champion, attributes)
    told = {"version": "v1", "model_digest": "0" * 64, "mean_accuracy": 0.9, "lots": []}
    artifacts.write_json(champion / "champion.json", told)
    finish(champion, "champion")
    (tmp_path / "raw" / "s2").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "raw" / "s2" / f"s2_{number}.png")
    predicted = tmp_path / "predicted"
    run(PREDICT, predicted, {"raw": tmp_path / "raw", "champion": champion})
    assert f"v1 answers {', '.join(names(attributes))}" in caplog.text
    with (predicted / "outputs" / "predictions_s2.csv").open(newline="") as file:
        rows = {row["filename"]: row for row in csv.DictReader(file)}
    for number, answer in enumerate(answers):
        said = [rows[f"s2_{number}.png"][f"{name}_predicted"] for name in names(attributes)]
        assert said == [f"class {answer[at % SIDE]}" for at in range(count)]
    if favour:
        assert {rows[name]["a1_confidence"] for name in rows} == {"0.2000", "0.8000"}
    page = (predicted / "report.html").read_text()
    assert all(title in page for title in titles)
    assert ("class 1 from a probability of 0.047 on, else class 0" in page) == bool(favour)

    validated = tmp_path / "validated"
    validated.mkdir()
    write_attributes(validated, attributes)
    seen = load_features(predicted / "features" / "s2.npz")
    with (validated / "annotations.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("pixels", *names(attributes)))
        for filename, picture in zip(seen.filenames, seen.pictures.tolist(), strict=True):
            said = [rows[filename][f"{name}_predicted"].removeprefix("class ") for name in names(attributes)]
            table.writerow((f"{picture:016x}", *said))
    finish(validated, "validate")
    inputs = {"champion": champion, "predict": predicted, "validate": validated, "logs": tmp_path / "logs"}
    monitored = run(MONITOR, tmp_path / "monitored", inputs)
    told = {name: monitored["headline"][name] for name in ("drift", "performance", "mean_accuracy", "images")}
    assert told == {"drift": "none", "performance": "ok", "mean_accuracy": 1, "images": IMAGES}
    page = (tmp_path / "monitored" / "report.html").read_text()
    assert all(title in page for title in titles)
