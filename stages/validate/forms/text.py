"""Text files from outside: bytes to text, text to records, and quoted values in messages."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from stages.common.contract.errors import DataError

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_HEAD_BYTES = 65_536  # longer than any header; a Cartoon Set pair has some 300 bytes in all


def brief(text: object, limit: int = 60) -> str:
    """Quote a value from outside: one line, control characters escaped, cut to `limit` characters."""
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"


def read_head(path: Path) -> str:
    """The first 64 KiB of a file, enough to recognise its form: bytes that are not text are replaced, not refused."""
    with path.open("rb") as file:
        data = file.read(_HEAD_BYTES)
    return data.decode("utf-16" if data.startswith(_UTF16_BOMS) else "utf-8-sig", "replace")


def read_text(path: Path, expected: str) -> str:
    """The text of a UTF-8 file, with or without byte order mark.

    Args:
        path: the file.
        expected: expected content, for the message about an empty file.

    Raises:
        DataError: it is empty or has only separators, or it is not UTF-8 text.
    """
    data = path.read_bytes()
    if data.startswith(_UTF16_BOMS):
        raise DataError(f"{path} is UTF-16: save it as UTF-8")
    if not data.removeprefix(_UTF8_BOM).strip(b",; \t\r\n"):
        raise DataError(f"{path} is empty: expected {expected}")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: a NUL byte; the file is damaged or not text: save it as UTF-8 text")
    try:
        return data.removeprefix(_UTF8_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text: save it as UTF-8") from error


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text with their ends: LF, CR or CRLF (str.splitlines also splits at form feeds in a field)."""
    return iter(io.StringIO(text, newline=""))


def csv_records(text: str, delimiter: str, name: object, line: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of every record that is not blank.

    Args:
        text: the text.
        delimiter: between fields.
        name: of the file, for messages.
        line: number of the text's first line.

    Raises:
        DataError: the text is not CSV, for example after an unclosed quote.
    """
    reader = csv.reader(lines_of(text), delimiter=delimiter, strict=True)
    start = line
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield start, fields
            start = line + reader.line_num
    except csv.Error as error:
        raise DataError(
            f"{name}, line {start}: broken CSV, perhaps an unclosed quote ({error}): correct the line or quote it "
            "properly"
        ) from error
