"""The contract of every stage, on a toy stage in processes of its own: results, exit codes, kills, concurrency."""

import contextlib
import dataclasses
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from stages.common.contract import hearing
from stages.common.contract.artifacts import json_digest, read_manifest
from stages.common.contract.command_line import main
from stages.common.contract.errors import DataError
from stages.common.contract.stage import Headline
from tests.common.toy import STAGE
from tests.waiting import PATIENCE_S, wait_until

TOY = Path(__file__).parents[1] / "toy.py"
ROOT = Path(__file__).parents[3]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start the toy stage on `tmp_path/raw` with the given arguments."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("hello ")
    (tmp_path / "params.yaml").write_text("toy: {copies: 1}\nother: {}\n")
    (tmp_path / "images" / "toy").mkdir(parents=True)

    def call(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, TOY, "--raw", tmp_path / "raw", "--params", tmp_path / "params.yaml", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(ROOT)},
        )

    return call


def finish(process: "subprocess.Popen[str]") -> tuple[int, dict[str, object], str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, json.loads(out.splitlines()[-1]) if out else {}, err


def test_the_result_is_the_last_line_of_stdout_and_the_result_file(start: Start, tmp_path: Path) -> None:
    code, result, _ = finish(start("--out", str(tmp_path / "o"), "--result", str(tmp_path / "r.json")))
    assert code == 0
    assert result == json.loads((tmp_path / "r.json").read_text())
    assert result["path"] == str(tmp_path / "o")
    assert result["headline"] == {"copies": 1, "visits": 1}
    manifest = read_manifest(tmp_path / "o")
    assert [file["path"] for file in manifest["files"]] == ["0.txt", "report.html"]
    assert manifest["inputs"]["raw"]["files"] == 1


@pytest.mark.slow
def test_the_store_computes_once_and_again_when_data_or_parameters_change(start: Start, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "s"))
    first = finish(start(*store))[1]
    second = finish(start(*store))[1]
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["path"] == second["path"] == f"{tmp_path}/s/toy/{first['key']}"
    other = finish(start(*store, "--set", "toy.copies=2"))[1]
    assert other["key"] != first["key"]
    (tmp_path / "raw" / "a.txt").write_text("changed")
    assert finish(start(*store))[1]["key"] not in {first["key"], other["key"]}
    assert finish(start(*store, "--recompute"))[1]["cached"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--out DIR or --store DIR"),
        (["--out", "o", "--store", "s"], "not allowed with"),
        (["--out", "o", "--set", "toy.copies=0"], "toy.copies"),
        (["--out", "o", "--set", "toy.copies=1.5"], "toy.copies"),
        (["--out", "o", "--set", "toy.copies={{7*7}}"], "toy.copies"),
        (["--out", "o", "--set", "toy.copy=1"], "toy.copy"),
        (["--out", "o", "--set", "other.copies=1"], "reads no section 'other'"),
        (["--out", "o", "--set", "copies"], "section.key=value"),
        (["--out", "o", "--params", "absent.yaml"], "absent.yaml"),
        (["--out", "o", "--raw", "absent"], "absent"),
        (["--outt", "o"], "--outt"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_64(start: Start, arguments: list[str], words: str) -> None:
    code, result, err = finish(start(*arguments))
    assert code == 64
    assert result == {}
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_folder_with_other_things_is_never_replaced(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = finish(start("--out", str(tmp_path / "mine")))
    assert code == 64
    assert "holds something else" in err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_defect_is_exit_70_and_publishes_nothing(start: Start, tmp_path: Path) -> None:
    code, _, err = finish(start("--out", str(tmp_path / "o"), "--set", "toy.fault=defect"))
    assert code == 70
    assert "ZeroDivisionError" in err
    assert not (tmp_path / "o").exists()


def test_sigterm_ends_it_amid_its_work_and_keeps_the_old_artifact(start: Start, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "o"))
    assert finish(start(*out))[0] == 0
    before = read_manifest(tmp_path / "o")
    process = start(*out, "--set", f"toy.until={tmp_path}/never")
    wait_until(lambda: list(tmp_path.glob(".partial-o.*/0.txt")), "the first copy")
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    assert read_manifest(tmp_path / "o") == before
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.slow
def test_sigterm_ends_what_is_deaf_to_it(start: Start, tmp_path: Path) -> None:
    process = start("--out", str(tmp_path / "o"), "--set", "toy.fault=deaf")
    wait_until(lambda: list(tmp_path.glob(".partial-o.*/deaf")), "its call")
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert (code, err.count("stopped by SIGTERM in the middle of a computation")) == (143, 1)
    assert hearing.PATIENCE_S < 3  # all that a stage has
    assert finish(start("--out", str(tmp_path / "o")))[0] == 0


def test_raw_files_that_change_during_the_run_are_not_published_under_the_key_of_the_old_ones(
    start: Start, tmp_path: Path
) -> None:
    process = start("--store", str(tmp_path / "s"), "--set", f"toy.until={tmp_path}/go")
    wait_until(lambda: list((tmp_path / "s").glob("toy/.partial-*/0.txt")), "the first copy")
    (tmp_path / "raw" / "a.txt").write_text("other content")
    (tmp_path / "go").touch()
    code, _, err = finish(process)
    assert code == 75
    assert "raw changed while it was being read" in err
    assert not list((tmp_path / "s" / "toy").glob("*/manifest.json"))


@pytest.mark.slow
def test_killed_at_random_moments_leaves_the_old_artifact_or_the_new_one_whole(start: Start, tmp_path: Path) -> None:
    moments = random.Random(7)  # noqa: S311 (not for cryptography)
    begin = time.monotonic()
    assert finish(start("--out", str(tmp_path / "o")))[0] == 0
    whole = time.monotonic() - begin  # .4 to 1 s by machine, and another time as the machine is busy
    seen = set()
    for copies in range(2, 27):
        process = start("--out", str(tmp_path / "o"), "--set", f"toy.copies={copies}")
        time.sleep(moments.uniform(0.2, 1.3) * whole)
        process.kill()
        process.communicate()
        whole *= 1.25 if process.returncode == -signal.SIGKILL else 0.8
        manifest = read_manifest(tmp_path / "o")  # raises if any file is missing, cut or changed
        assert len(manifest["files"]) == manifest["params"]["toy"]["copies"] + 1  # and the report
        seen.add(manifest["key"])
    assert len(seen) > 1


def test_state_outlives_a_kill_and_is_gone_after_success(start: Start, tmp_path: Path) -> None:
    arguments = ("--store", str(tmp_path / "s"), "--set", "toy.fault=die-once")
    assert finish(start(*arguments))[0] == -9
    result = finish(start(*arguments))[1]
    assert result["headline"] == {"copies": 1, "visits": 2}
    assert not list((tmp_path / "s" / "toy").glob(".state-*"))
    assert not list((tmp_path / "s" / "toy").glob(".partial-*"))


@pytest.mark.slow
def test_two_runs_that_meet_on_one_key_end_with_one_artifact(start: Start, tmp_path: Path) -> None:
    arguments = ("--store", str(tmp_path / "s"), "--set", "toy.copies=5", "--set", "toy.pause=0.1")
    results = [finish(process)[1] for process in [start(*arguments), start(*arguments)]]
    assert sorted(bool(result["cached"]) for result in results) == [False, True]
    assert results[0]["path"] == results[1]["path"]


def test_what_a_stage_delivers_is_delivered_also_when_the_artifact_is_there_already(
    start: Start, tmp_path: Path
) -> None:
    board = tmp_path / "board"  # which is made
    arguments = ("--store", str(tmp_path / "s"), "--board", str(board))
    results = [finish(start(*arguments))[1] for _ in range(2)]
    assert [result["cached"] for result in results] == [False, True]
    assert all(result["headline"] == {"copies": 1, "visits": 1, "delivered": "yes"} for result in results)
    assert all(result["report"] == str(board / "report.html") for result in results)
    (board / str(results[0]["key"])).unlink()
    finish(start(*arguments))
    assert (board / str(results[0]["key"])).exists()


def test_a_run_completes_the_delivery_of_a_killed_one(start: Start, tmp_path: Path) -> None:
    board = tmp_path / "board"
    arguments = ("--store", str(tmp_path / "s"), "--board", str(board), "--set", "toy.fault=undelivered")
    assert finish(start(*arguments))[0] == -9
    assert [path.name for path in board.iterdir()] == ["tried"]
    code, result, _ = finish(start(*arguments))
    assert (code, result["cached"]) == (0, True)
    assert (board / str(result["key"])).exists()


def test_a_delivery_that_fails_fails_the_stage_and_leaves_the_artifact(start: Start, tmp_path: Path) -> None:
    arguments = ("--store", str(tmp_path / "s"), "--board", str(tmp_path / "b"), "--set", "toy.fault=refused")
    for _ in range(2):
        code, _, err = finish(start(*arguments))
        assert code == 65
        assert "the board takes nothing" in err
    (made,) = (tmp_path / "s" / "toy").glob("[0-9a-f]*")
    read_manifest(made)


def test_of_a_folder_that_outlives_runs_only_what_the_stage_names_decides_the_key(start: Start, tmp_path: Path) -> None:
    board = tmp_path / "board"
    arguments = ("--store", str(tmp_path / "s"), "--board", str(board))
    keys = []
    for name in ("other", "mark"):
        keys.append(finish(start(*arguments))[1]["key"])
        (board / name).write_text("x")
    keys.append(finish(start(*arguments))[1]["key"])
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.slow
def test_leftovers_of_killed_runs_go_but_a_live_run_is_left_alone(start: Start, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "s"))
    assert finish(start(*store, "--set", "toy.fault=die"))[0] == -9
    dead = {path.name for path in (tmp_path / "s" / "toy").glob(".partial-*")}
    live = start(*store, "--set", "toy.copies=20", "--set", f"toy.until={tmp_path}/go")
    wait_until(lambda: list((tmp_path / "s" / "toy").glob(".partial-*/0.txt")), "its first copy")
    assert finish(start(*store))[0] == 0
    left = {path.name for path in (tmp_path / "s" / "toy").glob(".partial-*")}
    assert len(dead) == 1
    assert len(left) == 1
    assert not dead & left
    (tmp_path / "go").touch()
    assert finish(live)[1]["headline"] == {"copies": 20, "visits": 1}


def test_a_flipped_bit_is_found_and_the_artifact_is_made_again(start: Start, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "s"))
    path = Path(str(finish(start(*store))[1]["path"]))
    content = bytearray((path / "0.txt").read_bytes())
    content[7] ^= 1
    (path / "0.txt").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        read_manifest(path)
    result, err = finish(start(*store))[1:]
    assert result["cached"] is False
    assert "damaged" in err
    assert read_manifest(path)["key"] == result["key"]


@pytest.mark.parametrize(
    ("room", "fault"),
    [("size=1m", "toy.copies=1000"), ("size=1m", "toy.fault=unsaid"), ("nr_inodes=100", "toy.copies=1000")],
)
def test_a_full_disk_is_one_line_and_exit_69(start: Start, tmp_path: Path, room: str, fault: str) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", room, "tmpfs", small], check=True)
    try:
        code, _, err = finish(start("--store", str(small), "--set", fault))
        assert code == 69
        said = err.splitlines()[-1]
        assert re.search(rf"{small}/\S*: No space left on device \(\d+\.\d MB and \d+ inodes free\): free space", said)
        assert "Traceback" not in err
        assert not list(small.glob("toy/[0-9a-f]*"))
        assert not list(small.glob("toy/.partial-*"))
        assert finish(start("--store", str(small)))[0] == 0
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_artifact_that_is_not_final_is_used_and_made_anew_from_its_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("a")
    stage = dataclasses.replace(STAGE, is_final=lambda artifact: read_manifest(artifact)["headline"]["visits"] == 2)
    params = tmp_path / "params.yaml"
    params.write_text("toy: {copies: 1}\n")
    found = []
    for _ in range(3):
        paths = ["--raw", str(tmp_path / "raw"), "--params", str(params), "--store", str(tmp_path / "store")]
        assert main(stage, paths) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        found.append((result["cached"], result["headline"]["visits"]))
    assert found == [(False, 1), (False, 2), (True, 2)]


@pytest.mark.parametrize(
    ("fault", "cause", "remedy"),
    [
        ("wrapped", "No space left on device", "free space or inodes there"),
        ("quota", "Disk quota exceeded", "free space there, or raise the quota"),
    ],
)
def test_a_full_disk_that_a_library_wraps_is_one_line_and_exit_69(
    start: Start, tmp_path: Path, fault: str, cause: str, remedy: str
) -> None:
    code, _, err = finish(start("--store", str(tmp_path / "s"), "--set", f"toy.fault={fault}"))
    assert code == 69
    assert cause in err
    assert err.endswith(f": {remedy}\n")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_run_that_lost_its_lock_publishes_nothing(start: Start, tmp_path: Path) -> None:
    home, arguments = tmp_path / "s" / "toy", ("--store", str(tmp_path / "s"), "--set", "toy.copies=4")
    slow = (*arguments, "--set", f"toy.until={tmp_path}/go")
    first = start(*slow)
    (made,) = wait_until(lambda: list(home.glob(".partial-*/0.txt")), "its first copy")
    first.send_signal(signal.SIGSTOP)
    next(home.glob(".lock-*")).unlink()
    second = start(*slow)
    wait_until(lambda: list(home.glob(".partial-*/0.txt")) and not made.exists(), "the other's first copy")
    (tmp_path / "go").touch()
    first.send_signal(signal.SIGCONT)
    code, _, err = finish(first)
    assert code == 75, err
    assert "another run may have taken over" in err.splitlines()[-1]
    code, result, _ = finish(second)
    assert (code, result["cached"]) == (0, False)
    assert len(read_manifest(Path(str(result["path"])))["files"]) == 5
    assert not list(home.glob(".partial-*"))


def test_an_artifact_without_a_declared_output_is_not_published(start: Start, tmp_path: Path) -> None:
    code, _, err = finish(start("--out", str(tmp_path / "o"), "--set", "toy.fault=lazy"))
    assert code == 70
    assert "0.txt was not written" in err
    assert not (tmp_path / "o").exists()


def test_a_raw_file_that_vanishes_while_it_is_needed_is_a_passing_fault(start: Start, tmp_path: Path) -> None:
    process = start("--store", str(tmp_path / "s"), "--set", "toy.fault=late", "--set", f"toy.until={tmp_path}/go")
    wait_until(lambda: list((tmp_path / "s").glob("toy/.partial-*/late")), "its work")
    (tmp_path / "raw" / "a.txt").unlink()
    (tmp_path / "go").touch()
    code, _, err = finish(process)
    assert code == 75
    assert "changed while it was being read" in err
    assert len(err.splitlines()) == 1


def test_a_raw_file_that_vanishes_while_it_is_checked_is_a_passing_fault(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`start` has made what the stage reads."""

    def check(_params: object, inputs: Mapping[str, Path]) -> Headline:
        (inputs["raw"] / "a.txt").unlink()
        return {"letters": len((inputs["raw"] / "a.txt").read_text())}

    given = ["--raw", str(tmp_path / "raw"), "--params", str(tmp_path / "params.yaml")]
    assert main(dataclasses.replace(STAGE, check=check), [*given, "--check"]) == 75
    assert f"{tmp_path}/raw/a.txt changed while it was being read" in caplog.text


def test_a_disk_that_fails_is_tried_again(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def check(_params: object, _inputs: Mapping[str, Path]) -> Headline:
        return {"letters": len(Path("/proc/self/mem").read_bytes())}  # nothing lies at 0: an error of input and output

    given = ["--raw", str(tmp_path / "raw"), "--params", str(tmp_path / "params.yaml")]
    assert main(dataclasses.replace(STAGE, check=check), [*given, "--check"]) == 75
    assert "Input/output error: see that its disk or file server works, then try again" in caplog.text


@pytest.mark.slow
def test_an_edit_with_the_old_time_is_seen(start: Start, tmp_path: Path) -> None:
    store, file = ("--store", str(tmp_path / "s")), tmp_path / "raw" / "a.txt"
    before = file.stat()
    time.sleep(2.1)  # a younger file is not remembered
    first = finish(start(*store))[1]
    file.write_text("HELLO ")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    second = finish(start(*store))[1]
    assert second["key"] != first["key"]
    assert (Path(str(second["path"])) / "0.txt").read_text().startswith("HELLO ")


def test_every_flipped_bit_in_a_manifest_is_noticed(start: Start, tmp_path: Path) -> None:
    finish(start("--out", str(tmp_path / "o")))
    file, places = tmp_path / "o" / "manifest.json", random.Random(7)  # noqa: S311 (not for cryptography)
    content, whole = file.read_bytes(), read_manifest(tmp_path / "o")
    for _ in range(75):
        flipped = bytearray(content)
        flipped[places.randrange(len(content))] ^= 1 << places.randrange(8)
        file.write_bytes(flipped)
        with contextlib.suppress(DataError):
            assert read_manifest(tmp_path / "o") == whole  # as with `E` for `e` in a number


def test_a_manifest_that_was_changed_together_with_its_digest_is_noticed(start: Start, tmp_path: Path) -> None:
    finish(start("--out", str(tmp_path / "o")))
    file = tmp_path / "o" / "manifest.json"
    told = json.loads(file.read_text())
    del told["digest"]
    told["params"]["toy"]["copies"] += 1
    file.write_text(json.dumps({**told, "digest": json_digest(told)}))
    with pytest.raises(DataError, match="its parameters and inputs have the key"):
        read_manifest(tmp_path / "o")


def test_the_manifest_tells_what_the_result_may_depend_on_beyond_the_key(start: Start, tmp_path: Path) -> None:
    finish(start("--out", str(tmp_path / "o")))
    told = read_manifest(tmp_path / "o")["environment"]
    assert told["python"] == platform.python_version()
    assert told["cores"] == len(os.sched_getaffinity(0)) or told["cores"] >= 1
