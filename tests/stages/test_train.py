"""Stage train, by its command line: the files it leaves, what it takes from the search, how it goes on after a stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.contract.version import ROOT
from stages.common.inference.answers import answers_of
from stages.common.inference.calibration import MIN_ANSWERS, Calibration, expected_calibration_error
from stages.common.inference.measures import measure
from stages.common.inference.onnx_model import load
from stages.common.schema.attributes import UNKNOWN, Attribute
from stages.common.schema.dataset import read_split
from stages.common.training.network import Classifier, Network
from stages.train.export import export_onnx
from stages.train.stage import STAGE
from tests.common.onnx_models import PREPROCESSING
from tests.common.prepared import SIDE, TINY, finish, make_prepared, make_searched
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES
from tests.processes import stop_when

pytestmark = pytest.mark.slow

QUICK = [
    "--set",
    "train.epochs=3",
    "--set",
    "train.width=8",
    "--set",
    "train.batch_size=16",
    "--set",
    "train.device=cpu",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `prepared` and `searched`, the inputs."""
    folder = tmp_path_factory.mktemp("train")
    make_searched(folder / "searched", make_prepared(folder / "prepared"))
    return folder


def inputs(folder: Path) -> list[str]:
    return ["--prepare_train", str(folder / "prepared"), "--hyperopt", str(folder / "searched")]


@pytest.fixture(scope="module", params=["plain", "mirrored"])
def trained(folder: Path, request: pytest.FixtureRequest) -> Path:
    """A model that answers of the picture alone, and one that answers of its mirror image as well."""
    out: Path = folder / request.param
    mirrored = f"train.mirrored_answers={json.dumps(request.param == 'mirrored')}"
    assert main(STAGE, [*inputs(folder), "--out", str(out), *QUICK, "--set", mirrored]) == 0
    return out


def load_pytorch(trained: Path) -> Classifier:
    """The network from its weights and their metadata alone."""
    with safe_open(trained / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    network = Network(SAMPLE_ATTRIBUTES, int(metadata["width"]))
    network.load_state_dict(load_file(trained / "model.safetensors"))
    told = {name: json.loads(metadata[name]) for name in ("temperatures", "learned", "mirrored")}
    return Classifier(network, **told).eval()


def test_the_model_is_one_file_and_onnx_runtime_answers_as_pytorch(trained: Path, folder: Path) -> None:
    model = load(trained / "model.onnx")  # checks names, shapes, classes and metadata
    assert model.image_size == SIDE
    assert sorted(path.name for path in trained.iterdir() if path.suffix in {".onnx", ".data", ".pt", ".pth"}) == [
        "model.onnx"
    ]
    classifier = load_pytorch(trained)
    assert set(classifier.temperatures) != {1.0}
    random = np.random.default_rng(1).integers(0, 256, (65, SIDE, SIDE, 3), np.uint8)
    black_and_white = np.stack([np.full_like(random[0], value) for value in (0, 255)])
    learned = read_split(folder / "prepared", "val").take()
    for images in (random[:1], random, black_and_white, learned[:1], learned[:2], learned):
        found, embeddings = model.predict_and_embed(images)
        with torch.inference_mode():
            *expected, embedded = classifier(torch.from_numpy(images))
        assert embeddings.shape == (len(images), 4 * TINY.width)
        np.testing.assert_allclose(embeddings, embedded.numpy(), rtol=0, atol=1e-4)
        for name, values in zip(SAMPLE_NAMES, expected, strict=True):
            np.testing.assert_allclose(found[name], values.numpy(), rtol=0, atol=1e-4)
            np.testing.assert_array_equal(found[name], model.predict(images)[name])
        mirrored, mirrored_embeddings = model.predict_and_embed(images[:, :, ::-1].copy())
        same = [np.allclose(found[name], mirrored[name], atol=1e-5) for name in SAMPLE_NAMES]
        same.append(np.allclose(embeddings, mirrored_embeddings, atol=1e-4))
        if images is not black_and_white:  # which are their own mirror images
            assert set(same) == {trained.name == "mirrored"}


def test_confidences_are_those_that_the_calibration_was_made_for(trained: Path, folder: Path) -> None:
    """Read back from the exported model on the validation split: temperatures are in the graph, thresholds fit them."""
    model, val = load(trained / "model.onnx"), read_split(folder / "prepared", "val")
    metrics = json.loads((trained / "metrics" / "train_metrics.json").read_text())
    assert [entry["attribute"] for entry in metrics["calibration"]] == list(SAMPLE_NAMES)
    for column, (entry, probabilities) in enumerate(
        zip(metrics["calibration"], model.predict(val.take()).values(), strict=True)
    ):
        known = val.labels[:, column] != UNKNOWN
        assert entry["labels"] == known.sum() >= MIN_ANSWERS
        predicted, confidence = probabilities[known].argmax(1), probabilities[known].max(1)
        right = predicted == val.labels[known, column]
        assert entry["temperature"] == model.calibration.temperatures[entry["attribute"]]
        assert entry["ece"] == pytest.approx(expected_calibration_error(confidence, right), abs=1e-4)
        assert entry["abstention"]["threshold"] == model.calibration.abstention[entry["attribute"]]
        lowest = np.broadcast_to(entry["abstention"]["threshold"], probabilities.shape[1])
        answered = confidence >= lowest[predicted] - 1e-5
        assert entry["abstention"]["coverage"] == pytest.approx(answered.mean())
        assert entry["abstention"]["accuracy"] == pytest.approx(right[answered].mean())
        assert entry["abstention"]["accuracy"] >= 0.99 or "at best" in entry["abstention"]["note"]


def test_what_is_answered_is_decided_as_asked_and_travels_in_the_model(folder: Path, tmp_path: Path) -> None:
    asked = ["train.decide_by=balanced_accuracy", "train.wanted={bow: {recall: 0.9, of: yes}}", "train.epochs=1"]
    out = tmp_path / "out"
    settings = [word for setting in asked for word in ("--set", setting)]
    assert main(STAGE, [*inputs(folder), "--out", str(out), *QUICK, *settings]) == 0
    calibration = load(out / "model.onnx").calibration
    assert calibration.decided_by == dict.fromkeys(SAMPLE_NAMES, "balanced accuracy") | {"bow": "recall 0.9 of yes"}
    metrics = json.loads((out / "metrics" / "train_metrics.json").read_text())
    told = {entry["attribute"]: entry["decision"] for entry in metrics["calibration"]}
    val = read_split(folder / "prepared", "val")
    page = (out / "report.html").read_text()
    answers = answers_of(SAMPLE_ATTRIBUTES, load(out / "model.onnx").predict(val.take()), calibration, val.labels)
    for answer in answers:
        name, known = answer.attribute.name, answer.known()
        assert told[name]["offsets"] == calibration.decision[name]
        measured = metrics["attributes"][name]
        assert measured["accuracy"] == pytest.approx(known.right.mean())
        recalls = [known.right[known.labels == number].mean() for number in range(len(answer.attribute.classes))]
        assert [found["recall"] for found in measured["per_class"]] == pytest.approx(recalls)
        assert told[name]["answer"] in page
    assert metrics["attributes"]["bow"]["per_class"][1]["recall"] >= 0.9


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            "{hat: {recall: 0.9, of: yes}}",
            "train.wanted: hat: no such attribute in the data, which have bag, scarf",
        ),
        ("{bag: {recall: 0.9, of: maybe}}", "train.wanted.bag.of: maybe: no such class; there are no, yes"),
        (
            "{coat_length: {recall: 0.9, of: cropped}}",
            "it has the classes cropped, short, long, but this works only with two",
        ),
        ("{bag: {of: yes}}", "train.wanted.bag: Value error, write either precision or recall"),
        ("{bag: {of: yes, recall: 0.9, precision: 0.9}}", "write either precision or recall"),
        ("{bag: {of: yes, recall: 90}}", "train.wanted.bag.recall"),
        ("{bag: {of: true, recall: 0.9}}", "train.wanted.bag.of: expected a text (got True)"),
    ],
)
def test_what_cannot_be_wanted_is_refused_in_one_line(
    wanted: str, said: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = [*inputs(folder), "--out", str(tmp_path / "out"), *QUICK, "--set", f"train.wanted={wanted}"]
    assert main(STAGE, arguments) == 64
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said in line
    assert "\n" not in line


def test_the_metrics_are_those_of_the_exported_model_and_tell_what_was_used(trained: Path, folder: Path) -> None:
    metrics = json.loads((trained / "metrics" / "train_metrics.json").read_text())
    model, val = load(trained / "model.onnx"), read_split(folder / "prepared", "val")
    for answer in answers_of(SAMPLE_ATTRIBUTES, model.predict(val.take()), model.calibration, val.labels):
        expected = measure(answer)
        assert metrics["attributes"][answer.attribute.name]["confusion_matrix"] == expected["confusion_matrix"]
    accuracies = [attribute["accuracy"] for attribute in metrics["attributes"].values()]
    assert metrics["val_mean_accuracy"] == pytest.approx(np.mean(accuracies))
    # each epoch is measured in bfloat16 where that is fast
    assert metrics["val_mean_accuracy"] == pytest.approx(metrics["history"][-1]["val_mean_accuracy"], abs=0.02)
    shares = [max(attribute["support"]) / attribute["labels"] for attribute in metrics["attributes"].values()]
    last = metrics["history"][-1]["val_balanced_accuracy"]
    assert [last[name] for name in SAMPLE_NAMES] == pytest.approx(
        [metrics["attributes"][name]["balanced_accuracy"] for name in SAMPLE_NAMES], abs=0.05
    )
    assert metrics["val_mean_majority"] == pytest.approx(np.mean(shares))
    assert metrics["val_mean_balanced_accuracy"] == pytest.approx(
        np.mean([attribute["recall"] for attribute in metrics["attributes"].values()])
    )
    assert set(metrics["attributes"]) == set(SAMPLE_NAMES)
    assert metrics["hyperparameters"] == TINY.model_dump() | {"loss_weights": dict.fromkeys(SAMPLE_NAMES, 1.0)}
    assert (metrics["train_images"], metrics["epochs"], metrics["device"]) == (96, 3, "cpu")
    headline = artifacts.read_manifest(trained)["headline"]
    means = {f"val_mean_{name}" for name in ("accuracy", "balanced_accuracy", "majority")}
    assert set(headline) == means | {"epochs", "images_per_s", "device"}
    page = (trained / "report.html").read_text()
    for word in (
        "Most frequent class",
        "Balanced accuracy",
        "Average precision",
        "training_curves",
        "val mean accuracy",
    ):
        assert word.replace("_", " ") in page
    for plot in ("training_curves.png", "accuracy_curves.png", "augmented_pictures.png"):
        assert (trained / "plots" / plot).stat().st_size > 10_000


def test_the_search_decides_only_while_it_is_asked(folder: Path, tmp_path: Path) -> None:
    arguments = [*inputs(folder), "--out", str(tmp_path / "out"), *QUICK, "--set", "train.epochs=1"]
    assert main(STAGE, [*arguments, "--set", "train.use_hyperopt=false", "--set", "train.learning_rate=0.03"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics" / "train_metrics.json").read_text())
    assert metrics["hyperparameters_from"] == "params.yaml"
    assert metrics["hyperparameters"]["learning_rate"] == 0.03


def break_best(folder: Path) -> None:
    searched = folder / "searched"
    (searched / "best_params.json").write_text('{"learning_rate": "fast"}')
    content = json.loads((folder / "prepared" / "manifest.json").read_text())["content"]
    finish(searched, "hyperopt", prepare_train={"key": "", "content": content})


def other_data(folder: Path) -> None:
    finish(folder / "searched", "hyperopt", prepare_train={"key": "", "content": "0123456789abcdef"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(break_best, "): run stage hyperopt again"), (other_data, "the search ran on data 0123456789ab")],
)
def test_a_search_that_does_not_fit_is_refused(
    spoil: Callable[[Path], None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_searched(tmp_path / "searched", make_prepared(tmp_path / "prepared"))
    spoil(tmp_path)
    assert main(STAGE, [*inputs(tmp_path), "--out", str(tmp_path / "out"), *QUICK]) == 65
    assert said in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_asked_for_and_absent(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = [*inputs(folder), "--out", str(tmp_path / "out"), *QUICK]
    assert main(STAGE, [*arguments, "--set", "train.device=cuda"]) == 69
    assert "no CUDA GPU is usable here" in caplog.text


@pytest.mark.parametrize(
    "setting", ["train.epochs=-1", "train.dropout=1.0", "train.loss_weights={bag: 0}", "train.device=tpu"]
)
def test_wrong_parameters_are_named(
    setting: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(STAGE, [*inputs(folder), "--out", str(tmp_path / "out"), "--set", setting]) == 64
    assert setting.partition("=")[0] in caplog.text


def test_help_does_not_load_pytorch() -> None:
    code = (
        "import sys; from stages.train import stage; from stages.hyperopt import stage as other; "
        "assert not {'torch', 'hyperopt', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_stopped_training_publishes_nothing_and_goes_on_later(folder: Path, tmp_path: Path) -> None:
    arguments = [*inputs(folder), "--out", str(tmp_path / "out"), *QUICK]
    arguments += ["--set", "train.epochs=30", "--set", "train.use_hyperopt=false", "--set", "train.batch_size=96"]
    command = [sys.executable, "-m", "stages.train", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    stop_when(process, lambda: list(tmp_path.rglob("checkpoint.safetensors")), "a checkpoint")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".partial-*"))

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.count("continuing after epoch") == 1
    history = json.loads((tmp_path / "out" / "metrics" / "train_metrics.json").read_text())["history"]
    assert [epoch["epoch"] for epoch in history] == list(range(1, 31))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("side", [16, 20, 33, 224])
def test_a_picture_of_any_size_is_answered_as_by_pytorch(side: int, mirrored: bool, tmp_path: Path) -> None:
    attributes = tuple(Attribute(name, ("a", "b", "c"), name, name) for name in ("all", "two", "never"))
    learned = {"all": ["a", "b", "c"], "two": ["a", "c"], "never": ["b"]}
    names = [attribute.name for attribute in attributes]
    calibration = Calibration(
        temperatures={"all": 0.5, "two": 2.0, "never": 1.0}, abstention=dict.fromkeys(names, 0.0), learned=learned,
        decision=dict.fromkeys(names, [0.0] * 3), decided_by=dict.fromkeys(names, "accuracy"),
    )  # fmt: skip
    images = torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8)
    network = Network(attributes, 8).train()
    network(images)  # which gives the normalisation statistics of its own
    export_onnx(
        tmp_path / "model.onnx", network.eval(), calibration, PREPROCESSING | {"image_size": side}, mirrored=mirrored
    )
    found, embeddings = load(tmp_path / "model.onnx").predict_and_embed(images.numpy())
    with torch.inference_mode():
        classifier = Classifier(network, calibration.temperatures, learned, mirrored=mirrored).eval()
        *expected, embedded = classifier(images)
    np.testing.assert_allclose(embeddings, embedded.numpy(), rtol=0, atol=1e-5)
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name], values.numpy(), rtol=0, atol=1e-5)  # NaN is NaN, 0 is 0
    assert np.isnan(found["never"]).all()
    assert not found["two"][:, 1].any()


EXPORT = """
import sys
from pathlib import Path
import torch
from stages.common.schema.attributes import Attribute
from stages.common.inference.calibration import Calibration
from stages.common.schema.learned import all_learned
from stages.common.training.network import Network
from stages.train.export import export_onnx

torch.manual_seed(0)
attributes = (Attribute("hat", ("no", "yes"), "hat", "Hat"),)
learned, decision = {"hat": ["no", "yes"]}, {"hat": [0.0, 0.0]}
by = {"hat": "accuracy"}
calibration = Calibration(
    temperatures={"hat": 1.5}, abstention={"hat": 0.0}, learned=learned, decision=decision, decided_by=by
)
export_onnx(Path(sys.argv[1]), Network(attributes, 8).eval(), calibration, {"image_size": 20})
"""


def test_the_same_weights_are_the_same_file_wherever_the_code_lies(tmp_path: Path) -> None:
    """A remark in the network's code, and another folder: nothing of a traceback of the export is in the file."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "stages", elsewhere / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    code = elsewhere / "stages" / "common" / "training" / "network.py"
    code.write_text(code.read_text().replace("import itertools\n", "# a remark\nimport itertools\n", 1))
    for folder, name in ((ROOT, "one.onnx"), (elsewhere, "other.onnx")):
        environment = os.environ | {"PYTHONPATH": str(folder)}
        subprocess.run([sys.executable, "-c", EXPORT, tmp_path / name], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()
