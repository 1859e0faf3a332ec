"""Names of backups and copies, which must never count as further annotations."""

import re
from collections.abc import Collection
from pathlib import Path

NAMED = frozenset({".csv", ".txt", ".json"})
"""Suffixes of annotation files in a folder; `labels.csv.bak`, `labels.csv~` and `#labels.csv#` are none."""

_MARKS = re.compile(
    r"^(?:copy|kopie|copie|copia) (?:of|von|de|di) "
    r"|\s*-\s*(?:copy|kopie|copie|copia)(?: \(\d+\))?$"
    r"|\s*\((?:\d+|copy|kopie|copie|copia)\)$"
    r"|\s+(?:copy|kopie|copie|copia)(?: \d+)?$"
    r"|[._-](?:bak|backup|old|orig|copy|kopie)\d*$",
    re.IGNORECASE,
)
"""Words that Windows, macOS, Linux desktops, browsers and people add to the name of a copy."""


def original_of(file: Path, others: Collection[Path]) -> Path | None:
    """The original among `others`, if a file has the name of a copy."""
    stem = _MARKS.sub("", file.stem)
    original = file.with_name(stem + file.suffix) if stem and stem != file.stem else file
    return original if original != file and original in others else None
