"""The benches can be started, and whoever looks for one finds it."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHES = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("bench", BENCHES)
def test_bench_explains_itself(bench: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [bench, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "bench" / f"{bench}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("bench", BENCHES)
def test_bench_is_named_where_people_look(bench: str) -> None:
    assert f"bench.{bench}" in (ROOT / "bench/README.md").read_text(encoding="utf-8")
    script = (ROOT / "scripts/bench").read_text(encoding="utf-8")
    by_others = {"machine", "baseline"}  # what other benches run
    assert bench in by_others or f"\nbench {bench}" in script or f"\n  bench {bench}" in script


def test_a_bench_that_is_not_there_is_refused_before_anything_runs() -> None:
    environment = {"PATH": "/usr/bin:/bin", "ONLY": "train nothing"}
    done = subprocess.run(
        [ROOT / "scripts/bench"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 64
    assert done.stderr.startswith("bench: ONLY: there is no nothing, only ")
    assert done.stdout == ""


def test_gpu_check_says_what_it_needs_before_anything_runs(tmp_path: Path) -> None:
    def check(*words: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [ROOT / "scripts/gpu-check", *words]
        told = {"PATH": "/usr/bin:/bin", **environment}
        return subprocess.run(command, env=told, cwd=ROOT, capture_output=True, text=True, check=False)

    done = check(tmp_path)
    assert done.returncode == 64
    assert done.stderr.startswith(f"gpu-check: {tmp_path} is not an artifact of stage prepare_train")
    (tmp_path / "index.csv").touch()
    bare = tmp_path / "python"  # without what is installed here
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    done = check(tmp_path, tmp_path / "out", PYTHON=str(bare))
    assert done.returncode == 69
    assert done.stderr.count("\n") == 1
    assert " lacks PyYAML " in done.stderr
    assert " torch (put their wheels" in done.stderr
    done = check(tmp_path, tmp_path / "out", PYTHON=str(bare), WHEELS=str(tmp_path))
    assert done.returncode == 64
    assert done.stderr == f"gpu-check: WHEELS: there is no wheel in {tmp_path}\n"
