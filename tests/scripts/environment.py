"""The development environment for a copy of the repository."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def link_environment(tree: Path) -> None:
    """Give a copy an environment that scripts/venv finds up to date, and where it can install nothing."""
    (tree / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (tree / ".venv" / name).symlink_to(ROOT / ".venv" / name)
    (tree / ".cache").mkdir()
    (tree / ".cache/uv").touch()  # no folder
    locks = b"".join((tree / name).read_bytes() for name in ("scripts/uv.txt", "requirements.txt"))
    stamp = hashlib.sha256(f"{tree}\n".encode() + locks).hexdigest()
    (tree / ".venv/.digest").write_text(f"{stamp}  -\n")
