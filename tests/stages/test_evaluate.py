"""Stage evaluate and the loading of models, on a hand-made model that reads its answers off the pictures."""

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.contract.errors import DataError
from stages.common.inference.answers import Answers
from stages.common.inference.features import load_features
from stages.common.inference.onnx_model import load
from stages.common.schema.attributes import write_attributes
from stages.common.schema.dataset import INDEX, index_columns
from stages.evaluate.measures import measure
from stages.evaluate.stage import STAGE
from tests.common.onnx_models import METADATA, PREPROCESSING, SIDE, metadata_of, save_model
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES

pytestmark = pytest.mark.slow


def finish(folder: Path, stage: str, **inputs: Any) -> str:
    """Close an artifact with its manifest, and return the digest of its content."""
    return str(artifacts.write_manifest(folder, stage=stage, key=f"{stage}-key", inputs=inputs)["content"])


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., int]:
    """Prepared data with labels and answers as given, a model, and the stage that is run on both."""

    def run(
        labels: list[tuple[int | str, ...]],
        answers: list[tuple[int, ...]],
        trained_on: str = "",
        confidence: float = 0.8,
        metric: str = "accuracy",
    ) -> int:
        prepared, train = tmp_path / "prepared", tmp_path / "train"
        (prepared / "shards").mkdir(parents=True)
        train.mkdir()
        images = np.full((len(labels), SIDE, SIDE, 3), 77, np.uint8)
        images[:, 0, : len(SAMPLE_NAMES), 0] = answers
        np.save(prepared / "shards" / "a.npy", images)
        write_attributes(prepared, SAMPLE_ATTRIBUTES)
        with (prepared / INDEX).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(index_columns(SAMPLE_ATTRIBUTES))
            table.writerow(["=cmd()_train.png", "a", 0, "train", "", "", *labels[0]])
            table.writerow(["val.png", "a", 0, "val", "", "", *labels[0]])
            rows = enumerate(labels)
            table.writerows([f"=cmd()_{row}.png", "a", row, "test", "", row // 2, *known] for row, known in rows)
        content = finish(prepared, "prepare_train")
        save_model(train / "model.onnx", confidence=confidence)
        finish(train, "train", prepare_train={"key": "prepare_train-key", "content": trained_on or content})
        arguments = ["--prepare_train", str(prepared), "--train", str(train), "--out", str(tmp_path / "out")]
        return main(STAGE, [*arguments, "--set", "evaluate.batch_size=2", "--set", f"evaluate.metric={metric}"])

    return run


def test_every_figure_of_an_evaluation(evaluate: Callable[..., int], tmp_path: Path) -> None:
    #          bag scarf bow colour length
    labels = [(0, 0, "", 0, 0), (0, 0, "", 1, 1), (1, 0, "", 1, 2), (1, 0, "", "", 2), (1, 0, "", 3, "")]
    answers = [(0, 0, 1, 0, 0), (1, 1, 1, 1, 1), (1, 0, 0, 0, 2), (1, 0, 0, 4, 2), (0, 0, 1, 3, 0)]
    assert evaluate(labels, answers) == 0

    metrics = json.loads((tmp_path / "out" / "metrics" / "eval_metrics.json").read_text())
    bag, scarf, bow, color, length = (metrics["attributes"][name] for name in SAMPLE_NAMES)
    assert (metrics["images"], metrics["groups"]) == (5, 3)
    assert bag["labels"] == 5
    assert bag["confusion_matrix"] == [[1, 1], [1, 2]]
    assert bag["accuracy"] == pytest.approx(3 / 5)
    assert bag["precision"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert bag["recall"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert bag["roc_auc"] == pytest.approx(1 / 2 * 2 / 3 + (1 / 2 * 1 / 3 + 1 / 2 * 2 / 3) / 2)
    assert "note" not in bag
    assert bag["ece"] == pytest.approx(0.8 - 3 / 5)  # every confidence is 0.8
    assert (bag["coverage"], bag["answered_accuracy"]) == (0, None)  # it answers from 0.8001 on
    assert (scarf["coverage"], scarf["answered_accuracy"]) == (1, pytest.approx(4 / 5))

    assert scarf["accuracy"] == pytest.approx(4 / 5)
    assert (scarf["majority"], scarf["balanced_accuracy"], scarf["roc_auc"]) == (1, None, None)
    assert scarf["note"] == "no ROC AUC, no balanced accuracy: every label in the test split is 'no'"

    assert (bow["labels"], bow["accuracy"], bow["f1"]) == (0, None, None)
    assert bow["note"] == "no labels in the test split"
    assert (bow["ece"], bow["coverage"], bow["answered_accuracy"]) == (None, None, None)

    assert color["labels"] == 4
    assert color["support"] == [1, 2, 0, 1, 0]
    assert color["accuracy"] == pytest.approx(3 / 4)
    assert color["recall"] == pytest.approx((1 + 1 / 2 + 1) / 3)  # over the classes that have labels
    assert {row["class"]: row["precision"] for row in color["per_class"]}["beige"] == pytest.approx(1 / 2)
    assert color["note"] == "no labels of red, green in the test split"

    assert (length["labels"], length["accuracy"], length["roc_auc"]) == (4, 1, 1)
    assert metrics["mean_accuracy"] == pytest.approx((3 / 5 + 4 / 5 + 3 / 4 + 1) / 4)
    assert metrics["mean_majority"] == pytest.approx((3 / 5 + 1 + 2 / 4 + 2 / 4) / 4)
    assert metrics["mean_balanced_accuracy"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + (1 + 1 / 2 + 1) / 3 + 1) / 3)
    assert metrics["mean_coverage"] == pytest.approx(3 / 4)
    assert metrics["mean_ece"] == pytest.approx((0.2 + 0 + 0.05 + 0.2) / 4)

    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [f"'=cmd()_{number}.png" for number in range(5)]
    assert (rows[3]["coat_color"], rows[3]["coat_color_predicted"]) == ("", "green")
    assert (rows[2]["bag"], rows[2]["bag_predicted"], rows[2]["bag_confidence"]) == ("yes", "yes", "0.8000")
    assert (rows[2]["bag_answered"], rows[2]["scarf_answered"]) == ("no", "yes")
    reference = load_features(tmp_path / "out" / "reference" / "features.npz")
    assert reference.filenames == ["val.png", *(f"=cmd()_{number}.png" for number in range(5))]
    assert reference.example_names == reference.filenames
    assert reference.probabilities["bag"].argmax(1).tolist() == [0, *(answer[0] for answer in answers)]
    assert reference.embeddings[1:, :5].tolist() == [list(answer) for answer in answers]
    slices = json.loads((tmp_path / "out" / "metrics" / "slices.json").read_text())
    assert slices["lots"] == [{"name": "lot a", "labels": 18, "accuracy": pytest.approx(14 / 18)}]
    pairs = {class_pair["name"]: (class_pair["labels"], class_pair["accuracy"]) for class_pair in slices["class_pairs"]}
    assert pairs["bag no and coat colour beige"] == (4, 1)
    assert pairs["bag yes and coat length long"] == (7, pytest.approx(6 / 7))
    with (tmp_path / "out" / "slices.csv").open(newline="") as file:
        of_slice = {row["attribute"]: row for row in csv.DictReader(file) if row["slice"] == "bag no and scarf no"}
    row = of_slice["Bag"]
    assert (row["labels"], row["right"], row["accuracy"], row["elsewhere"]) == ("2", "1", "0.5000", "0.6667")
    for plot in ("confusion_matrices.png", "roc_curves.png", "reliability.png"):
        assert (tmp_path / "out" / "plots" / plot).stat().st_size > 10_000


def first_lines(folder: Path) -> str:
    page = (folder / "report.html").read_text()
    return page[page.index("<body") : page.index("Mean accuracy") + 600]


def test_what_is_no_better_than_its_most_frequent_class_is_said_first_and_warned_of(
    evaluate: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = [(image % 2, int(image == 9), 0, image % 5, image % 3) for image in range(10)]
    answers = [(*label[:1], 0, *label[2:]) for label in labels]
    assert evaluate(labels, answers) == 0
    line = "scarf is no better than its most frequent class: accuracy 0.9000, and always 'no' has 0.9000"
    assert line in caplog.text
    assert line in first_lines(tmp_path / "out").replace("&#39;", "'")
    assert "bag is no better" not in caplog.text
    headline = artifacts.read_manifest(tmp_path / "out")["headline"]
    assert headline["no_better"] == "scarf, bow"  # the bow, which nobody wears, is found by all
    assert headline["mean_balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 1 + 1) / 4)
    assert headline["mean_majority"] == pytest.approx((5 / 10 + 9 / 10 + 1 + 2 / 10 + 4 / 10) / 5)


def test_by_balanced_accuracy_other_attributes_are_no_better(
    evaluate: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = [(image % 2, int(image >= 8), 0, image % 5, image % 3) for image in range(10)]
    answers = [
        (*label[:1], int(image >= 6), *label[2:]) for image, label in enumerate(labels)
    ]  # finds both, and two more
    assert evaluate(labels, answers, metric="balanced_accuracy") == 0
    assert "no better" not in caplog.text
    metrics = json.loads((tmp_path / "out" / "metrics" / "eval_metrics.json").read_text())
    assert metrics["attributes"]["scarf"]["accuracy"] == metrics["attributes"]["scarf"]["majority"] == 0.8
    assert (metrics["metric"], metrics["no_better"]) == ("balanced_accuracy", [])


def test_labels_of_one_class_have_no_balanced_accuracy_and_so_no_lowest(
    evaluate: Callable[..., int], tmp_path: Path
) -> None:
    assert evaluate([(0, 0, 0, 0, 0)] * 4, [(0, 0, 0, 0, 0)] * 4, metric="balanced_accuracy") == 0
    headline = json.loads((tmp_path / "out" / "metrics" / "eval_metrics.json").read_text())
    assert (headline["mean_accuracy"], headline["mean_balanced_accuracy"]) == (1, None)


def test_the_worst_slice_is_named_where_chance_does_not_explain_it(
    evaluate: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = [(image % 2, image // 2 % 2, 0, image % 5, image % 3) for image in range(60)]
    answers = [(1 - label[0], *label[1:]) if label[:2] == (1, 1) and image < 40 else label
               for image, label in enumerate(labels)]  # fmt: skip
    assert evaluate(labels, answers) == 0
    words = "bag on images of bag yes and scarf yes: 5 of 15 right (0.333, 95 % from "
    assert words in caplog.text
    assert f"worst slice: {words}" in (tmp_path / "out" / "report.html").read_text()
    assert words in str(artifacts.read_manifest(tmp_path / "out")["headline"]["worst_slice"])


def test_a_diverged_model_is_measured_and_reported(
    evaluate: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert evaluate([(0, 0, 0, 0, 0), (1, 1, 1, 1, 1)], [(0, 0, 0, 0, 0)] * 2, confidence=float("nan")) == 0
    assert "bag_predicted missing: no answer (2 of 2 images, the first =cmd()_0.png, =cmd()_1.png)" in caplog.text
    assert json.loads((tmp_path / "out" / "metrics" / "eval_metrics.json").read_text())["mean_accuracy"] == 0
    assert "bag_predicted missing: no answer" in (tmp_path / "out" / "report.html").read_text()
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert {row["coat_color_answered"] for row in csv.DictReader(file)} == {"no"}


def test_answers_that_are_no_probabilities_are_not_published(
    evaluate: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert evaluate([(0, 0, 0, 0, 0)], [(0, 0, 0, 0, 0)], confidence=1.5) == 65
    assert "bag_confidence above 1 (1 of 1 images" in caplog.text
    assert not (tmp_path / "out").exists()
    assert "bag_confidence above 1" in (tmp_path / "failed-out" / "report.html").read_text()


def test_a_model_trained_on_other_data_is_refused(
    evaluate: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert evaluate([(0, 0, 0, 0, 0)], [(0, 0, 0, 0, 0)], trained_on="another-key") == 65
    assert "trained on data another-key" in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_test_split_without_labels_is_refused(evaluate: Callable[..., int], caplog: pytest.LogCaptureFixture) -> None:
    assert evaluate([("",) * 5], [(0, 0, 0, 0, 0)]) == 65
    assert "none of the 1 test images has a label" in caplog.text


def test_answers_that_are_not_numbers_count_as_wrong() -> None:
    probabilities = np.array([[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8], [np.inf, 0.1]])
    result = measure(Answers(SAMPLE_ATTRIBUTES[0], np.array([0, 0, 1, -1]), probabilities))
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert result["confusion_matrix"] == [[1, 0], [0, 1]]
    assert result["roc_auc"] is None
    assert result["note"] == "1 of 3 images got no finite probabilities and count as wrong"
    json.dumps(result, allow_nan=False)


def test_a_good_model_loads_and_predicts(tmp_path: Path) -> None:
    model = load(save_model(tmp_path / "model.onnx"))
    images = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    images[2, 0, 3, 0] = 4
    predicted, embeddings = model.predict_and_embed(images)
    assert embeddings.tolist() == images[:, 0, :, 0].tolist()
    assert list(predicted) == list(SAMPLE_NAMES)
    assert predicted["coat_color"].shape == (3, 5)
    assert predicted["coat_color"].dtype == np.float32
    assert predicted["coat_color"].argmax(axis=1).tolist() == [0, 0, 4]
    assert model.preprocessing.model_dump() == PREPROCESSING
    assert model.calibration.abstention["bag"] == 0.8001


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_a_pickle_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    with pytest.raises(DataError, match="not an ONNX model"):
        load(tmp_path / "model.onnx")
    assert not (tmp_path / "trace").exists()


def test_a_torn_or_absent_model_is_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match="not an ONNX model"):
        load(path)
    with pytest.raises(DataError, match="No such file"):
        load(tmp_path / "absent.onnx")


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in METADATA.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metadata": {}}, "no metadata 'face_attributes'"),
        (
            {"metadata": METADATA | {"attributes": {"bag": ["no", "yes"]}}},
            r"temperatures expected \['bag'\], found .*coat_color",
        ),
        (
            {"metadata": METADATA | {"attributes": None}},
            r"another attributes than this code: attributes: .*tuple: train",
        ),
        ({"metadata": METADATA | {"attributes": []}}, r"attributes: .*at least 1 item"),
        ({"metadata": METADATA | {"attributes": [{"name": "bag"}]}}, r"attributes\.0\.classes: Field required"),
        ({"metadata": metadata_of(SAMPLE_ATTRIBUTES[:1] * 2)}, r"names of attributes, each once, expected \['bag'\]"),
        ({"metadata": METADATA | {"image_size": 32}}, "image_size expected 8, found 32"),
        ({"metadata": METADATA | {"preprocessing": PREPROCESSING | {"version": 0}}}, r"preprocessing\.version"),
        ({"metadata": METADATA | {"preprocessing": None}}, "another preprocessing"),
        ({"metadata": without("temperatures")}, r"calibration\.temperatures: Field required: train again"),
        ({"metadata": without("abstention")}, r"calibration\.abstention: Field required: train again"),
        (
            {"metadata": METADATA | {"abstention": {"bag": 0.5}}},
            r"abstention expected \['bag', .*'scarf'\], found \['bag'\]",
        ),
        (
            {"metadata": METADATA | {"temperatures": dict.fromkeys(SAMPLE_NAMES, 0)}},
            r"temperatures\.bag: .*greater than 0",
        ),
        ({"kind": TensorProto.INT32}, r"input expected .*uint8.* found .*int32"),
        ({"drop": 1}, r"outputs expected .*bag.* found"),
        (
            {"embed": False},
            r"outputs expected .*'embedding', 'tensor\(float\)', \['any number', 'a fixed number'\].* found ",
        ),
        ({"opset": 99}, r"Opset 99 .* support .* till opset \d+"),
    ],
)
def test_a_model_that_does_not_fit_tells_expected_and_found(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = save_model(tmp_path / "model.onnx", **changes)
    with pytest.raises(DataError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)
