"""Output of a container in the task's log, without a container."""

import runpy
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

# By its path, which spares this process Airflow.
LOG = runpy.run_path(str(Path(__file__).parents[2] / "dags/stage_operator/log.py"))


def read(*stream: tuple[bytes | None, bytes | None]) -> tuple[list[str], Any]:
    """The lines of a stream, and the object that read them."""
    log = LOG["LogLines"]()
    return list(log.lines(stream)), log


def shown(stream: Iterable[bytes]) -> list[str]:
    """The lines of what comes on standard output alone."""
    return read(*((piece, None) for piece in stream))[0]


def test_a_line_is_whole_wherever_it_was_cut_and_the_two_streams_never_mix() -> None:
    lines, _ = read((b"one ", None), (None, b"a warn"), (b"line\ntwo", b"ing\n"), (b"\nthe rest", None))
    assert lines == ["one line", "a warning", "two", "the rest"]


def test_a_progress_bar_leaves_its_last_state_and_windows_line_ends_leave_the_line() -> None:
    assert shown([b"1 %\r2", b" %\r", b"100 %\n", b"a line\r\n", b"another\r", b"\n"]) == ["100 %", "a line", "another"]


def test_bytes_that_no_terminal_should_see_are_replaced() -> None:
    assert shown(["\x1b[31mred\x07 é ".encode() + b"\xff\xfe\n"]) == ["\ufffd[31mred\ufffd é \ufffd\ufffd"]


def test_a_long_line_is_cut_and_says_by_how_much() -> None:
    room = LOG["LINE_BYTES"]
    cut, after = shown([b"x" * (room + 5), b"y" * 10, b"\nafter\n"])
    assert cut == "x" * room + " ... (line cut, 15 more bytes)"
    assert after == "after"


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (b"12:00:00 INFO begins\n12:00:01 ERROR train: no images: add some\n12:00:02 INFO ends\n",
         "train: no images: add some"),
        (b"12:00:01 ERROR the first\n12:00:02 CRITICAL the second\n12:00:03 WARNING odd\n", "the second"),
        (b"12:00:03 WARNING odd\nKilled\n", "Killed"),
        (b"", "it logged nothing"),
    ],
)  # fmt: skip
def test_the_cause_is_the_last_error_or_else_the_last_line(output: bytes, cause: str) -> None:
    _, log = read((output, None))
    assert log.cause() == cause


def test_the_exception_ends_with_the_last_lines() -> None:
    _, log = read((b"".join(b"%d\n" % number for number in range(100)), None))
    assert LOG["tail_of"](log).split() == ["last", "20", "lines:", *map(str, range(80, 100))]
    assert LOG["tail_of"](None) == ""


def flood() -> Iterable[bytes]:
    """100,000 lines of 100 bytes, an error amid them, and one at the end."""
    for number in range(100_000):
        yield b"%09d %s\n" % (number, b"x" * 89)
        if number == 50_000:
            yield b"12:00:01 ERROR amid the flood\n"
    yield b"12:00:02 INFO the last line\n"


def test_of_a_flood_the_head_the_errors_and_the_last_lines_are_kept_and_the_rest_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    lines = shown(flood())
    assert lines[0].startswith("000000000 xxx")
    assert lines[-1] == "12:00:02 INFO the last line"
    assert "12:00:01 ERROR amid the flood" in lines
    assert sum(len(line) + LOG["LINE_COST"] for line in lines) < LOG["HEAD_BYTES"] + 2 * LOG["LAST_BYTES"]
    (told,) = (line for line in lines if line.endswith("MB, were left out here; the last lines:"))
    kept = sum("x" * 89 in line for line in lines)
    assert int(told.split()[1].replace(",", "")) + kept == 100_000


def test_a_long_flood_shows_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1_000_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))  # a second passes at each look
    signs = [line for line in shown(flood()) if line.endswith(" so far)")]
    assert len(signs) == pytest.approx(1400, rel=0.1)
    assert "MB, were left out so far)" in signs[0]
