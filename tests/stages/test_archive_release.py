"""Stage `archive` run for real on models in small: which of them are registered and released, and what is said."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.archive.commands import run
from stages.common.contract import artifacts
from stages.common.contract.errors import UnavailableError, UsageError
from stages.common.contract.run import RUN
from stages.common.registry.registry import LINEAGE, PAGE
from stages.common.registry.seen import read_seen
from stages.common.schema.attributes import Attribute, Attributes
from tests.common.samples import SAMPLE_ATTRIBUTES, SAMPLE_NAMES
from tests.stages.archived import COPY, Pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


def versions(pipeline: Pipeline) -> list[str]:
    return [version.name for version in pipeline.registry.versions()]


def test_the_same_weights_are_no_new_version_and_undo_no_rollback(pipeline: Pipeline) -> None:
    pipeline.prepare(wrong=(30, 0, 0, 0, 0, 0))
    for model in (0, 1):
        pipeline.train(model)
        assert pipeline.archive() == 0
    assert pipeline.champion() == "v2"
    with pipeline.registry.locked():
        pipeline.registry.rollback("")
    pipeline.train(1, key="trained again, since there is one more image")
    assert pipeline.archive() == 0
    assert (versions(pipeline), pipeline.champion()) == (["v1", "v2"], "v1")
    assert "v2 is archived. Release gate: fit" in pipeline.page()


def test_a_version_knows_its_pictures_and_those_left_out_for_being_nearly_the_same(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.prepare(images=3)
    pipeline.train(0)
    assert pipeline.archive() == 0
    pipeline.registry.fetch("v1", tmp_path / "v1", ["reference"])
    known = read_seen(tmp_path / "v1" / "reference")
    expected = [*(artifacts.json_digest(["a", number])[:16] for number in range(3)), COPY[:16]]
    assert known is not None
    assert known.tolist() == sorted(int(digest, 16) for digest in expected)


def test_a_version_keeps_the_report_of_one_more_stage_and_what_it_links(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.add_stage("explain", '<a href="reasons.csv">', reasons="why\n", other="\n")
    pipeline.train(0)
    assert pipeline.archive() == 0
    pipeline.registry.fetch("v1", tmp_path / "v1", ["report"])
    kept = tmp_path / "v1" / "report" / "explain"
    assert {path.name for path in kept.iterdir()} == {"report.html", "reasons.csv"}
    assert (kept / "reasons.csv").read_text() == "why\n"
    assert "explain" in json.loads(pipeline.registry.text("v1", LINEAGE))


def test_a_model_that_answers_as_the_champion_does_is_no_reason_to_release(pipeline: Pipeline) -> None:
    pipeline.train(0)
    assert pipeline.archive() == 0
    pipeline.train(1)  # other bytes
    assert pipeline.archive() == 0
    assert (versions(pipeline), pipeline.champion()) == (["v1", "v2"], "v1")
    assert "it answers every test image as v1 does" in pipeline.verdict()


def test_a_model_of_other_data_replaces_no_champion_unless_a_person_asks(pipeline: Pipeline) -> None:
    pipeline.prepare("avatars")
    pipeline.train(0)
    assert pipeline.archive() == 0
    pipeline.prepare("photographs", wrong=(90, 0, 0, 0, 0, 0))
    pipeline.train(1)
    assert pipeline.archive() == 0
    assert pipeline.champion() == "v1"
    said = "it was trained on other data than v1: none of its 200 pictures is among the 200 that v1 knows"
    assert said in pipeline.verdict()
    assert said in run(["versions", "--registry", str(pipeline.registry.home)])
    assert pipeline.archive("archive.force=true") == 0
    assert pipeline.champion() == "v2"


def test_what_one_of_both_never_answers_is_left_out_and_fewer_answers_are_no_progress(pipeline: Pipeline) -> None:
    pipeline.prepare(wrong=(80, 0, 0, 0, 0, 0))
    pipeline.train(0, never=["bow"])
    assert pipeline.archive() == 0
    pipeline.train(1, never=["bag", "scarf"])
    assert pipeline.archive() == 0
    assert pipeline.champion() == "v1"
    assert (
        "it never answers bag and scarf, because its training has no label of that, and v1 does" in pipeline.verdict()
    )
    assert "v1 never answers bow, so that is left out" in pipeline.page()
    attributes = json.loads((Path(pipeline.result["path"]) / "gate.json").read_text())["champion"]["attributes"]
    assert [name for name, attribute in attributes.items() if attribute["labels"]] == ["coat_color", "coat_length"]


HAT = Attribute("hat", ("none", "cap"), "hat", "Hat")
TALL = Attribute("bag", ("no", "yes", "rucksack"), "bag", "Bag")


@pytest.mark.parametrize(
    ("attributes", "how"),
    [
        (SAMPLE_ATTRIBUTES[1:], "with bag"),
        ((HAT, *SAMPLE_ATTRIBUTES[:3]), "without hat, with coat_color and coat_length"),
        ((TALL, *SAMPLE_ATTRIBUTES[1:]), "with other classes of bag"),
    ],
    ids=["fewer", "others", "other classes"],
)
def test_a_model_of_other_attributes_replaces_no_champion_unless_a_person_asks(
    pipeline: Pipeline, attributes: Attributes, how: str
) -> None:
    pipeline.prepare(wrong=(90, 0, 0, 0, 0, 0))
    pipeline.train(0)
    assert pipeline.archive() == 0
    pipeline.prepare(attributes=attributes)
    pipeline.train(1, attributes=attributes)
    assert pipeline.archive() == 0
    assert (versions(pipeline), pipeline.champion()) == (["v1", "v2"], "v1")
    assert f"it cannot be compared with v1, a model of other attributes ({how}): archive.force" in pipeline.verdict()
    assert pipeline.archive("archive.force=true") == 0
    assert pipeline.champion() == "v2"


@pytest.mark.parametrize("unlabelled", [False, True], ids=["with labels", "without a label"])
def test_an_attribute_that_is_added_is_no_obstacle(pipeline: Pipeline, unlabelled: bool) -> None:
    """The models are compared in the attributes that both answer."""
    more, none = (*SAMPLE_ATTRIBUTES, HAT), ["hat"] if unlabelled else []
    for model, attributes in enumerate([SAMPLE_ATTRIBUTES, more, more]):
        pipeline.prepare(attributes=attributes, unlabelled=none, wrong=(40, 10, 80, 0, 0, 0))
        pipeline.train(model, attributes=attributes, never=[name for name in none if len(attributes) > 5])
        assert pipeline.archive() == 0
        assert pipeline.champion() == ("v1" if model == 0 else "v2")
        gate = json.loads((Path(pipeline.result["path"]) / "gate.json").read_text())
        if model == 1:
            assert ("v1 never answers hat, so that is left out" in pipeline.page()) is not unlabelled
        if gate["champion"]:
            compared = [name for name, attribute in gate["champion"]["attributes"].items() if attribute["labels"]]
            assert compared == [*SAMPLE_NAMES, *(["hat"] if model == 2 and not unlabelled else [])]


def test_a_champion_of_another_metric_is_compared_by_the_present_one(pipeline: Pipeline) -> None:
    pipeline.prepare(wrong=(60, 0, 0, 0, 0, 0))
    pipeline.train(0)
    assert pipeline.archive() == 0
    pipeline.train(1)
    assert pipeline.archive("evaluate.metric=balanced_accuracy") == 0
    assert pipeline.champion() == "v2"
    assert "mean balanced accuracy 1.0000; not significantly worse than v1 in any attribute" in pipeline.verdict()
    gate = json.loads((Path(pipeline.result["path"]) / "gate.json").read_text())
    assert gate["metric"] == gate["champion"]["metric"] == "balanced_accuracy"
    assert (gate["means"]["accuracy"], gate["champion"]["of_version"]["accuracy"]) == (1, pytest.approx(0.94))
    assert [version.metric for version in pipeline.registry.versions()] == ["accuracy", "balanced_accuracy"]
    listed = run(["versions", "--registry", str(pipeline.registry.home)])
    assert "mean accuracy 1.0000, balanced 1.0000" in listed
    assert pipeline.result["headline"]["mean_balanced_accuracy"] == 1


def test_of_section_evaluate_the_metric_alone_makes_a_judgement_anew(pipeline: Pipeline) -> None:
    pipeline.train(0)
    cached = []
    for setting in ("batch_size=7", "batch_size=8", "metric=balanced_accuracy", "metric=accuracy"):
        assert pipeline.archive(f"evaluate.{setting}") == 0
        cached.append(pipeline.result["cached"])
    assert cached == [False, True, False, True]


def test_data_that_have_grown_are_no_other_data(pipeline: Pipeline) -> None:
    pipeline.prepare("avatars", images=200, wrong=(30, 0, 0, 0, 0, 0))
    pipeline.train(0)
    assert pipeline.archive() == 0
    pipeline.prepare("avatars", images=400, wrong=(30, 0, 0, 0, 0, 0))
    pipeline.train(1)
    assert pipeline.archive() == 0
    assert pipeline.champion() == "v2"


@pytest.mark.parametrize(("data", "others"), [({"crop": "content"}, False), ({"seed": 2}, True)], ids=["same", "other"])
def test_a_champion_of_other_splits_is_told_by_what_makes_them(
    pipeline: Pipeline, data: dict[str, Any], others: bool
) -> None:
    """A version of earlier code says nothing of the crop, which moves no image."""
    pipeline.prepare(wrong=(30, 0, 0, 0, 0, 0))
    pipeline.train(0)
    assert pipeline.archive() == 0
    pipeline.prepare(wrong=(30, 0, 0, 0, 0, 0), **data)
    pipeline.train(1)
    assert pipeline.archive() == 0
    assert ("v1 was trained with other splits" in pipeline.page()) is others


def test_small_losses_add_up_to_no_more_than_the_margin(pipeline: Pipeline) -> None:
    """From v2 on, each is .006 worse than the one before, which is significant in nothing."""
    pipeline.prepare(wrong=(80, 20, 26, 32, 0, 0))
    for model in range(4):
        pipeline.train(model)
        assert pipeline.archive() == 0
    assert [version.best for version in pipeline.registry.versions()] == ["v1", "v2", "v2", "v2"]
    assert pipeline.champion() == "v3"
    assert "lower than that of v2, the best version so far, by more than archive.margin (0.01)" in pipeline.verdict()
    page = pipeline.page()
    assert "The best version so far is v2: on the same images the candidate lies -0.0120" in page
    assert "and the champion -0.0060" in page


def test_a_slice_that_falls_is_warned_of_and_refuses_nothing(pipeline: Pipeline) -> None:
    """v1 errs in the first lot, v2 as often in the second: in no mean are they different."""
    pipeline.prepare(wrong=(100, 100, 0, 0, 0, 0), lots=2)
    for model in (0, 1):
        pipeline.train(model)
        assert pipeline.archive() == 0
    assert pipeline.champion() == "v2"
    line = "against v1, bow on images of lot s2: 0.800 against 1.000 of 100 labels right, 20 answers worse"
    assert f"warning: {line}" in pipeline.verdict()
    assert line in str(pipeline.result["headline"]["warnings"])
    gate = json.loads((Path(pipeline.result["path"]) / "gate.json").read_text())
    assert sum("images of lot s2: 0.800" in warning for warning in gate["warnings"]) == len(SAMPLE_NAMES)
    assert "Slices, against v1" in pipeline.page()
    pipeline.train(1, key="again")
    assert pipeline.archive("archive.slice_margin=0.3") == 0
    assert "warnings" not in pipeline.result["headline"]


def test_versions_of_earlier_code_can_still_be_met_and_succeeded(pipeline: Pipeline) -> None:
    pipeline.prepare(wrong=(30, 0, 0, 0, 0, 0))
    pipeline.train(0)
    assert pipeline.archive() == 0
    git = ["git", "-C", str(pipeline.registry.repository), "-c", "user.name=a", "-c", "user.email=a@localhost"]
    told = json.loads(subprocess.check_output([*git, "tag", "--list", "v1", "--format=%(contents)"]))
    del told["model_digest"], told["best"]
    told["model"] = "f" * 64  # the key of its train artifact
    subprocess.run([*git, "tag", "--force", "-m", json.dumps(told), "v1", "v1^{}"], check=True, capture_output=True)
    before = pipeline.registry.version("v1")
    assert (before.model_digest, before.best) == ("", "v1")
    pipeline.train(1)
    assert pipeline.archive() == 0
    assert pipeline.champion() == "v2"


def decide(pipeline: Pipeline, *words: str) -> dict[str, Any]:
    """Result that a run of Airflow gets from a command."""
    told = pipeline.folder / "decided.json"
    store = pipeline.folder / "store"
    run([*words, "--registry", str(pipeline.registry.home), "--store", str(store), "--result", str(told)])
    result: dict[str, Any] = json.loads(told.read_text())
    return result


def test_the_registry_and_the_report_say_who_decided_and_why(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.prepare(wrong=(0, 60, 0, 0, 0, 0))
    keys = []
    for model in (0, 1):
        pipeline.train(model)
        assert pipeline.archive() == 0
        keys.append(pipeline.result["key"])
    assert pipeline.result["headline"]["fit"] == "no"
    assert "worse than v1" in pipeline.result["headline"]["why"]
    told = {"dag_id": "release_version", "run_id": "manual__1", "by": "Anna B", "stages": {}}
    monkeypatch.setenv(RUN, json.dumps(told))
    for _ in range(2):  # tried again by a worker that did not hear of its end
        pipeline.result = decide(pipeline, "promote", "v2", "--reason=--it looks better", "--against=v1")
    assert pipeline.result["headline"] == {
        "version": "v2", "champion": "v2", "action": "promote", "by": "Anna B", "reason": "--it looks better",
        "mean_accuracy": pytest.approx(0.94),
    }  # fmt: skip
    assert (pipeline.result["key"], Path(pipeline.result["path"]).name) == (keys[1], keys[1])
    assert "v2 is the champion (promote by Anna B: --it looks better)" in pipeline.page()
    monkeypatch.setenv(RUN, json.dumps(told | {"run_id": "manual__2", "by": ""}))
    for _ in range(2):
        decide(pipeline, "rollback", "--by", "Berta", "--reason=no")
    assert [(release.version, release.by, release.run) for release in pipeline.registry.releases()] == [
        ("v1", "", ""), ("v2", "Anna B", "release_version manual__1"), ("v1", "Berta", "release_version manual__2")
    ]  # fmt: skip
    listed = run(["versions", "--registry", str(pipeline.registry.home)]).splitlines()
    assert listed[-2].endswith("  promote  v2    Anna B: --it looks better")
    assert listed[-1].endswith("  rollback v1    Berta: no")
    page = pipeline.registry.home / PAGE
    assert "promote by Anna B" in page.read_text()


def test_a_release_whose_page_cannot_be_written_is_told_all_the_same(pipeline: Pipeline) -> None:
    for model in (0, 1):
        pipeline.train(model)
        assert pipeline.archive("archive.force=true") == 0
    page = pipeline.registry.home / PAGE
    shutil.rmtree(page.parent)
    page.parent.write_text("in the way")
    with pytest.raises(UnavailableError, match="v1 is the champion now, and the page of all versions cannot be"):
        run(["rollback", "--registry", str(pipeline.registry.home)])
    assert (pipeline.registry.releases()[-1].version, pipeline.registry.releases()[-1].action) == ("v1", "rollback")


def test_a_release_by_force_says_by_whom(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN, json.dumps({"run_id": "r", "by": "Anna", "stages": {}}))
    for model in (0, 1):
        pipeline.train(model)
        assert pipeline.archive("archive.force=true") == 0
    assert [release.by for release in pipeline.registry.releases()] == ["", "Anna"]


def test_a_version_is_not_promoted_over_a_champion_that_it_was_not_compared_with(pipeline: Pipeline) -> None:
    pipeline.prepare(wrong=(40, 60, 0, 0, 0, 0))
    for model in range(3):
        pipeline.train(model)
        assert pipeline.archive() == 0
    assert pipeline.champion() == "v3"
    with pytest.raises(UsageError, match="the champion changed from v1 to v3 after v2 was compared with it: inspect"):
        decide(pipeline, "promote", "v2", "--against", "v1")
    assert pipeline.champion() == "v3"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["promote"], "the following arguments are required: version"),
        (["promote", "v7"], "no version v7 in"),
        (["rollback"], "nothing to go back to in"),
        (["rollback", "v1"], "unrecognized arguments: v1"),
        (["rollback", "--result", "x"], "--result FILE needs --store DIR"),
    ],
)
def test_a_command_that_makes_no_sense_is_one_line(pipeline: Pipeline, words: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        run([*words, "--registry", str(pipeline.registry.home)])
    assert "\n" not in str(refused.value)


def test_a_registry_that_cannot_be_used_is_one_line_and_69(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "stages.archive", "rollback", "--registry", str(tmp_path / "file" / "registry")]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"archive: {tmp_path}/file/registry: Not a directory: name a folder")


def test_a_list_that_nobody_reads_to_its_end_ends_quietly(pipeline: Pipeline) -> None:
    command = [sys.executable, "-m", "stages.archive", "versions", "--registry", str(pipeline.registry.home)]
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False, text=True)
    os.close(write)
    assert process.stderr == ""
