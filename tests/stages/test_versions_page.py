"""The page of all versions: what stage archive keeps of each, on models in small, and what the page is given."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from stages.archive.commands import run
from stages.archive.versions_page import collect_versions
from stages.common.contract import artifacts
from stages.common.inference.compared import ANSWERS, compared_images
from stages.common.registry.registry import PAGE
from tests.common.samples import SAMPLE_NAMES
from tests.stages.archived import Pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Three versions: v2 errs elsewhere than v1, and v3 on other pictures."""
    made = Pipeline(tmp_path_factory.mktemp("versions"))
    for model, pictures in enumerate("aab"):
        made.prepare(pictures, wrong=(10, 4, 0, 0, 0, 0), lots=2)
        made.train(model)
        assert made.archive() == 0
    return made


def page_data(pipeline: Pipeline) -> Any:
    text = (pipeline.registry.home / PAGE).read_text()
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[0])


def answers(data: Any, version: Any) -> dict[tuple[str, str], int]:
    """Name of the image and of the attribute -> class, as the page's script finds it."""
    unlike = iter(version["unlike"])
    other = {(image, column): answer for image, column, answer in zip(unlike, unlike, unlike, strict=True)}
    return {
        (data["images"][image][1], attribute["name"]): other.get((image, column), data["images"][image][3][str(column)])
        for image in data["sets"][version["set"]]
        for column, attribute in enumerate(data["attributes"])
    }


def test_the_page_tells_every_version_and_run(pipeline: Pipeline) -> None:
    data = page_data(pipeline)
    assert [(version["name"], version["state"], version["fit"]) for version in data["versions"]] == [
        ("v1", "released", True), ("v2", "champion", True), ("v3", "", False),
    ]  # fmt: skip
    assert [run["version"] for run in data["runs"]] == ["v1", "v2", "v3"]
    for entry in (*data["runs"], *({"page": version["report"]} for version in data["versions"])):
        assert (pipeline.registry.home / PAGE.parent / entry["page"]).is_file()
    assert [release["version"] for release in data["releases"]] == ["v1", "v2"]
    assert [data["lots"][lot] for lot in data["versions"][0]["lots"]] == ["s1", "s2"]
    values = dict(zip(data["params"]["names"], data["versions"][0]["params"], strict=True))
    assert data["params"]["values"][values["data.seed"]] == "1"


def test_every_answer_of_every_version_can_be_told_from_the_page(pipeline: Pipeline) -> None:
    data = page_data(pipeline)
    first, second, third = (answers(data, version) for version in data["versions"])
    assert len(first) == 200 * len(SAMPLE_NAMES)
    differ = {cell for cell, answer in first.items() if answer != second[cell]}
    assert len(differ) == 14
    assert {int(re.findall(r"_(\d+)", name)[0]) for name, _ in differ} == set(range(14))
    sets = [{data["images"][image][0] for image in data["sets"][version["set"]]} for version in data["versions"]]
    assert sets[0] == sets[1]
    assert not sets[0] & sets[2]
    assert set(third) == set(first)  # of the same names


def test_thumbnails_lie_beside_the_page_and_the_script_is_that_of_the_policy(pipeline: Pipeline) -> None:
    folder = (pipeline.registry.home / PAGE).parent
    assert len(list((folder / "pictures").glob("*.jpg"))) == 20
    assert not list(folder.rglob(".*"))
    text = (folder / PAGE.name).read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text or f"script-src 'sha256-{digest}'" in text


def test_reports_lead_to_the_page(pipeline: Pipeline) -> None:
    for report in (Path(pipeline.result["report"]), Path(pipeline.result["path"]) / "report.html"):
        (link,) = re.findall(r'href="([^"]*versions.html)"', report.read_text())
        assert (report.parent / link).resolve() == (pipeline.registry.home / PAGE).resolve()


def test_a_promotion_by_hand_is_on_the_page_at_once(pipeline: Pipeline) -> None:
    run(["promote", "v1", "--registry", str(pipeline.registry.home), "--reason", "<script>alert(1)</script>"])
    text = (pipeline.registry.home / PAGE).read_text()
    assert "<script>alert" not in text
    data = page_data(pipeline)
    assert [version["state"] for version in data["versions"]] == ["champion", "released", ""]
    assert data["releases"][-1]["reason"] == "<script>alert(1)</script>"


def test_a_version_of_earlier_code_is_told_as_far_as_it_is_known(pipeline: Pipeline) -> None:
    found = collect_versions(pipeline.registry, pipeline.folder / "nowhere")
    assert found["runs"] == []
    records = pipeline.registry.texts
    pipeline.registry.texts = lambda path: {  # type: ignore[method-assign]
        name: text for name, text in records(path).items() if name != "v1"
    }
    found = collect_versions(pipeline.registry, pipeline.folder / "nowhere")
    assert "attributes" not in found["versions"][0]
    assert found["versions"][0]["accuracy"] == pytest.approx(0.99)
    assert "attributes" in found["versions"][1]


def test_the_same_pictures_are_kept_whatever_else_is_there() -> None:
    pictures = [artifacts.json_digest(number) for number in range(5000)]
    kept = {pictures[at] for at in compared_images(pictures, 5)}
    more = pictures[100:] + [artifacts.json_digest(["new", number]) for number in range(500)]
    kept_of_more = {more[at] for at in compared_images(more, 5)}
    assert len(kept) == len(kept_of_more) == ANSWERS // 5
    assert len(kept & kept_of_more) > 0.85 * len(kept)
    assert compared_images(["b", "a", "b"], 5) == [1, 0]
