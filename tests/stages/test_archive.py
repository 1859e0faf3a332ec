"""Archive: artifacts of one run only, and a report that shows data as text."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages.archive.collect import linked_files
from stages.archive.gate import compare
from stages.archive.lineage import check_one_run, used_params
from stages.archive.release import standing
from stages.archive.report import build_report
from stages.archive.run_page import write_run
from stages.common.contract.artifacts import read_manifest
from stages.common.contract.errors import DataError
from stages.common.contract.run import RUN
from stages.common.inference.answers import Answers
from stages.common.inference.measures import measure
from stages.common.registry.registry import Release, Version
from stages.common.reports.report import Group, Labels, Picture, Pictures, write_report
from stages.common.schema.attributes import write_attributes
from tests.common.samples import SAMPLE_ATTRIBUTES


def manifest(key: str, inputs: dict[str, Any], **params: Any) -> dict[str, Any]:
    return {
        "key": key * 64, "content": key * 64, "inputs": inputs, "params": params,
        "created": "2026-01-01T00:00:00Z", "seconds": 1.5, "peak_memory_mb": 100.0, "headline": {"images": 7},
    }  # fmt: skip


@pytest.fixture
def manifests() -> dict[str, dict[str, Any]]:
    return {
        "validate": manifest("a", {"raw": {"digest": "f" * 64, "path": "raw", "files": 9}}, validate={"lots": []}),
        "prepare_train": manifest("b", {"validate": {"key": "a" * 64, "content": "a" * 64}}, data={"image_size": 64}),
        "train": manifest("c", {"prepare_train": {"key": "b" * 64, "content": "b" * 64}}, train={"epochs": 1}),
    }


def test_artifacts_of_one_run_pass(manifests: dict[str, dict[str, Any]]) -> None:
    check_one_run(manifests)
    manifests["train"]["params"]["data"] = {"seed": 1}  # of a section that both read a part of
    assert used_params(manifests) == {
        "validate": {"lots": []}, "data": {"image_size": 64, "seed": 1}, "train": {"epochs": 1},
    }  # fmt: skip


def test_an_artifact_of_another_run_is_named(manifests: dict[str, dict[str, Any]]) -> None:
    manifests["train"]["inputs"]["prepare_train"]["content"] = "9" * 64
    with pytest.raises(DataError, match=r"train was made from prepare_train 999999999999, but .* holds bbbbbbbbbbbb"):
        check_one_run(manifests)


GATE = {
    "model_digest": "c" * 64, "against": "none", "best_after": None, "forced": False, "lots": ["s1"],
    "metric": "accuracy", "means": {"accuracy": 0.5, "balanced_accuracy": None}, "interval": [0.4, 0.6], "fit": False,
    "reasons": ["mean accuracy 0.5000 is below <monitor>"],
    "champion": None, "best": None, "champion_to_best": None, "slices": [], "warnings": [],
}  # fmt: skip


EVALUATION = {
    "mean_accuracy": 0.5, "mean_balanced_accuracy": None, "mean_majority": 0.5, "images": 3,
    "no_better": ["<bag> is no better than its most frequent class"], "worst_slice": None,
    "attributes": {
        attribute.name: measure(Answers(attribute, np.zeros(3, int), np.eye(3, 2))) for attribute in SAMPLE_ATTRIBUTES
    },
}  # fmt: skip


def write_version(folder: Path, manifests: dict[str, dict[str, Any]], **gate: Any) -> None:
    """Write the files that the reports are made of, without metrics."""
    folder.mkdir(exist_ok=True)
    (folder / "lineage.json").write_text(json.dumps(manifests))
    (folder / "params.yaml").write_text(json.dumps(used_params(manifests)))
    (folder / "gate.json").write_text(json.dumps(GATE | gate))
    write_attributes(folder, SAMPLE_ATTRIBUTES)
    picture = {"uri": "data:image/jpeg;base64,xx", "lines": ["s1_1.png", "Bag: yes (97%)"], "missing": ""}
    hardest = {"title": "Wrong answers", "pictures": [picture], "note": "the surest of 9"}
    (folder / "hardest.json").write_text(json.dumps([hardest]))


def test_the_report_shows_cells_as_text_and_unmeasured_figures_as_a_dash(
    manifests: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    write_version(tmp_path, manifests)
    for folder in ("metrics", "validate"):
        (tmp_path / folder).mkdir()
    (tmp_path / "metrics" / "eval_metrics.json").write_text(json.dumps(EVALUATION))
    validation = {
        "not_selected": 41, "unannotated": 42, "remarks": {"repeats another row": 43}, "ignored": {"<link>": 44},
    }  # fmt: skip
    stats = {"duplicates": {"pictures": 45, "images": 99, "contradicting_labels": 46, "listed": []}}
    rejects = (
        "source,row,filename,reason\nx,2,<script>alert(1)</script>,bad\nx,3,'=a.png,bad\n" + "x,4,y.png,bad\n" * 60
    )
    (tmp_path / "validate" / "rejected.csv").write_text(rejects)

    def render() -> str:
        write_report(tmp_path / "report.html", build_report("<Faces>", tmp_path, "../versions.html"))
        return (tmp_path / "report.html").read_text()

    assert "Left out or with a warning" not in render()
    (tmp_path / "metrics" / "validation.json").write_text(json.dumps(validation))
    (tmp_path / "metrics" / "data_stats.json").write_text(json.dumps(stats))
    page = render()
    assert re.findall(r"<td>([^<]*)</td><td class=\"n\">(4\d)</td>", page) == [
        ("lot not selected", "41"), ("repeats another row", "43"), ("no annotation", "42"),
        ("under several names (99 images)", "45"), ("under several names, with contradicting labels", "46"),
    ]  # fmt: skip
    assert "&lt;link&gt;" in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<title>&lt;Faces&gt;" in page
    assert "62 rejected by validate" in page
    assert "50 of 62 shown" in page
    assert ">=a.png<" in page  # as it is called, without what keeps spreadsheets from running it
    assert "\u2013" in page
    first = "mean accuracy 0.5000 is below &lt;monitor&gt;; &lt;bag&gt; is no better than its most frequent class"
    assert f"<b>Not fit for release</b>{first}" in page


def test_labels_of_the_hardest_images_can_be_corrected_on_the_page_of_a_version(
    manifests: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    write_version(tmp_path, manifests)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "eval_metrics.json").write_text(json.dumps(EVALUATION))
    known = [1, *[None] * (len(SAMPLE_ATTRIBUTES) - 1)]
    picture = Picture("data:image/jpeg;base64,xx", ["s1_1.png"], labels=Labels("s1_1.png", known, [0], {0: 0}))
    pictures = Pictures("Wrong answers", [picture], "the surest of 9")
    (tmp_path / "hardest.json").write_text(json.dumps([asdict(pictures)]))  # as stage evaluate does
    report = build_report("Faces", tmp_path, "../versions.html")
    assert Group("Hardest test images", [pictures]) in report.sections
    assert report.correctable
    assert report.attributes == SAMPLE_ATTRIBUTES


def test_the_report_says_of_p_no_more_than_it_is(manifests: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    champion = np.ones((9, len(SAMPLE_ATTRIBUTES)))
    candidate = champion.copy()
    candidate[:3] = 0
    labels = np.tile(np.arange(9) % 2, (len(SAMPLE_ATTRIBUTES), 1)).T
    met = compare(SAMPLE_ATTRIBUTES, "accuracy", labels, "v1", candidate, champion)
    write_version(tmp_path, manifests, champion=asdict(met))
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "eval_metrics.json").write_text(json.dumps(EVALUATION))
    write_report(tmp_path / "report.html", build_report("Faces", tmp_path, "../versions.html"))
    page = (tmp_path / "report.html").read_text()
    assert "how often two equally good models would differ by at least this much" in page
    assert "probability" not in page  # p is none: neither that the candidate is worse nor that it is no worse


def test_the_page_of_a_run_says_what_it_did_and_what_was_there_already(
    manifests: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, runs = tmp_path / "archive" / "key", tmp_path / "run"
    archive.parent.mkdir()
    right, labels = np.eye(3, 5), np.zeros((3, 5), int)
    met = compare(SAMPLE_ATTRIBUTES, "accuracy", labels, "v1", right, right, ["v1 was trained with other splits"])
    comparison = asdict(met)
    write_version(archive, manifests, fit=True, reasons=["good"], champion=comparison)
    for name in ("metrics", "train"):
        (archive / name).mkdir()
    (archive / "train" / "report.html").write_text("")
    (archive / "metrics" / "eval_metrics.json").write_text(json.dumps(EVALUATION))
    run = {
        "run_id": "manual__<1>",
        "stages": {"validate": {"cached": True, "seconds": 0.2}, "train": {"cached": False, "seconds": 9}},
    }
    (archive / "manifest.json").write_text(json.dumps({"key": "d" * 64}))
    version = Version("v2", "m", "d" * 64, 0.5, "", "v2", True, ["good"], ["s1"], "now")
    releases = list[Release]()
    registry: Any = SimpleNamespace(home=tmp_path, releases=lambda: releases, champion=lambda: releases and version)
    monkeypatch.setenv(RUN, json.dumps(run | {"run_id": "next"}))
    other = write_run(runs, "Faces", archive, registry, version)
    releases.append(Release("v2", "promote", "<b>", "now"))
    monkeypatch.setenv(RUN, json.dumps(run))
    page, again = (write_run(runs, "Faces", archive, registry, version) for _ in range(2))
    assert page == again != other
    assert len(list(runs.iterdir())) == 2
    read_manifest(page.parent)
    text = page.read_text()
    assert "manual__&lt;1&gt;" in text
    assert "</span> cached</span>" in text
    assert "Bag: yes (97%)" in text
    assert "v2 is the champion (promote: &lt;b&gt;)." in text
    assert "v2 is archived." in other.read_text()
    assert "v1 was trained with other splits" in text
    (link,) = re.findall(r'href="([^"]*train/report.html)"', text)
    assert (page.parent / link).resolve() == archive / "train" / "report.html"


def test_an_archive_carries_what_the_reports_link_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    docs = tmp_path / "artifact" / "data_docs" / "images"
    docs.mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("")
    (tmp_path / "artifact" / "unlinked.csv").write_text("")
    (tmp_path / "artifact" / "a b.csv").write_text("")
    (docs / "suite.html").write_text("")
    (docs / "index.html").write_text('<a href="../../report.html"></a><a href="suite.html#x">')
    links = (
        "a%20b.csv",
        "data_docs/images/index.html",
        "../secret.csv",
        "/etc/passwd",
        "https://x/y.csv",
        "gone.csv",
        "#a",
    )
    (tmp_path / "artifact" / "report.html").write_text("".join(f'<a href="{link}">' for link in links))
    assert sorted(map(str, linked_files(tmp_path / "artifact"))) == [
        "a b.csv", "data_docs/images/index.html", "data_docs/images/suite.html", "report.html",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("releases", "words"),
    [
        ([], "v2 is archived. Release gate: not fit: too weak. No version is released."),
        ([("v2", "promote", "forced; the gate said: too weak")], "v2 is the champion (promote: forced; the gate said"),
        ([("v2", "promote", "x"), ("v1", "rollback", "why")], "The champion is v1 (rollback: why)."),
    ],
)
def test_the_page_of_a_run_says_how_the_champion_became_it(releases: list[tuple[Any, Any, str]], words: str) -> None:
    version = Version("v2", "m", "a", 0.5, "", "v2", False, ["too weak"], ["s1"], "now")
    registry = SimpleNamespace(releases=lambda: [Release(*release, "now") for release in releases])
    assert words in standing(registry, version)  # type: ignore[arg-type]
