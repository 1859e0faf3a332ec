"""Stage `champion`: what it takes out of the registry, and when that is another artifact."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.champion.params import Params
from stages.champion.stage import STAGE
from stages.common.contract.command_line import main
from stages.common.contract.errors import DataError
from stages.common.contract.stage import Context, Headline
from stages.common.registry.champion import Champion, read_champion
from stages.common.registry.registry import Registry, Version, now
from stages.common.schema.attributes import difference, write_attributes
from tests.common.samples import SAMPLE_ATTRIBUTES

pytestmark = pytest.mark.slow

Call = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Run the stage on the registry in `tmp_path`; exit code and result."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        result = tmp_path / "result.json"
        result.unlink(missing_ok=True)
        home = ["--registry", str(tmp_path / "registry"), "--store", str(tmp_path / "store"), "--result", str(result)]
        code = main(STAGE, [*home, *arguments])
        return code, json.loads(result.read_text()) if result.exists() else {}

    return run


def digest_of(name: str) -> str:
    return hashlib.sha256(f"model of {name}".encode()).hexdigest()


def release(home: Path, *names: str, earlier: bool = False) -> Registry:
    """A registry in which these versions were released in turn, by earlier code, or by this."""
    registry = Registry(home)
    for name in names:
        content = home.parent / f"content-{name}"
        for folder in ("model", "reference"):
            (content / folder).mkdir(parents=True)
        (content / "model" / "model.onnx").write_text(f"model of {name}")
        (content / "reference" / "features.npz").write_text(f"reference of {name}")
        for file in ("lineage.json", "params.yaml"):
            (content / file).write_text("{}")
        if earlier:
            (content / "metrics").mkdir()
            found = {attribute.name: {"classes": attribute.classes} for attribute in SAMPLE_ATTRIBUTES}
            (content / "metrics" / "eval_metrics.json").write_text(json.dumps({"attributes": found}))
        else:
            write_attributes(content, SAMPLE_ATTRIBUTES)
        balanced = None if name == "v1" else 0.8  # earlier code did not tell
        version = Version(name, digest_of(name), "a" * 64, 0.9, "", name, True, ["good"], ["s1", "s2"], now(), balanced)
        with registry.locked():
            registry.register(content, version)
            registry.promote(name, "good")
    return registry


def test_before_any_release_there_is_an_artifact_that_says_so(call: Call) -> None:
    code, result = call()
    assert (code, result["headline"]) == (0, {"version": "none"})
    assert read_champion(Path(result["path"])) is None
    assert call()[1]["cached"] is True


def test_the_champion_is_taken_and_a_rollback_finds_the_earlier_artifact(call: Call, tmp_path: Path) -> None:
    registry = release(tmp_path / "registry", "v1")
    first = call()[1]
    release(tmp_path / "registry", "v2")
    second = call()[1]
    path = Path(second["path"])
    lots = frozenset({"s1", "s2"})
    files = path / "model.onnx", path / "reference"
    expected = Champion("v2", digest_of("v2"), 0.9, lots, SAMPLE_ATTRIBUTES, *files, 0.8)
    assert read_champion(path) == expected
    assert expected.model.read_text() == "model of v2"
    assert (expected.reference / "features.npz").read_text() == "reference of v2"
    assert first["headline"] == {"version": "v1", "mean_accuracy": 0.9, "lots": 2}
    assert second["headline"] == {"version": "v2", "mean_accuracy": 0.9, "mean_balanced_accuracy": 0.8, "lots": 2}
    with registry.locked():
        registry.rollback("")
    again = call()[1]
    assert (again["cached"], again["path"]) == (True, first["path"])
    chosen = read_champion(Path(call("--set", "champion.version=v2")[1]["path"]))
    assert chosen
    assert chosen.version == "v2"


def test_what_a_version_of_earlier_code_answers_follows_from_its_metrics(call: Call, tmp_path: Path) -> None:
    release(tmp_path / "registry", "v1", earlier=True)
    champion = read_champion(Path(call()[1]["path"]))
    assert champion
    assert difference(champion.attributes, SAMPLE_ATTRIBUTES) == ""
    assert [attribute.title for attribute in champion.attributes] == [
        "Bag",
        "Scarf",
        "Bow",
        "Coat color",
        "Coat length",
    ]


def test_a_promotion_while_the_stage_runs_is_said_as_what_it_is(
    call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = release(tmp_path / "registry", "v1", "v2")

    def run(context: Context[Params]) -> Headline:
        headline = STAGE.run(context)
        with registry.locked():
            registry.promote("v1", "better")
        return headline

    home = ["--registry", str(tmp_path / "registry"), "--store", str(tmp_path / "store")]
    assert main(dataclasses.replace(STAGE, run=run), home) == 75
    assert f"another run, or a person, has changed --registry {registry.home} meanwhile" in caplog.text
    assert "copying" not in caplog.text
    assert call()[1]["headline"]["version"] == "v1"


@pytest.mark.parametrize("version", ["v7", "v0", "3", "'; rm'"])
def test_a_version_that_is_not_there_is_wrong_usage(call: Call, tmp_path: Path, version: str) -> None:
    release(tmp_path / "registry", "v1")
    assert call("--set", f"champion.version={version}")[0] == 64


def test_files_that_the_remote_has_lost_are_named(call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    release(tmp_path / "registry", "v1")
    shutil.rmtree(tmp_path / "registry" / "remote")
    assert call()[0] == 69
    assert "dvc pull" in caplog.text


def test_something_else_is_no_champion(tmp_path: Path) -> None:
    (tmp_path / "champion.json").write_text('{"version": "v1"}')
    with pytest.raises(DataError, match="run stage champion again"):
        read_champion(tmp_path)
