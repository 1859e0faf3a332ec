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
    assert bench == "machine" or f"\nbench {bench}" in script or f"\n  bench {bench}" in script


def test_a_bench_that_is_not_there_is_refused_before_anything_runs() -> None:
    environment = {"PATH": "/usr/bin:/bin", "ONLY": "train nothing"}
    done = subprocess.run(
        [ROOT / "scripts/bench"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 64
    assert done.stderr.startswith("bench: ONLY: there is no nothing, only ")
    assert done.stdout == ""
