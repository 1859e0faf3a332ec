"""Publishing where the file system cannot swap two folders in one step, as NFS."""

import errno
from pathlib import Path

import pytest

from stages.common.contract import artifacts


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
