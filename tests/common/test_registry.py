"""The registry for real: git and DVC in a folder; versions, releases, rollback, kills, and what a clone can do."""

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.common.errors import UnavailableError, UsageError
from stages.common.registry import Registry, Version, now


def content(folder: Path, number: int) -> Path:
    """The files of a version."""
    for name in ("model", "plots", "reference", "report", "metrics"):
        (folder / name).mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(bytes([number]) * 1000)
    (folder / "plots" / "roc.png").write_bytes(bytes([number]))
    (folder / "reference" / "features.npz").write_bytes(b"same in all")
    (folder / "report" / "report.html").write_text(f"<p>{number}")
    (folder / "metrics" / "eval_metrics.json").write_text(json.dumps({"mean_accuracy": 0.9 + number / 100}))
    (folder / "lineage.json").write_text(json.dumps({"train": {"key": f"{number}" * 64}}))
    (folder / "dvc.yaml").write_text("metrics: [metrics/eval_metrics.json]\nplots: [plots/roc.png]\n")
    return folder


DIGESTS = {f"v{number}": hashlib.sha256(bytes([number]) * 1000).hexdigest() for number in range(1, 10)}


def version(name: str, **changed: object) -> Version:
    values = {
        "name": name, "model_digest": DIGESTS.get(name, name * 3), "archive": "a" * 64, "mean_accuracy": 0.9,
        "champion": "", "best": "v1", "fit": True,
        "reasons": ['it is "fit"', "line\nbreak; `rm`"], "lots": [f"s{lot}" for lot in range(9)], "created": now(),
    }  # fmt: skip
    return Version(**values | changed)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with three versions, all of them released."""
    home = tmp_path_factory.mktemp("store") / "registry"
    home.mkdir()
    made = Registry(home)
    for number in (1, 2, 3):
        with made.locked():
            made.register(content(tmp_path_factory.mktemp("content") / "v", number), version(made.next_name()))
            made.promote(f"v{number}", f"better than v{number - 1}")
    return made


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(folder / "site"), "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def test_an_empty_registry_has_nothing(tmp_path: Path) -> None:
    empty = Registry(tmp_path)
    assert (empty.versions(), empty.releases(), empty.champion(), empty.find("x")) == ([], [], None, None)
    with pytest.raises(UsageError, match=r"no version v1 in .*: there is none yet"), empty.locked():
        empty.promote("v1", "")
    with pytest.raises(UsageError, match="nothing to go back to"), empty.locked():
        empty.rollback("")


def test_a_registry_is_found_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Registry(Path("registry"))
    with relative.locked():
        relative.register(content(tmp_path / "content", 1), version("v1"))
        relative.promote("v1", "")
    Path("state").mkdir()
    relative.fetch("v1", Path("state/taken"))
    assert (tmp_path / "state" / "taken" / "model" / "model.onnx").exists()
    assert relative.champion() == relative.version("v1")


def test_versions_come_back_as_they_were_registered(registry: Registry) -> None:
    found = registry.versions()
    assert [one.name for one in found] == ["v1", "v2", "v3"]
    assert found[1] == version("v2", created=found[1].created)
    assert registry.find(DIGESTS["v3"]) == found[2]
    assert registry.find(DIGESTS["v4"]) is None
    assert json.loads(registry.text("v2", "lineage.json"))["train"]["key"] == "2" * 64
    with pytest.raises(UsageError, match=r"no version v9 in .*: there are v1 to v3"):
        registry.version("v9")


def test_a_clone_pulls_files_and_shows_differences(registry: Registry, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", registry.repository, clone], check=True)
    dvc(clone, "pull")
    assert (clone / "model" / "model.onnx").read_bytes() == b"\x03" * 1000
    changes = json.loads(dvc(clone, "metrics", "diff", "v1", "v3", "--json"))
    assert changes["metrics/eval_metrics.json"]["mean_accuracy"]["diff"] == pytest.approx(0.02)
    assert "roc.png" in Path(dvc(clone, "plots", "diff", "v1", "v3").strip().removeprefix("file://")).read_text()
    assert subprocess.check_output(["git", "rev-list", "--count", "main"], cwd=clone, text=True).strip() == "3"


def test_fetch_gives_the_files_of_a_version_and_only_the_folders_asked_for(registry: Registry, tmp_path: Path) -> None:
    registry.fetch("v2", tmp_path / "v2", ["model", "reference"])
    assert (tmp_path / "v2" / "model" / "model.onnx").read_bytes() == b"\x02" * 1000
    found = sorted(path.relative_to(tmp_path / "v2").as_posix() for path in (tmp_path / "v2").rglob("*.*"))
    assert found == [
        "dvc.yaml", "lineage.json", "metrics/eval_metrics.json", "model/model.onnx", "reference/features.npz",
    ]  # fmt: skip


def test_what_the_remote_has_lost_is_one_line(registry: Registry, tmp_path: Path) -> None:
    elsewhere = Registry(registry.home, remote=str(tmp_path / "empty"))
    with pytest.raises(UnavailableError, match="dvc pull") as refused:
        elsewhere.fetch("v1", tmp_path / "v1", ["model"])
    assert len(str(refused.value).splitlines()) == 1


def test_a_remote_that_cannot_be_reached_is_one_line_that_says_why(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry", remote="s3://bucket/models")
    files = content(tmp_path / "content", 1)
    with pytest.raises(UnavailableError) as refused, registry.locked():
        registry.register(files, version("v1"))
    assert str(refused.value).startswith("dvc push failed: ")
    assert "requires 'dvc-s3' to be installed" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert not registry.versions()


def test_rollback_goes_back_step_by_step_and_promotion_goes_on_from_there(tmp_path: Path, registry: Registry) -> None:
    home = tmp_path / "registry"
    subprocess.run(["cp", "-r", registry.home, home], check=True)
    copy = Registry(home)
    steps = []
    for action in ("rollback", "rollback", "v3", "v2", "rollback"):
        with copy.locked():
            release = copy.rollback("") if action == "rollback" else copy.promote(action, "again")
        champion = copy.champion()
        assert champion
        assert release.version == champion.name
        steps.append(champion.name)
    assert steps == ["v2", "v1", "v3", "v2", "v3"]
    assert [one.action for one in copy.releases()].count("rollback") == 3
    with copy.locked():
        copy.promote("v3", "twice is once")
    assert len(copy.releases()) == 8


def test_locks_that_a_killed_git_leaves_behind_stop_nobody(tmp_path: Path, registry: Registry) -> None:
    copied = Registry(Path(shutil.copytree(registry.home, tmp_path / "registry")))
    for name in ("refs/tags/champion-0004.lock", "refs/heads/main.lock", "packed-refs.lock"):
        (copied.repository / name).touch()
    with copied.locked():
        copied.promote("v1", "again")
        copied.register(content(tmp_path / "content", 4), version("v4"))
    assert copied.champion() == copied.version("v1")
    assert copied.next_name() == "v5"


def test_rollback_ends_at_the_first_champion(tmp_path: Path, registry: Registry) -> None:
    home = tmp_path / "registry"
    subprocess.run(["cp", "-r", registry.home, home], check=True)
    copy = Registry(home)
    with copy.locked():
        copy.rollback("")
        copy.rollback("")
    with pytest.raises(UsageError, match="nothing to go back to"), copy.locked():
        copy.rollback("")


REGISTER = """
import sys
from pathlib import Path
from stages.common.registry import Registry
from tests.common.test_registry import version
registry = Registry(Path(sys.argv[1]))
with registry.locked():
    if not registry.versions():
        registry.register(Path(sys.argv[2]), version("v1", model_digest=""))
    registry.promote("v1", "first")
"""


def test_killed_at_any_moment_it_has_the_whole_version_or_none_and_a_rerun_completes_it(tmp_path: Path) -> None:
    files = content(tmp_path / "content", 7)
    command = [sys.executable, "-c", REGISTER, str(tmp_path / "registry"), str(files)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    whole = math.inf  # seconds, 1 to 4 by machine; the shorter of two, for a kill that comes too late is none
    for name in ("unharmed", "unharmed again"):
        start = time.monotonic()
        subprocess.run([*command[:3], str(tmp_path / name), str(files)], env=environment, check=True)
        whole = min(whole, time.monotonic() - start)
    kills = 0
    for part in (0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        time.sleep(part * whole)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        found = Registry(tmp_path / "registry")
        if found.versions():
            found.fetch("v1", tmp_path / "v1")
            assert (tmp_path / "v1" / "model" / "model.onnx").read_bytes() == b"\x07" * 1000
    assert kills > 2
    subprocess.run(command, env=environment, check=True)
    champion = Registry(tmp_path / "registry").champion()
    assert champion
    assert champion.name == "v1"
    assert not list((tmp_path / "registry").glob(".adding-*"))
