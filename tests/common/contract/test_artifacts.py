"""Publishing where the file system cannot swap two folders in one step, as NFS; and reading what is damaged."""

import errno
from pathlib import Path

import pytest

from stages.common.contract import artifacts
from stages.common.contract.errors import DataError, StageError, UsageError


def test_an_artifact_is_replaced_also_where_folders_cannot_be_swapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(one: Path, _other: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument", str(one))

    monkeypatch.setattr(artifacts, "_exchange", refuse)
    for text in ("old", "new"):
        partial = tmp_path / ".partial-key"
        partial.mkdir()
        (partial / "file").write_text(text)
        artifacts.publish(partial, tmp_path / "key")
        assert (tmp_path / "key" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("content", "stage", "words"),
    [
        (None, "train", r"told\.json \(No such file or directory\): run stage train again"),
        (b"{", "train", r"told\.json \(Expecting .*\): run stage train again"),
        (b"\xff", "", r"told\.json \(.* invalid start byte\): run the stage that makes it again"),
        (b'{"a": 1}', "", r"told\.json \(no 'b'\): run the stage"),
        (b"[]", "", r"told\.json \(list indices must be .*\): run the stage"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_says_which_stage_to_run(
    tmp_path: Path, content: bytes | None, stage: str, words: str
) -> None:
    path = tmp_path / "told.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^cannot read {tmp_path}/{words}") as caught, artifacts.reading(path, stage):
        artifacts.read_json(path, stage)["b"]
    assert "\n" not in str(caught.value)


def test_what_has_a_cause_of_its_own_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"^name another$"), artifacts.reading(tmp_path):
        raise UsageError("name another")
