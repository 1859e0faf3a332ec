"""The index of digests: it saves reading, and is never believed against the files, whatever becomes of it."""

import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.common.contract.digest_index import BATCH, DigestIndex
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files that changed long enough ago to be remembered."""
    (tmp_path / "raw").mkdir()
    made = [tmp_path / "raw" / os.fsdecode(name) for name in (b"a.png", b"b.png", b"not utf-8 \xff.png")]
    for file in made:
        file.write_bytes(os.fsencode(file.name) * 9)
    time.sleep(2.1)
    return made


def right(files: list[Path]) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


class Watched(DigestIndex):
    """Tells which files are read."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        super().__init__(path, fresh=fresh)
        self.read: list[str] = []

    def _read(self, file: str | Path, name: bytes) -> str:
        self.read.append(Path(file).name)
        return super()._read(file, name)


def learn(path: Path, files: list[Path]) -> None:
    index = DigestIndex(path)
    list(index.digests(files))
    index.save()


def are_read(path: Path, files: list[Path]) -> list[str]:
    """Names of the files that are read, while the digests are right."""
    index = Watched(path)
    assert list(index.digests(files)) == right(files)
    index.save()
    return index.read


def test_only_what_changed_is_read_again(tmp_path: Path, files: list[Path]) -> None:
    learn(tmp_path / "d", files)
    assert are_read(tmp_path / "d", files) == []
    old = files[1].stat()
    files[1].write_bytes(b"x" * old.st_size)
    os.utime(files[1], ns=(old.st_atime_ns, old.st_mtime_ns))
    assert are_read(tmp_path / "d", files) == ["b.png"]


def test_many_files_are_looked_up_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    files = [tmp_path / "raw" / f"{number}.png" for number in range(2 * BATCH + 1)]
    for file in files:
        file.write_text(file.name)
    time.sleep(2.1)
    learn(tmp_path / "d", files)
    for file in files[BATCH - 1 : BATCH + 1]:
        file.write_text(f"not {file.name}")
    assert are_read(tmp_path / "d", files[::-1]) == [file.name for file in files[BATCH : BATCH - 2 : -1]]


def test_what_changed_a_moment_ago_is_not_remembered(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files[0].touch()
    a_second_later = files[0].stat().st_mtime_ns + 10**9
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: a_second_later)
        learn(tmp_path / "d", files)
    assert are_read(tmp_path / "d", files) == ["a.png"]


def test_fresh_believes_only_what_it_has_read_itself(tmp_path: Path, files: list[Path]) -> None:
    learn(tmp_path / "d", files)
    index = Watched(tmp_path / "d", fresh=True)
    for _ in range(2):
        assert list(index.digests(files)) == right(files)
        index.save()
    assert index.read == [file.name for file in files]


def change_digit(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("update digests set digest = replace(digest, substr(digest, 6, 1), '0') ")


def put_integers(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("update digests set digest = 7, stat = 7, sum = 'x'")


def put_json(path: Path) -> None:
    path.write_text('{"a.png": 7}')


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [change_digit, put_integers, put_json, cut, empty])
def test_a_damaged_index_is_not_believed_and_mends_itself(
    spoil: Callable[[Path], None], tmp_path: Path, files: list[Path]
) -> None:
    learn(tmp_path / "d", files)
    spoil(tmp_path / "d")
    assert set(are_read(tmp_path / "d", files)) == {file.name for file in files}
    learn(tmp_path / "d", files)
    assert are_read(tmp_path / "d", files) == []


def test_a_locked_index_costs_only_time(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learn(tmp_path / "d", files)
    monkeypatch.setattr("stages.common.contract.digest_index.WAIT_S", 0.1)
    with sqlite3.connect(tmp_path / "d", isolation_level=None) as base:
        base.execute("begin exclusive")
        assert len(are_read(tmp_path / "d", files)) == 3
        base.execute("commit")
    base.close()
    assert "database is locked" in caplog.text
    assert are_read(tmp_path / "d", files) == []


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path, files: list[Path]) -> None:
    code = "import sys; from pathlib import Path; from tests.common.contract.test_digest_index import learn; "
    code += "[learn(Path(sys.argv[1]), [Path(name)]) for name in sys.argv[2:] for _ in range(20)]"
    root = Path(__file__).parents[3]
    others = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "d", file], cwd=root, env={"PYTHONPATH": str(root)})
        for file in files
    ]
    assert [other.wait(PATIENCE_S) for other in others] == [0, 0, 0]
    assert are_read(tmp_path / "d", files) == []
