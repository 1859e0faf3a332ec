"""Forms that are not read, with their names for messages."""

import json
import re

from stages.validate.forms.label_studio import is_export

_STARTS = {
    "PK\x03\x04": "a workbook of Excel or LibreOffice, or another ZIP file",
    "\ufffd\ufffd\x11\ufffd": "an old Excel workbook",
    "PAR1": "Parquet",
    "\x1f\ufffd": "compressed (gzip)",
    "SQLite format 3": "an SQLite database",
    "version https://git-lfs": "a pointer of Git LFS, without the file's content",
}
"""Beginnings of binary files, with bytes that are not UTF-8 replaced."""

_LFW = re.compile(r"^#?\s*person\timagenum\t", re.IGNORECASE | re.MULTILINE)


def foreign_form(start: str) -> str:
    """Name of a form that is not read; "" if unknown.

    Args:
        start: beginning of the file.
    """
    text = start.lstrip("\ufeff \t\r\n")
    if named := next((name for begin, name in _STARTS.items() if start.startswith(begin)), ""):
        return named
    if text.startswith(("{", "[")):
        return _json(text)
    if text.startswith("<"):
        return "CVAT's XML" if re.search(r"<annotations\b", text) else "XML or HTML"
    return "LFW's attribute list" if _LFW.search(start) else ""


def _json(text: str) -> str:
    if is_export(text):
        return ""
    if '"annotation_id"' in text and '"annotator"' in text:
        return "Label Studio's JSON-MIN (it exports JSON, too)"
    if '"images"' in text and ('"annotations"' in text or '"file_name"' in text):
        return "COCO's JSON"
    try:
        json.loads(text.splitlines()[0])
    except ValueError:
        return "JSON" if re.match(r'[{\[]\s*["{\[\]}]', text) else ""
    return "JSON lines" if len(text.splitlines()) > 1 else "JSON"


def remedy(name: str, example: str) -> str:
    """The remedy for a form that is not read; `example` is a flat CSV."""
    return f"is {name}, which is not read: write a CSV with the header {example}"
