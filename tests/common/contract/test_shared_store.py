"""The store keeps its promises between two machines that share its folder. Here two processes stand for them.

On a folder that machines do share, such as a mount of NFS, with the same path on both:

    SHARED_FOLDER=/mnt/artifacts OTHER_MACHINE="ssh worker2 cd face-attributes && exec .venv/bin/python -m" \
        .venv/bin/pytest tests/common/contract/test_shared_store.py

OTHER_MACHINE is the command that runs a module of this repository there. OTHER_FOLDER is the folder's path there, if it
differs.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
HALF = "tests.common.contract.half"
KEYS = [f"{number:064x}" for number in range(4)]
NOTICED_S = 90.0
"""How long a machine may believe what it knows of a file; NFS asks again after 3 to 60 s."""


class Machine:
    """One of the two."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [*command, HALF], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.answer() == "ready"

    def begin(self, name: str, *arguments: Any) -> None:
        """Have it do something; texts that begin with ./ are paths in the folder."""
        told = [
            {"path": f"{self.folder}/{argument[2:]}"}
            if isinstance(argument, str) and argument[:2] == "./"
            else argument
            for argument in arguments
        ]
        assert self._process.stdin
        self._process.stdin.write(json.dumps([name, *told]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the last call."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "it has ended"
        told = json.loads(line)
        assert "is" in told, told["error"]
        return told["is"]

    def do(self, name: str, *arguments: Any) -> Any:
        self.begin(name, *arguments)
        return self.answer()

    def end(self) -> None:
        with self._process:  # closes what it reads
            pass

    def die(self) -> None:
        self.begin("die")
        self.end()


def _here(folder: Path) -> Machine:
    return Machine(folder, [sys.executable, "-m"])


def _there(folder: Path) -> Machine:
    other = os.environ.get("OTHER_MACHINE")
    return Machine(folder, shlex.split(other) if other else [sys.executable, "-m"])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The folder as both machines see it."""
    shared = os.environ.get("SHARED_FOLDER")
    if not shared:
        both = tmp_path_factory.mktemp("shared")
        yield both, both
        return
    name = f"try-{uuid.uuid4().hex}"
    mine = Path(shared, name)
    mine.mkdir()
    yield mine, Path(os.environ.get("OTHER_FOLDER", shared), name)
    shutil.rmtree(mine)


@pytest.fixture(scope="module")
def machines(places: tuple[Path, Path]) -> Iterator[tuple[Machine, Machine]]:
    one, other = _here(places[0]), _there(places[1])
    yield one, other
    one.end()
    other.end()


@pytest.fixture(scope="module")
def raw(machines: tuple[Machine, Machine]) -> None:
    """Folders of raw files that the first one has written, long enough ago to be remembered."""
    for folder, count in (("raw", 5), ("many", 20), ("changing", 1)):
        for number in range(count):
            machines[0].do("write", f"./{folder}/{number}", str(number))
    time.sleep(2.1)


Machines = tuple[Machine, Machine]


def test_they_share_a_folder(machines: Machines) -> None:
    one, other = machines
    one.do("write", "./hello", "hello")
    assert other.do("names", "./") == one.do("names", "./") == ["hello"]


def test_a_new_artifact_is_there_for_all_at_once(machines: Machines) -> None:
    one, other = machines
    for number in range(4):
        assert other.do("look", f"./new/{number}") == "nothing"  # which a machine may remember
        one.do("publish", f"./new/{number}", "new")
        assert other.do("look", f"./new/{number}") == "whole"


def test_readers_of_what_is_replaced_find_it_whole_or_not_at_all(machines: Machines) -> None:
    one, other = machines
    other.begin("watch", "./replaced/key", 1.5)
    one.do("publish", "./replaced/key", "same", 20)
    assert set(other.answer()) <= {"nothing", "whole"}
    assert other.do("look", "./replaced/key") == "whole"


def test_two_that_need_the_same_artifact_make_it_once(machines: Machines) -> None:
    for machine in machines:
        assert machine.do("look", "./once/key") == "nothing"
    for machine in machines:
        machine.begin("make_once", "./once/key")
    assert sorted(machine.answer() for machine in machines) == [False, True]


def test_a_killed_writer_leaves_nothing_and_its_lock_is_free(places: tuple[Path, Path], machines: Machines) -> None:
    victim, (one, other) = _there(places[1]), machines
    victim.do("begin", "./killed/key")
    assert one.do("is_free", "./killed/.lock-key") is False
    assert other.do("look", "./killed/key") == "nothing"
    victim.die()
    assert one.do("make_once", "./killed/key") is True
    assert other.do("look", "./killed/key") == "whole"
    assert one.do("names", "./killed") == [".lock-key", "key"]


def test_locks_keep_others_out_and_show_what_was_written_under_them(machines: Machines) -> None:
    for machine in machines:
        machine.begin("count", "./counted/number", 30)
    for machine in machines:
        machine.answer()
    for machine in machines:
        assert machine.do("read", "./counted/number") == "60"


def test_who_waits_for_a_lock_that_is_removed_takes_another(machines: Machines) -> None:
    one, other = machines
    one.begin("remove_lock", "./removed/.lock-key", 1)
    time.sleep(0.5)
    other.do("publish", "./removed/key", "text")
    one.answer()
    assert one.do("look", "./removed/key") == "whole"


def test_a_clean_up_leaves_what_another_machine_reads(machines: Machines) -> None:
    one, other = machines
    one.do("publish", f"./store/first/{KEYS[0]}", "text")
    one.do("make_older", "./store/first")
    one.do("publish", f"./store/first/{KEYS[1]}", "the newest, which stays anyhow")
    one.do("hold", f"./store/second/.lock-{KEYS[2]}", [f"/anywhere/first/{KEYS[0]}"])
    assert other.do("clean_up", "./store") == []
    assert one.do("look", f"./store/first/{KEYS[0]}") == "whole"
    one.do("let_go")


def test_what_is_open_can_be_replaced_and_removed(machines: Machines) -> None:
    one, other = machines
    for _ in range(2):
        one.do("publish", f"./open/first/{KEYS[0]}", "text")
        for machine in machines:
            machine.do("hold_open", f"./open/first/{KEYS[0]}/files/0")
    one.do("make_older", "./open/first")
    one.do("publish", f"./open/first/{KEYS[1]}", "the newest, which stays anyhow")
    assert other.do("clean_up", "./open") == []
    for machine in machines:
        machine.do("let_go")
    assert other.do("look", f"./open/first/{KEYS[0]}") == "nothing"


def test_histories_that_are_written_at_once_keep_every_line(machines: Machines) -> None:
    for who, machine in zip("ab", machines, strict=True):
        machine.do("write", f"./cache/{who}", "")
        machine.begin("remember", "./cache", who, 50)
    for machine in machines:
        machine.answer()
    for who in "ab":
        assert [machine.do("recall", "./cache", who) for machine in machines] == [list(range(50))] * 2


def test_what_one_has_read_no_other_reads_again(machines: Machines, raw: None) -> None:
    one, other = machines
    assert one.do("learn", "./", "./raw") == 5
    assert other.do("learn", "./", "./raw") == 0


def test_the_index_of_digests_is_sound_after_both_wrote_at_once(machines: Machines, raw: None) -> None:
    for machine in machines:
        machine.begin("learn_apart", "./", "./many")
    for machine in machines:
        machine.answer()
    assert [machine.do("is_sound", "./") for machine in machines] == ["ok", "ok"]
    assert machines[1].do("learn", "./", "./many") == 0


def test_a_file_that_another_machine_has_changed_is_noticed(machines: Machines, raw: None) -> None:
    one, other = machines
    assert other.do("learn", "./", "./changing") == 1
    one.do("write", "./changing/0", "1")
    right, start = one.do("digest", "./", "./changing/0"), time.monotonic()
    while other.do("digest", "./", "./changing/0") != right:
        assert time.monotonic() < start + NOTICED_S
        time.sleep(1)
