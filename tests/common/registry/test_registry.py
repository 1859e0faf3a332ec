"""The registry for real: git and DVC in a folder; versions, releases, rollback, kills, and what a clone can do."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from stages.champion.stage import STAGE as CHAMPION_STAGE
from stages.common.contract.artifacts import copy_folder
from stages.common.contract.command_line import main
from stages.common.contract.errors import DataError, UnavailableError, UsageError
from stages.common.registry.registry import Registry, Version, now
from stages.common.registry.registry import sync_file_system as really_sync

pytestmark = pytest.mark.slow


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
    with pytest.raises(UsageError, match=r"no version v1 in .*, which has none yet"), empty.locked():
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
    assert [version.name for version in found] == ["v1", "v2", "v3"]
    assert found[1] == version("v2", created=found[1].created)
    assert registry.find(DIGESTS["v3"]) == found[2]
    assert registry.find(DIGESTS["v4"]) is None
    assert json.loads(registry.text("v2", "lineage.json"))["train"]["key"] == "2" * 64
    with pytest.raises(UsageError, match=r"no version v9 in .*, which has v1 to v3"):
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
    assert [release.action for release in copy.releases()].count("rollback") == 3
    with copy.locked():
        copy.promote("v3", "twice is once")
    assert len(copy.releases()) == 8


def test_a_promotion_that_waits_says_for_what(registry: Registry, tmp_path: Path) -> None:
    busy = copy_of(registry, tmp_path)
    promote = [sys.executable, "-m", "stages.archive", "promote", "v1", "--registry", str(busy.home)]
    with busy.locked():
        process = subprocess.Popen(promote, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        assert "another run or `archive promote` is changing the registry: waiting for it" in process.stderr.readline()
    told, _ = process.communicate()
    assert told.startswith("v1 is the champion now")


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
from stages.common.registry.registry import Registry
from tests.common.registry.test_registry import version
registry = Registry(Path(sys.argv[1]))
with registry.locked():
    if not registry.versions():
        registry.register(Path(sys.argv[2]), version("v1", model_digest=""))
    registry.promote("v1", "first")
"""


def test_killed_at_any_moment_it_has_the_whole_version_or_none_and_a_rerun_completes_it(tmp_path: Path) -> None:
    files = content(tmp_path / "content", 7)
    command = [sys.executable, "-c", REGISTER, str(tmp_path / "registry"), str(files)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    start = time.monotonic()
    subprocess.run([*command[:3], str(tmp_path / "unharmed"), str(files)], env=environment, check=True)
    whole = time.monotonic() - start  # 1 to 4 s by machine, and another time as the machine is busy
    kills = 0
    for part in (0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        time.sleep(part * whole)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        else:
            whole /= 2  # a kill that comes too late is none
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


def damage(path: Path) -> None:
    """Flip one bit amid a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.chmod(0o644)
    path.write_bytes(content)


def copy_of(registry: Registry, folder: Path) -> Registry:
    """A copy of a registry with its remote, for a test that changes it."""
    home = Path(shutil.copytree(registry.home, folder / "registry"))
    return Registry(home)


@pytest.mark.parametrize("kind", ["file", "list of files"])
def test_a_flipped_bit_in_the_remote_is_refused_and_named(registry: Registry, tmp_path: Path, kind: str) -> None:
    damaged = copy_of(registry, tmp_path)
    objects = Path(damaged.remote, "files", "md5")
    (path,) = [file for file in objects.rglob("*") if file.is_file() and file.read_bytes() == b"\x03" * 1000]
    if kind != "file":
        (path,) = [file for file in objects.rglob("*.dir") if "".join(path.parts[-2:]) in file.read_text()]
    damage(path)
    with pytest.raises(DataError) as refused:
        damaged.fetch("v3", tmp_path / "v3", ["model"])
    assert f"{path} of v3 is damaged: put back a whole copy" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    damaged.fetch("v2", tmp_path / "v2", ["model"])
    assert (tmp_path / "v2" / "model" / "model.onnx").read_bytes() == b"\x02" * 1000


def test_a_clone_pulls_no_damaged_file(registry: Registry, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", registry.repository, clone], check=True)
    config = clone / ".dvc" / "config"
    remote = Path(shutil.copytree(registry.remote, tmp_path / "remote"))
    config.write_text(config.read_text().replace(registry.remote, str(remote)))
    (path,) = [file for file in remote.rglob("*") if file.is_file() and file.read_bytes() == b"\x03" * 1000]
    damage(path)
    with pytest.raises(subprocess.CalledProcessError):
        dvc(clone, "pull", "model.dvc")
    assert not (clone / "model" / "model.onnx").exists()


def test_another_model_than_was_registered_is_refused(registry: Registry, tmp_path: Path) -> None:
    """Its digest stands in the message of the version's tag, apart from all that DVC could compare."""
    home = tmp_path / "registry"
    other = Registry(home)
    with other.locked():
        other.register(content(tmp_path / "content", 1), version("v1", model_digest=DIGESTS["v2"]))
    with pytest.raises(DataError, match=r"model/model.onnx of v1 is not the file that was registered"):
        other.fetch("v1", tmp_path / "v1", ["model"])
    assert len(registry.versions()) == 3


def test_a_version_and_a_release_are_on_the_disk_when_they_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git tells how often it has synced; of the rest it is looked at when its file systems were, and which."""
    synced: list[tuple[Path, list[str]]] = []
    home = tmp_path / "registry"
    registry = Registry(home)

    def sync(folder: Path) -> None:
        really_sync(folder)
        synced.append((folder, [version.name for version in registry.versions()]))

    monkeypatch.setattr("stages.common.registry.registry.sync_file_system", sync)
    program, trace = tmp_path / "bin" / "git", tmp_path / "trace"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nGIT_TRACE2_EVENT={trace} exec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with registry.locked():
        registry.register(content(tmp_path / "content", 1), version("v1"))
        assert synced == [(home / "remote", []), (home / "git", ["v1"])]
        registry.promote("v1", "")
        assert synced[2:] == [(home / "git", ["v1"])]
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    # a process has its parent's name before its own
    receivers = [event["sid"] for event in events if event.get("name") == "receive-pack"]
    flushes = [event["sid"] for event in events if event.get("key") == "fsync/hardware-flush"]
    assert receivers
    assert any(line.startswith(receiver) for line in flushes for receiver in receivers)


def test_a_folder_of_another_user_works(registry: Registry, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder to another user")
    other = copy_of(registry, tmp_path)
    subprocess.run(["chown", "-R", "12345", other.home], check=True)
    other.fetch("v1", tmp_path / "v1", ["model"])
    assert (tmp_path / "v1" / "model" / "model.onnx").read_bytes() == b"\x01" * 1000
    with other.locked():
        other.register(content(tmp_path / "content", 4), version("v4"))
        other.promote("v4", "")
    champion = other.champion()
    assert champion
    assert champion.name == "v4"


def test_versions_and_releases_go_by_their_number_and_a_lost_tag_is_not_taken_again(
    registry: Registry, tmp_path: Path
) -> None:
    many = copy_of(registry, tmp_path)
    git = ["git", "-C", str(many.repository), "-c", "user.name=a", "-c", "user.email=a@localhost"]
    for name, told in {
        "v9999": asdict(version("v9999")),
        "v10000": asdict(version("v10000")),
        "champion-9999": {"version": "v1", "action": "promote", "reason": "", "time": now()},
        "champion-10000": {"version": "v10000", "action": "promote", "reason": "", "time": now()},
    }.items():
        subprocess.run([*git, "tag", name, "main", "-m", json.dumps(told)], check=True)
    champion = many.champion()
    assert champion
    assert champion.name == "v10000"
    assert [version.name for version in many.versions()][-2:] == ["v9999", "v10000"]
    assert many.next_name() == "v10001"
    with many.locked():
        many.promote("v2", "")
        many.promote("v3", "")
    assert [release.version for release in many.releases()][-3:] == ["v10000", "v2", "v3"]


def test_git_s_files_are_packed_now_and_then(registry: Registry, tmp_path: Path) -> None:
    grown = copy_of(registry, tmp_path)
    for number in range(1500):  # of other versions
        subprocess.run(
            ["git", "-C", str(grown.repository), "hash-object", "-w", "--stdin"],
            input=str(number), text=True, check=True, capture_output=True,
        )  # fmt: skip
    with grown.locked():
        grown.register(content(tmp_path / "content", 4), version("v4"))
    assert list((grown.repository / "objects" / "pack").glob("*.pack"))
    grown.fetch("v1", tmp_path / "v1", ["model"])
    assert [version.name for version in grown.versions()] == ["v1", "v2", "v3", "v4"]


def test_a_version_is_there_though_git_s_files_could_not_be_packed(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grown = copy_of(registry, tmp_path)
    (damaged := grown.repository / "objects" / "17").mkdir(exist_ok=True)
    for number in range(3):  # of 256 folders, by which git estimates how many there are
        (damaged / f"{number:038}").write_text("damaged")
    with grown.locked():
        grown.register(content(tmp_path / "content", 4), version("v4"))
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "gc failed: " in told
    assert told.endswith("; the next version tries it again")
    assert grown.next_name() == "v5"
    grown.fetch("v4", tmp_path / "v4", ["model"])
    assert (tmp_path / "v4" / "model" / "model.onnx").read_bytes() == bytes([4]) * 1000


def test_a_version_of_earlier_code_has_the_figures_that_it_was_registered_with(
    registry: Registry, tmp_path: Path
) -> None:
    older = copy_of(registry, tmp_path)
    told = asdict(version("v4"))
    for name in ("mean_balanced_accuracy", "metric"):
        del told[name]
    subprocess.run(["git", "-C", str(older.repository), "tag", "-a", "v4", "v3^{}", "-m", json.dumps(told)], check=True)
    found = older.version("v4")
    assert (found.mean_accuracy, found.mean_balanced_accuracy, found.metric) == (0.9, None, "accuracy")
    assert found.means == "mean accuracy 0.9000"


@pytest.mark.parametrize(
    "remote",
    ["--upload-pack=touch x", "ext::sh -c x", "../../etc", "models", "/models/../etc", "s3://", "file:///etc", "remote://a",
     "s3://bucket/../other", "ssh://-oProxyCommand=x", "/models\n    verify = false", "/models # x"],
)  # fmt: skip
def test_a_remote_that_is_none_is_refused_with_the_parameters(
    remote: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "registry").mkdir()
    arguments = ["--registry", str(tmp_path / "registry"), "--set", f"registry.remote={json.dumps(remote)}", "--check"]
    assert main(CHAMPION_STAGE, arguments) == 64
    assert "registry.remote: " in caplog.text
    assert "expected an absolute folder such as /models, or a URL such as s3://bucket/models" in caplog.text


@pytest.mark.parametrize(
    "remote", ["", "/srv/my models", "s3://bucket/models", "ssh://user@host:22/srv", "azure://c/p"]
)
def test_remotes_that_dvc_knows_are_taken(remote: str, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    arguments = ["--registry", str(tmp_path / "registry"), "--set", f"registry.remote={json.dumps(remote)}", "--check"]
    assert main(CHAMPION_STAGE, arguments) == 0


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    """Copying into a file of /dev/full, as a full disk is."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("text")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a.txt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as refused:
        copy_folder(tmp_path / "source", tmp_path / "target")
    assert refused.value.errno == errno.ENOSPC
