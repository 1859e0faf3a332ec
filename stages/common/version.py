"""The version of a stage: a digest of its code and its locked requirements.

The same files lie at the same relative paths in the repository and in the stage's image, so both compute the same
version, and a changed line of code or a changed pin makes new artifacts.
"""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository's root, or /app in an image."""

SUITES = {
    "validate": ("raw_annotations", "images"),
    "prepare_train": ("prepared",),
    "evaluate": ("predictions",),
    "predict": ("predictions",),
    "monitor": ("drift",),
}
"""The suites of `expectations/` that a stage checks its data against."""


def stage_files(stage: str, root: Path = ROOT) -> list[Path]:
    """The files that decide what `stage` computes, sorted, relative to `root`."""
    folders = ["stages/common", f"stages/{stage}"]
    found = [
        path for folder in folders for path in (root / folder).rglob("*") if path.suffix in {".py", ".json", ".html"}
    ]
    found += [root / "expectations" / f"{suite}.json" for suite in SUITES.get(stage, ())]
    found += [root / "images" / stage / "requirements.txt"]
    return sorted(path.relative_to(root) for path in found if path.is_file())


def stage_version(stage: str, root: Path = ROOT) -> str:
    """SHA-256 (16 hex digits) over names and contents of `stage_files`."""
    digest = hashlib.sha256()
    for path in stage_files(stage, root):
        content = (root / path).read_bytes()
        digest.update(f"{path.as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    import sys

    print(stage_version(sys.argv[1]))
