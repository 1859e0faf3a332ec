"""Which images can be built for 64-bit Arm: the locks, as uv would install them there."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(path.parent.name for path in ROOT.glob("images/*/requirements.txt"))
NO_WHEEL = {"antlr4-python3-runtime"}
"""Packages that have no wheel for any machine, and need no compiler."""
COMPILED = "cykooz-resizer"
"""Has wheels for x86-64 alone, and is written in Rust."""


def install(image: str, tmp_path: Path, *built: str) -> "subprocess.CompletedProcess[str]":
    """Dry run of uv with the lock of an image on Arm, with wheels for all but the packages that are `built`."""
    command = [str(ROOT / ".cache/uv/bin/uv"), "pip", "install", "--dry-run", "--quiet", f"--target={tmp_path}"]
    command += ["--python-version=3.11", "--python-platform=aarch64-unknown-linux-gnu"]
    command += ["--no-deps", "--require-hashes", f"--requirement={ROOT / 'images' / image / 'requirements.txt'}"]
    command += ["--only-binary=:all:", *(f"--no-binary={name}" for name in built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "error sending request" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip("no package index answers")
    return done


@pytest.mark.slow
@pytest.mark.parametrize("image", LOCKS)
def test_a_lock_installs_on_arm_with_at_most_one_package_to_compile(image: str, tmp_path: Path) -> None:
    lock = (ROOT / "images" / image / "requirements.txt").read_text(encoding="utf-8")
    compiles = f"\n{COMPILED}==" in lock
    done = install(image, tmp_path, *NO_WHEEL, *[COMPILED] * compiles)
    assert done.returncode == 0, done.stderr
    told = (ROOT / "docs/stages.md").read_text(encoding="utf-8").partition("## On 64-bit Arm")[2].partition("\n## ")[0]
    assert (f"`{image}`" in told) == compiles


@pytest.mark.slow
def test_the_package_to_compile_still_has_no_wheel(tmp_path: Path) -> None:
    done = install("engine_proxy", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{COMPILED}" in install("validate", tmp_path, *NO_WHEEL).stderr
