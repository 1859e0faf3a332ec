"""A stage in a container ends with whoever holds its standard input, and by hand it does not care for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[3]
SLOW = ("--set", "toy.copies=1000", "--set", "toy.pause=0.2")  # minutes, of which no test waits for the end


@pytest.fixture
def toy(tmp_path: Path) -> list[str]:
    """Command line of the toy stage, into `tmp_path/o`."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("hello ")
    (tmp_path / "params.yaml").write_text("toy: {copies: 1}\nother: {}\n")
    (tmp_path / "images" / "toy").mkdir(parents=True)
    paths = {"--raw": "raw", "--params": "params.yaml", "--out": "o"}
    arguments = [text for flag, name in paths.items() for text in (flag, str(tmp_path / name))]
    return [sys.executable, str(Path(__file__).parents[1] / "toy.py"), *arguments]


def test_the_end_of_standard_input_ends_a_stage_that_is_held_by_it(toy: list[str], tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "FACE_ATTRIBUTES_ENDS_WITH_STDIN": "1"}
    with subprocess.Popen([*toy, *SLOW], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as (
        stage
    ):
        wait_until(lambda: list(tmp_path.glob(".partial-o.*/5.txt")), "its work, as long as it is held")
        _, err = stage.communicate(timeout=PATIENCE_S)
    assert stage.returncode == 143
    assert "the task that ran this stage is gone: stopping" in err
    assert not list(tmp_path.glob(".partial-o*"))


def test_without_being_asked_a_stage_lets_standard_input_end(toy: list[str]) -> None:
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(toy, stdin=subprocess.DEVNULL, env=environment, capture_output=True)
    assert done.returncode == 0
