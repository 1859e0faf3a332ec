"""Stage label_doubt, by its command line: wrong labels are found and shown, and a stopped run keeps its folds."""

import csv
import html
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest

from stages.common.contract import artifacts
from stages.common.contract.command_line import main
from stages.common.contract.errors import DataError
from stages.common.contract.version import ROOT
from stages.common.reports.report import Table
from stages.common.schema.dataset import INDEX, read_index, read_split
from stages.label_doubt.doubts import area_of, find_doubts, why_not_checked
from stages.label_doubt.folds import assign_folds
from stages.label_doubt.page import doubt_report
from stages.label_doubt.stage import STAGE
from stages.validate.attributes_file import AttributesFile
from stages.validate.raw_annotations import read_annotations
from tests.common.prepared import finish, make_prepared, make_trained
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES
from tests.processes import stop_when

pytestmark = pytest.mark.slow

QUICK = [
    word
    for setting in ("folds=2", "epochs=25", "width=8", "batch_size=16", "device=cpu", "max_shown=3")
    for word in ("--set", f"label_doubt.{setting}")
]
COAT_COLOR = SAMPLE_ATTRIBUTES[SAMPLE_NAMES.index("coat_color")]


def rewrite(prepared: Path, change: dict[str, dict[str, str]]) -> None:
    """Change cells of the index: file name -> column -> cell; "*" stands for every image."""
    file = prepared / INDEX
    rows = read_index(prepared)
    for row in rows:
        row.update(change.get("*", {}) | change.get(row["filename"], {}))
    with file.open("w", newline="") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    finish(prepared, "prepare_train")


def inputs(folder: Path) -> list[str]:
    return ["--prepare_train", str(folder / "prepared"), "--train", str(folder / "trained")]


def doubts_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "doubts.csv").read_text().splitlines()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds `prepared` and `trained`, the inputs."""
    make_prepared(tmp_path / "prepared", train=240)
    make_trained(tmp_path / "trained")
    return tmp_path


def test_labels_that_are_wrong_are_found_and_shown_with_what_they_should_be(folder: Path) -> None:
    rows = [row for row in read_index(folder / "prepared") if row["bag"]]
    flipped = {row["filename"]: {"bag": str(1 - int(row["bag"]))} for row in rows[5::25]}
    rewrite(folder / "prepared", flipped)
    out = folder / "out"
    assert main(STAGE, [*inputs(folder), "--out", str(out), *QUICK]) == 0
    found = {row["filename"]: row for row in doubts_of(out) if row["attribute"] == "bag"}
    seen = set(flipped) & set(found)
    assert len(seen) >= 0.7 * len(flipped), "over seeds 7 to 10 of the 10"
    for name in seen:
        labels = flipped[name]
        assert found[name]["label"] == ("no", "yes")[int(labels["bag"])]
        assert found[name]["suggested"] == ("yes", "no")[int(labels["bag"])]
        assert found[name]["split"] in {"train", "val"}
    ranked = doubts_of(out)
    assert [int(row["rank"]) for row in ranked] == list(range(1, len(ranked) + 1))
    worths = [float(row["worth"]) for row in ranked]
    assert worths == sorted(worths, reverse=True)

    metrics = json.loads((out / "metrics" / "label_doubt.json").read_text())
    assert metrics["doubts"] == len(ranked)
    assert metrics["attributes"]["bag"]["doubts"] == len(found)
    shares = [attribute["balanced_accuracy"] for attribute in metrics["attributes"].values()]
    assert metrics["mean_balanced_accuracy"] == pytest.approx(np.mean(shares))
    assert metrics["attributes"]["bag"]["majority"] < metrics["attributes"]["bag"]["accuracy"]
    page = (out / "report.html").read_text()
    assert len(re.findall(r"<img [^>]*data:image", page)) == 3
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|doubts.csv|label_studio)""", page)
    assert "balanced accuracy" in page
    offered = [json.loads(html.unescape(text)) for text in re.findall('data-labels="([^"]*)"', page)]
    assert [image["filename"] for image in offered] == [row["filename"] for row in ranked[:3]]
    assert all(list(image["suggested"]) == [str(at) for at in image["asked"]] for image in offered)
    read_by_validate(out, ranked)
    assert f"{len(ranked)} of {metrics['labels']:,} labels are doubtful" in page


def read_by_validate(out: Path, doubts: list[dict[str, str]]) -> None:
    """See that what Label Studio exports, if people submit what is suggested, has the suggested class of each doubt."""
    choices = {
        choice.get("name"): [choice.get("value") for choice in choice]
        for choice in ElementTree.parse(out / "label_studio.xml").iter("Choices")  # noqa: S314 (ours)
    }
    assert choices == {attribute.column: [*attribute.classes, "unknown"] for attribute in SAMPLE_ATTRIBUTES}
    tasks = json.loads((out / "label_studio.json").read_text())
    assert len(tasks) == len({row["filename"] for row in doubts})
    for task in tasks:
        assert task["data"]["image"].startswith("data:image/jpeg;base64,")
        assert "annotated" in task["data"]["doubts"]
        task["annotations"] = [{"completed_by": 1, "result": task.pop("predictions")[0]["result"]}]
    export = out.parent / "project-1-at-2026-11-28-07-00-0a1b2c3d.json"
    export.write_text(json.dumps(tasks))
    found = read_annotations(AttributesFile(SAMPLE_ATTRIBUTES, {}, {}), export).rows.set_index("filename")
    for row in doubts:
        attribute = SAMPLE_ATTRIBUTES[SAMPLE_NAMES.index(row["attribute"])]
        assert found.loc[row["filename"], attribute.column] == str(attribute.classes.index(row["suggested"]))


def test_unknown_labels_are_never_doubted_and_nothing_found_is_said(folder: Path) -> None:
    unknown = dict.fromkeys(SAMPLE_NAMES, "")
    rewrite(folder / "prepared", {"*": unknown | {"bow": "1"}, "a_0.png": unknown})
    out = folder / "out"
    assert main(STAGE, [*inputs(folder), "--out", str(out), *QUICK, "--set", "label_doubt.epochs=1"]) == 0
    assert doubts_of(out) == []
    assert "None of 279 labels is doubtful" in (out / "report.html").read_text()
    metrics = json.loads((out / "metrics" / "label_doubt.json").read_text())
    assert metrics["images"] == 279
    bag = metrics["attributes"]["bag"]
    assert (bag["labels"], bag["doubts"], bag["accuracy"]) == (0, 0, None)
    assert "it needs known labels of two classes" in bag["not_checked"]


def test_networks_that_do_not_know_better_than_chance_doubt_nothing_and_the_report_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def shuffled(labels: npt.NDArray[np.int64], _splits: object) -> None:
        np.random.default_rng(1).shuffle(labels[:, SAMPLE_NAMES.index("coat_color")])

    make_prepared(tmp_path / "prepared", train=120, change=shuffled)
    make_trained(tmp_path / "trained")
    out = tmp_path / "out"
    assert main(STAGE, [*inputs(tmp_path), "--out", str(out), *QUICK, "--set", "label_doubt.epochs=12"]) == 0
    assert "coat_color" not in {row["attribute"] for row in doubts_of(out)}
    metrics = json.loads((out / "metrics" / "label_doubt.json").read_text())
    assert "the networks have not learned it well enough" in metrics["attributes"]["coat_color"]["not_checked"]
    assert metrics["attributes"]["bag"]["not_checked"] == ""
    assert "coat_color: labels are not checked: the networks have not learned" in caplog.text
    page = (out / "report.html").read_text()
    assert page.index("Coat colour is not checked") < page.index("doubtful labels")
    assert artifacts.read_manifest(out)["headline"]["not_checked"] == "coat_color"


def test_many_attributes_that_are_not_checked_are_named_in_one_line_and_a_table_says_why(tmp_path: Path) -> None:
    make_prepared(tmp_path)
    told = {"labels": 9, "doubts": 0, "accuracy": None, "majority": None, "balanced_accuracy": None, "roc_auc": None}
    measured = {name: told | {"not_checked": f"no {name}"} for name in SAMPLE_NAMES}
    means = dict.fromkeys(("mean_accuracy", "mean_balanced_accuracy", "mean_majority"))
    metrics = {**means, "labels": 45, "doubtful_images": 0, "attributes": measured}
    report = doubt_report([], read_split(tmp_path, "train"), [], metrics, 3)
    titles = [attribute.title for attribute in SAMPLE_ATTRIBUTES]
    assert report.verdict.startswith(f"{len(titles)} attributes are not checked: {', '.join(titles)}; None of 45")
    reasons = [section.rows for section in report.sections if isinstance(section, Table)][-1]
    assert reasons == [(title, f"no {name}") for title, name in zip(titles, SAMPLE_NAMES, strict=True)]


def test_a_label_of_a_class_that_networks_have_not_seen_is_not_doubted(tmp_path: Path) -> None:
    def one_gray(labels: npt.NDArray[np.int64], _splits: object) -> None:
        color = labels[:, SAMPLE_NAMES.index("coat_color")]
        color[color == 4] = -1
        color[7] = 4

    make_prepared(tmp_path / "prepared", train=120, change=one_gray)
    make_trained(tmp_path / "trained")
    assert (
        main(STAGE, [*inputs(tmp_path), "--out", str(tmp_path / "out"), *QUICK, "--set", "label_doubt.epochs=12"]) == 0
    )
    colors = [row for row in doubts_of(tmp_path / "out") if row["attribute"] == "coat_color"]
    assert not [row for row in colors if "green" in {row["label"], row["suggested"]}]


def test_a_class_is_doubted_against_how_sure_the_networks_are_of_it() -> None:
    # They are sure of red at 0.9 on average and of beige at 0.6, so 0.6 counts as beige and 0.7 not as red.
    seen = np.full((23, 5), 0.0, np.float32)
    seen[:10, 0], seen[:10, 3] = 0.6, 0.4
    seen[10:20, 2], seen[10:20, 3] = 0.9, 0.1
    seen[20, 0], seen[20, 2] = 0.65, 0.35
    seen[21, 2], seen[21, 0] = 0.7, 0.3
    seen[22] = 0.2
    labels = np.array([0] * 10 + [2] * 10 + [2, 0, -1], np.int16)
    assert [doubt.image for doubt in find_doubts(COAT_COLOR, labels, seen)] == [20]


def test_a_doubt_of_a_rare_class_is_worth_more_and_networks_that_tell_it_are_good_enough() -> None:
    # Of 1,000 labels 40 are rare, 2 of which the networks take for frequent, and one of the frequent for rare.
    bow = SAMPLE_ATTRIBUTES[SAMPLE_NAMES.index("bow")]
    labels = np.array([1] * 40 + [0] * 960, np.int16)
    rare = np.where(labels == 1, 0.3, 0.01).astype(np.float32)  # never the more probable class
    assert area_of(bow, labels, np.stack([1 - rare, rare], 1)) == 1
    assert area_of(bow, labels, np.tile(np.array([0.96, 0.04], np.float32), (1000, 1))) == 0.5
    assert (why_not_checked(1), bool(why_not_checked(0.5))) == ("", True)
    rare[:2], rare[40] = 0.001, 0.9
    few = {doubt.image: doubt.worth for doubt in find_doubts(bow, labels, np.stack([1 - rare, rare], 1))}
    even = np.concatenate([labels, np.ones(920, np.int16)])
    rare = np.concatenate([rare, np.full(920, 0.3, np.float32)])
    many = {doubt.image: doubt.worth for doubt in find_doubts(bow, even, np.stack([1 - rare, rare], 1))}
    assert few.keys() == many.keys() == {0, 1, 40}
    assert few[40] == pytest.approx(0.9 * (1 / 40 + 1 / 960) / 2)
    assert all(few[image] > 10 * many[image] for image in few)


def test_a_picture_under_two_names_is_in_one_fold_and_folds_are_about_equal() -> None:
    pixels = [f"{number // 2:032x}" for number in range(100)]
    fold = assign_folds(pixels, 4, seed=1)
    assert (fold[::2] == fold[1::2]).all()
    assert sorted(np.bincount(fold)) == [24, 24, 26, 26]
    assert (assign_folds(pixels[::-1], 4, seed=1) == fold[::-1]).all()
    assert (assign_folds(pixels, 4, seed=2) != fold).any()
    uneven = ["a"] * 30 + [f"{number}" for number in range(70)]
    fold = assign_folds(uneven, 4, seed=1)
    assert len(set(fold[:30])) == 1
    assert sorted(np.bincount(fold)) == [23, 23, 24, 30]
    with pytest.raises(
        DataError, match=r"2 different pictures with known labels are too few for 3 folds: .* label_doubt.folds"
    ):
        assign_folds(pixels[:4], 3, seed=1)


def test_hyperparameters_that_train_does_not_tell_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifacts.write_json(folder / "trained" / "hyperparameters.json", {"width": 0})
    finish(folder / "trained", "train")
    assert main(STAGE, [*inputs(folder), "--out", str(folder / "out"), *QUICK]) == 65
    assert "hyperparameters.json (" in caplog.text
    assert "): run stage train again" in caplog.text
    assert not (folder / "out").exists()


def test_a_stopped_run_publishes_nothing_and_keeps_its_folds(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    quick = [*inputs(folder), *QUICK, "--set", "label_doubt.epochs=5"]
    arguments = [*quick, "--out", str(folder / "out"), "--set", "label_doubt.workers=1"]
    command = [sys.executable, "-m", "stages.label_doubt", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    stop_when(process, lambda: list(folder.rglob("fold_1_checkpoint.safetensors")), "a checkpoint of the second fold")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert not (folder / "out").exists()
    assert not list(folder.glob(".partial-*"))

    caplog.set_level("INFO")
    assert main(STAGE, arguments) == 0
    assert "fold_0.safetensors of an interrupted run is used" in caplog.text
    assert main(STAGE, [*quick, "--out", str(folder / "whole"), "--set", "label_doubt.workers=2"]) == 0
    assert doubts_of(folder / "out") == doubts_of(folder / "whole")


def test_help_loads_neither_pytorch_nor_cleanlab() -> None:
    code = (
        "import sys; from stages.label_doubt import stage; assert not {'torch', 'cleanlab', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
