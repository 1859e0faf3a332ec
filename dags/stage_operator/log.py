"""The output of a container as lines of the task's log: readable, in bounded memory, and some megabytes at most."""

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator

LINE_BYTES = 4096  # of one log line; a 20 MB line would stall the task log and the page that shows it
TAIL_LINES = 20  # of the log, in the exception

# The API server reads a log as a whole, and a task log of 1.4 GB ended it. A stage on the contract logs a line every
# few seconds: 2 MB in the longest run.
HEAD_BYTES = 4 * 10**6  # passed on as they come
ERROR_BYTES = 10**6  # of errors and warnings after that
LAST_BYTES = 10**5  # of the last lines, held back until the end
LINE_COST = 200  # bytes that Airflow stores beside each line
SIGN_OF_LIFE_S = 60  # between two lines while all others are left out

_LEVEL = re.compile(r"[\d:]{8} (WARNING|ERROR|CRITICAL) (.*)", re.DOTALL)


def tail_of(log: "LogLines | None") -> str:
    """The last lines, indented, to follow the first line of an exception."""
    lines = ["", f"last {len(log.tail)} lines:", *log.tail] if log and log.tail else []
    return "".join(f"\n    {line}" for line in lines)


class _Line:
    """A line of a stage's output while it arrives, in bounded memory.

    A line over `LINE_BYTES` is cut, with a remark. If a progress bar rewrites a line with carriage returns, its last
    state is kept. Bytes that are not UTF-8 and control characters (of terminals) are replaced.
    """

    _CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._lost = 0
        self._returned = False

    def add(self, piece: bytes) -> None:
        """Add the next bytes, which hold no end of line; a carriage return comes alone."""
        if piece == b"\r":
            self._returned = True
        elif piece:
            if self._returned:  # only now: the return of CR LF rewrites nothing
                self._bytes.clear()
                self._lost, self._returned = 0, False
            room = max(0, LINE_BYTES - len(self._bytes))
            self._bytes += piece[:room]
            self._lost += len(piece[room:])

    def text(self) -> str:
        """The line so far."""
        line = self._CONTROL.sub("\ufffd", self._bytes.decode("utf-8", "replace")).rstrip()
        return f"{line} ... (line cut, {self._lost} more bytes)" if self._lost else line


class _Room:
    """The lines of a log that are passed on: its head, errors and warnings, a line a minute, and its last lines."""

    def __init__(self) -> None:
        self._head, self._errors = HEAD_BYTES, ERROR_BYTES
        self._last: deque[tuple[str, int]] = deque()
        self._held = 0  # bytes in `_last`
        self._left_out = self._bytes_left_out = 0
        self._told = 0.0

    def lines(self, line: str, is_error: bool) -> Iterator[str]:
        """The text to log now that this line has arrived."""
        cost = len(line.encode()) + LINE_COST
        if cost <= self._head:
            self._head -= cost
            yield line
            return
        if self._head:
            self._head, self._told = 0, time.monotonic()
            yield f"... {HEAD_BYTES / 1e6:.0f} MB of log: from here on errors, a line a minute, and the last lines"
        if is_error and cost <= self._errors:
            self._errors -= cost
            yield line
        elif time.monotonic() - self._told >= SIGN_OF_LIFE_S:
            self._told = time.monotonic()
            yield f"{line} ... ({self._told_left_out()} so far)"
        else:
            self._hold(line, cost)

    def end(self) -> Iterator[str]:
        """The amount that was left out, and the last lines."""
        if self._left_out:
            yield f"... {self._told_left_out()} here; the last lines:"
        for line, _ in self._last:
            yield line

    def _hold(self, line: str, cost: int) -> None:
        self._last.append((line, cost))
        self._held += cost
        while self._held > LAST_BYTES:
            dropped, cost = self._last.popleft()
            self._held -= cost
            self._left_out += 1
            self._bytes_left_out += len(dropped.encode()) + 1

    def _told_left_out(self) -> str:
        return f"{self._left_out:,} lines, {self._bytes_left_out / 1e6:,.1f} MB, were left out"


class LogLines:
    """Turns a container's output into readable lines, and keeps the last lines and the last error.

    Attributes:
        tail: the last `TAIL_LINES` lines that were printed.
    """

    def __init__(self) -> None:
        """Begin without lines."""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._error = ""

    def cause(self) -> str:
        """The cause in one line: the last error that the stage logged, or else the last line."""
        return self._error or (self.tail[-1] if self.tail else "it logged nothing")

    def lines(self, stream: Iterable[tuple[bytes | None, bytes | None]]) -> Iterator[str]:
        """Lines for the task's log as they end; `stream` has pieces of stdout and stderr, which never mix in a line."""
        room = _Room()
        for line in self._all(stream):
            self.tail.append(line)
            level = _LEVEL.match(line)
            if level and level[1] != "WARNING":
                self._error = level[2]
            yield from room.lines(line, bool(level))
        yield from room.end()

    def _all(self, stream: Iterable[tuple[bytes | None, bytes | None]]) -> Iterator[str]:
        current = [_Line(), _Line()]
        for parts in stream:
            for number, part in enumerate(parts):
                for piece in re.split(rb"([\r\n])", part or b""):
                    if piece == b"\n":
                        yield current[number].text()
                        current[number] = _Line()
                    else:
                        current[number].add(piece)
        for line in current:
            if text := line.text():
                yield text
