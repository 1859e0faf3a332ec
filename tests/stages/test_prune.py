"""The clean-up of the store, on artifacts of the toy stage: what goes, what stays, and that nothing breaks."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stages.archive.commands import run
from stages.archive.prune import Sizes
from stages.common.contract.artifacts import file_digest, locked, read_manifest
from stages.common.contract.command_line import main
from stages.common.contract.digest_index import DIGESTS, DigestIndex
from stages.common.contract.errors import UnavailableError, UsageError
from stages.common.contract.stage import Context, Headline, Input, Stage
from stages.common.images.sources import find_source
from stages.common.workers.lot_cache import take_lots
from tests.common import toy
from tests.common.workers.test_lot_cache import recipe_of
from tests.stages.archived import Pipeline
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DAY = 86400


def _copy(context: Context[toy.Params]) -> Headline:
    (context.out / "copy.txt").write_text((context.inputs["toy"] / "0.txt").read_text())
    return {}


def _join(context: Context[toy.Params]) -> Headline:
    raw = context.inputs["raw"]
    lots = {lot.name: [find_source(file.name, file, file_digest) for file in sorted(lot.iterdir())]
            for lot in sorted(raw.iterdir())}  # fmt: skip
    made = take_lots(recipe_of(context.state / "log"), lots, context.cache, 1).made
    (context.out / "made.txt").write_text(" ".join(sorted(made)))
    return {"made": len(made)}


READER = Stage("reader", "Copies a toy.", toy.Params, {"toy": Input("artifact of toy")}, {}, _copy)
JOINER = Stage("joiner", "Joins lots.", toy.Params, {"raw": Input("lots", artifact=False)}, {}, _join)


class Store:
    """A store, and stages that write to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "store"
        (folder / "raw").mkdir()
        (folder / "raw" / "a.txt").write_text("hello ")
        (folder / "params.yaml").write_text("toy: {copies: 1}\n")

    def run(self, stage: Stage[Any], *arguments: str) -> Any:
        """Run a stage in this process; its result."""
        told = self.folder / "result.json"
        told.unlink(missing_ok=True)
        general = ["--params", str(self.folder / "params.yaml"), "--store", str(self.path), "--result", str(told)]
        code = main(stage, [*general, *arguments])
        return json.loads(told.read_text()) if told.exists() else code

    def toy(self, copies: int = 1, *more: str) -> Any:
        return self.run(toy.STAGE, "--raw", str(self.folder / "raw"), "--set", f"toy.copies={copies}", *more)

    def age(self, days: float, *folders: Path) -> None:
        """Make all that lies in some folders, or in the whole store, so much older."""
        for folder in folders or (self.path,):
            for path in (folder, *folder.rglob("*")):
                stat = path.lstat()
                times = (stat.st_atime - days * DAY, stat.st_mtime - days * DAY)
                os.utime(path, times, follow_symlinks=False)

    def prune(self, *arguments: str, keep: str = "30d") -> dict[str, Any]:
        """Clean up; the result, also where something could not be removed."""
        told = self.folder / "pruned.json"
        told.unlink(missing_ok=True)
        with contextlib.suppress(UnavailableError):
            run(["prune", "--store", str(self.path), "--keep", keep, "--result", str(told), *arguments])
        return dict(json.loads(told.read_text()))

    def stored(self, stage: str = "toy") -> set[str]:
        return {path.name for path in (self.path / stage).iterdir() if re.fullmatch("[0-9a-f]{64}", path.name)}

    def blocks(self) -> int:
        """Bytes that the store takes, files with several names once."""
        stats = {(status := path.lstat()).st_ino: status for path in self.path.rglob("*")}
        return sum(stat.st_blocks * 512 for stat in stats.values())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_was_used_stays_and_the_newest_and_all_else_goes(store: Store) -> None:
    first, second, third = (store.toy(copies)["key"] for copies in (1, 2, 3))
    store.age(40)
    assert store.toy(2)["cached"]  # a run has used it
    before = store.blocks()
    result = store.prune()
    assert store.stored() == {second}
    assert not (store.path / "toy" / f".lock-{first}").exists()
    told = result["counts"]["toy"]
    assert (told["kept"], told["why"], told["removed"]) == (1, {"used within 30d": 1}, 2)
    assert result["headline"]["removed"] == 2
    page = Path(result["report"])
    assert before - store.blocks() == told["removed_bytes"] - sum(
        path.lstat().st_blocks * 512 for path in (page.parent.parent, page.parent, *page.parent.iterdir())
    )
    text = page.read_text()
    assert re.findall(r"<dt>(freed|kept)</dt><dd>([^<]*)<", text) == [
        (name, f"{result['headline'][f'{name}_mb']:.1f} MB") for name in ("freed", "kept")
    ]
    assert first[:12] in text
    assert third[:12] in text
    assert read_manifest(page.parent)["headline"] == result["headline"]

    store.age(40)
    store.prune()
    assert store.stored() == {second}  # the newest
    assert store.toy(1)["cached"] is False


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store) -> None:
    store.toy(1)
    store.toy(2)
    store.age(40)
    before = {path: path.lstat().st_mtime for path in store.path.rglob("*")}
    tried = store.prune("--dry-run")
    assert {path: path.lstat().st_mtime for path in store.path.rglob("*") if "clean_up" not in path.parts} == before
    assert tried["headline"]["would_remove"] == 1
    assert store.prune()["counts"]["toy"] == tried["counts"]["toy"]


def test_what_a_run_has_read_counts_as_used(store: Store) -> None:
    read = store.toy(1)
    store.toy(2)
    store.age(40)
    used = store.run(READER, "--toy", read["path"])
    store.age(20)
    store.prune()
    assert read["key"] in store.stored()
    store.age(20)
    store.toy(3)
    store.prune()
    assert read["key"] not in store.stored()
    assert store.stored("reader") == {used["key"]}  # it is complete without
    read_manifest(Path(used["path"]))


def test_what_a_running_stage_makes_or_reads_stays_however_old(store: Store) -> None:
    one, other = store.toy(1), store.toy(2)
    with locked(store.path / "toy" / f".lock-{one['key']}", reads=[Path(other["path"])]):
        store.age(40)
        store.toy(3)
        why = store.prune()["counts"]["toy"]["why"]
    assert len(store.stored()) == 3
    assert {"held by a run", "read by a run"} <= set(why)
    store.prune()
    assert len(store.stored()) == 1


def test_runs_beside_it_end_well(store: Store) -> None:
    """Of a cache hit that goes while it is looked up, the run makes it again."""
    code = f"""
import os, time
from pathlib import Path
from stages.archive.prune import prune
store = Path({str(store.path)!r})
while True:
    for path in [*store.glob("toy/*"), *store.glob("toy/*/manifest.json"), *store.glob("toy/.lock-*")]:
        try:
            os.utime(path, (0, 0))
        except FileNotFoundError:
            pass
    prune(store, "1h")
"""
    store.path.mkdir()
    pruning = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        made = [store.toy(number % 3 + 1)["cached"] for number in range(60)]
        wait_until(lambda: not store.toy()["cached"] or False in made[3:], "one that is gone")
    finally:
        pruning.kill()
        pruning.wait()


def test_a_stage_that_is_killed_or_fails_leaves_nothing_for_ever(store: Store) -> None:
    command = [sys.executable, str(ROOT / "tests/common/toy.py"), "--raw", str(store.folder / "raw"), "--params",
               str(store.folder / "params.yaml"), "--store", str(store.path), "--set", "toy.fault=die"]  # fmt: skip
    subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, check=False)
    (store.path / "toy" / "failed-0123456789ab").mkdir()

    def left() -> set[str]:
        return {path.name.partition("-")[0] for path in (store.path / "toy").iterdir()}

    before = left()
    assert before == {".cache", ".lock", ".partial", ".state", "failed"}
    store.prune()
    assert left() == before  # it may be tried again
    store.age(40)
    result = store.prune()
    assert left() == {".cache"}
    assert result["counts"]["toy, unfinished"]["removed"] == 2


KILLED_AMID_FILES = """
import os, signal, sys
from stages.archive.commands import run

removed = set()

def hear(event, told):
    if event == "os.remove" and str(told[0]).isdigit():
        removed.add(told[0])
        if len(removed) == 50:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hear)
run(sys.argv[1:])
"""
"""`python -m stages.archive`, which dies when it removes the 50th file whose name is a number."""


def test_the_next_pass_ends_what_a_killed_one_began(store: Store) -> None:
    made = store.toy(1)
    store.toy(2)
    many = Path(made["path"], "many")
    many.mkdir()
    for number in range(100):
        (many / str(number)).touch()
    store.age(40)
    command = [sys.executable, "-c", KILLED_AMID_FILES, "prune", "--store", str(store.path), "--keep", "30d"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    home = store.path / "toy"
    (aside,) = home.glob(".removed-*")
    assert 0 < len(list((aside / "many").iterdir())) < 100
    assert made["key"] not in store.stored()  # nobody finds half of it
    assert store.prune()["counts"]["left by a killed clean-up"]["removed"] == 1
    assert list(home.glob(".removed-*")) == []


def test_links_are_never_followed_and_said(store: Store) -> None:
    (store.folder / "outside").mkdir()
    elsewhere = Store(store.folder / "outside")
    kept = [Path(elsewhere.toy(copies)["path"]) for copies in (1, 2)]
    elsewhere.age(40)
    old = Path(store.toy(1)["path"])
    store.toy(2)
    (old / "file").symlink_to(kept[0] / "0.txt")
    (old / "folder").symlink_to(kept[0])
    key = "ab" * 32
    (store.path / "toy" / key).symlink_to(kept[0])
    (store.path / "toy" / f".lock-{'cd' * 32}").symlink_to(kept[0] / "0.txt")
    (store.path / "linked").symlink_to(elsewhere.path / "toy")
    store.age(40)
    result = store.prune()
    assert [name.split(" is a link")[0] for name in result["problems"]] == [
        str(store.path / "linked"), f"{store.path}/toy/.lock-{'cd' * 32}", str(store.path / "toy" / key),
    ]  # fmt: skip
    assert not old.exists()
    assert [read_manifest(artifact)["stage"] for artifact in kept] == ["toy", "toy"]
    with pytest.raises(UnavailableError, match="3 could not be removed; the first: "):
        run(["prune", "--store", str(store.path), "--keep", "30d"])


def test_what_may_not_be_removed_is_left_whole_and_said(store: Store) -> None:
    first, second = store.toy(1), store.toy(2)
    store.toy(3)
    shut = Path(first["path"], "shut")
    shut.mkdir()
    (shut / "file").write_text("x")
    shut.chmod(0o555)
    store.age(40)
    command = [sys.executable, "-m", "stages.archive", "prune", "--store", str(store.path), "--keep", "30d"]
    if os.geteuid() == 0:  # or every door would be open
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    shut.chmod(0o755)
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert f"1 could not be removed; the first: {shut} cannot be removed (Permission denied): let uid" in line
    assert "1 cannot be removed" in done.stdout
    assert second["key"] not in store.stored()
    read_manifest(Path(first["path"]))


def test_what_no_stage_has_made_is_left_alone(store: Store) -> None:
    store.toy(1)
    others = ["notes.txt", "toy/notes.txt", f"toy/{'ef' * 32}/config.json", f"containers/{'ef' * 32}/a", "Other-1/b"]
    for name in others:
        (store.path / name).parent.mkdir(parents=True, exist_ok=True)
        (store.path / name).write_text("x")
    store.age(400)
    assert store.prune()["problems"] == []
    assert all((store.path / name).exists() for name in others)


def test_lots_stay_as_long_as_an_artifact_that_has_them(store: Store) -> None:
    """Though runs that find the artifact do not look at its lots."""
    raw = store.folder / "lots"

    def join(*lots: str) -> Any:
        for lot in lots:
            (raw / lot).mkdir(parents=True, exist_ok=True)
            (raw / lot / "1.txt").write_text(lot)
        return store.run(JOINER, "--raw", str(raw))

    join("a", "b")
    store.age(40)
    assert join()["cached"]
    assert store.prune()["counts"]["joiner, lots"]["why"] == {"of a living artifact": 2}
    assert join("c")["headline"] == {"made": 1}
    (raw / "b" / "1.txt").unlink()
    (raw / "b").rmdir()
    store.age(40)
    join("d")
    assert store.prune()["counts"]["joiner, lots"] | {"kept_bytes": 0, "removed_bytes": 0} == {
        "kept": 3, "kept_bytes": 0, "why": {"used within 30d": 3}, "removed": 1, "removed_bytes": 0,
    }  # fmt: skip
    assert len(store.stored("joiner")) == 1


def test_a_lot_that_a_run_takes_while_others_are_removed_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = store.folder / "lots"

    def join(lot: str) -> Any:
        for old in raw.glob("*/*"):
            old.rename(store.folder / old.name)
            old.parent.rmdir()
        (raw / lot).mkdir(parents=True)
        (raw / lot / f"{lot}.txt").write_text(lot)
        return store.run(JOINER, "--raw", str(raw), "--set", f"toy.copies={len(store.stored('joiner')) + 1}")

    (store.path / "joiner").mkdir(parents=True)
    join("a")
    store.age(40)
    join("b")
    store.age(40)
    counted, taken = Sizes.kept, list[Any]()

    def run_beside(sizes: Sizes, path: Path) -> int:
        if not taken:  # what goes is decided, and nothing has gone
            taken.append(join("a")["headline"])
        return counted(sizes, path)

    monkeypatch.setattr(Sizes, "kept", run_beside)
    assert store.prune()["counts"]["joiner, lots"]["removed"] == 0
    assert taken == [{"made": 0}]
    assert len([*(store.path / "joiner" / ".cache").glob("*/said.json")]) == 2


def test_versions_stay_and_can_be_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(tmp_path)
    store = Store.__new__(Store)
    store.folder, store.path = tmp_path, tmp_path / "store"
    made = []
    for model in (0, 1):
        pipeline.train(model)
        assert pipeline.archive() == 0
        made.append(pipeline.result)
    monkeypatch.setenv("FACE_ATTRIBUTES_RUN", '{"run_id": "the next day"}')
    assert pipeline.archive() == 0  # another page of the same version
    assert pipeline.archive("archive.alpha=0.04") == 0  # another artifact of the same version
    pages = len(list((tmp_path / "runs").iterdir()))
    store.age(40)
    store.age(40, tmp_path / "runs")
    (tmp_path / "runs").rename(store.path / "run")
    orphan = pipeline.registry.home / "remote/files/md5/ab" / ("cd" * 15)  # as a run that was killed after its push
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(bytes(10**6))
    result = store.prune("--registry", str(pipeline.registry.home))
    assert result["problems"] == []
    assert not orphan.exists()
    assert {entry["key"] for entry in made} <= store.stored("archive")
    assert result["counts"]["archive"]["why"]["registered"] == 2
    assert result["counts"]["registry"]["kept"] == 2
    assert result["counts"]["registry"]["removed_bytes"] > 900_000
    page = (pipeline.registry.home / "page/versions.html").read_text()
    linked = set(re.findall(r"run/([0-9a-f]{64})/", page))
    assert linked == store.stored("run")  # it links to no page that has gone
    assert len(linked) == pages - 1
    run(["promote", "v1", "--registry", str(pipeline.registry.home)])
    for name in ("v1", "v2"):
        pipeline.registry.fetch(name, tmp_path / "taken")
        assert (tmp_path / "taken" / "model" / "model.onnx").exists()


def test_raw_files_that_are_gone_are_forgotten_and_those_of_no_mounted_volume_are_not(store: Store) -> None:
    names = [store.folder / f"{number}.png" for number in range(3)]
    for name in names:
        name.write_bytes(b"x")
        os.utime(name, (0, 0))
    time.sleep(2.1)  # the index remembers nothing younger
    store.path.mkdir()
    index = DigestIndex(store.path / DIGESTS)
    list(index.digests(names))
    index.save()
    away = "insert into digests select ?, stat, digest, seen, sum from digests limit 1"
    index._transact(lambda base: base.execute(away, (b"/not-mounted/1.png",)))
    names[0].unlink()
    told = [store.prune(*words)["counts"]["raw files known"] for words in (("--dry-run",), (), ())]
    assert [(counts["kept"], counts["removed"]) for counts in told] == [(3, 1), (3, 1), (3, 0)]


@pytest.mark.parametrize("keep", ["30", "d", "0d", "-1d", "30x", "1.5d", "30 d", "", "30d\n", "999999d"])
def test_nonsense_is_refused_in_a_line(store: Store, keep: str) -> None:
    store.path.mkdir()
    with pytest.raises(UsageError, match=r"--keep .* not a time: give hours, days or weeks, such as 12h, 30d or 2w$"):
        run(["prune", "--store", str(store.path), f"--keep={keep}"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--store", "{}/none", "--keep", "30d"], "is not a folder: name the artifact store"),
        (["--store", "{}", "--registry", "{}/none", "--keep", "30d"], "is not a folder: name that of the versions"),
        (["--store", "{}"], "the following arguments are required: --keep"),
        (["--store", "{}", "--keep", "30d", "--dry"], "unrecognized arguments: --dry"),
    ],
)
def test_wrong_usage_is_a_line_and_64(tmp_path: Path, words: list[str], said: str) -> None:
    command = [sys.executable, "-m", "stages.archive", "prune", *(word.format(tmp_path) for word in words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    (line,) = done.stderr.splitlines()
    assert said in line
