"""CSV files with a row an image: the flat CSV, and the wide one with a column per Cartoon Set attribute."""

from operator import itemgetter
from pathlib import Path

import pandas as pd

from stages.common.errors import DataError
from stages.common.logs import log
from stages.validate.forms.cartoon_set import VARIANTS, labels_of
from stages.validate.forms.part import COLUMNS, Broken, Part, clean, whole_records, with_places
from stages.validate.forms.text import brief, csv_records

FLAT = "flat CSV"
WIDE = "wide Cartoon Set CSV"

_CSV_INFIX = r"(?i)\.csv(?=\.(?:png|jpe?g)$)"  # of `s5_00000.csv.png`: left over from naming csX.csv's image


def read_table(path: Path, source: str, text: str, delimiter: str) -> Part:
    """Read a flat or wide CSV. Of a wide one that also has columns of the flat CSV, these are taken as they are.

    Args:
        path: the file.
        source: what reports call it.
        text: its content.
        delimiter: between its fields.

    Raises:
        DataError: it is no CSV, or a column stands in the header twice.
    """
    records = csv_records(text, delimiter, path)
    _, names = next(records, (0, []))
    if not names:
        raise DataError(f"{path} is empty: expected a CSV with the columns {', '.join(COLUMNS)}")
    header = tuple(name.strip() for name in names)
    wide = is_wide(header)
    columns = [*COLUMNS, *(VARIANTS if wide else ())]
    twice = sorted({name for name in header if name in columns and header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {', '.join(twice)} stands in the header more than once: keep one")
    ignored = [name for name in header if name not in columns]
    if ignored:
        log.info("%s: columns that are not read: %s", source, brief(", ".join(ignored), 200))

    broken: list[Broken] = []
    name_at = header.index("filename") if "filename" in header else 0
    found = [name for name in columns if name in header]
    cells_of = itemgetter(*(header.index(name) for name in found), name_at)  # one more: always a tuple
    lines, rows = [], []
    for line, fields in whole_records(records, header, name_at, source, broken):
        lines.append(line)
        rows.append(cells_of(fields))
    cells = clean(pd.DataFrame(rows, columns=pd.Index([*found, ""]), dtype="str")[found])
    if wide:
        labels = labels_of(cells[[name for name in VARIANTS if name in cells]])
        cells = cells.join(labels[[name for name in labels if name not in cells]])
        if "filename" in cells:
            cells["filename"] = cells["filename"].str.replace(_CSV_INFIX, "", regex=True)
    return Part(WIDE if wide else FLAT, header, with_places(cells, source, lines), broken)


def is_wide(header: tuple[str, ...]) -> bool:
    """Whether a header lacks labels of the flat CSV and has Cartoon Set attributes to take them from.

    `glasses` and `hair_color` alone do not tell: the canonical annotations.csv has columns of these names too.
    """
    return not set(COLUMNS) <= set(header) and bool({"facial_hair", "hair"} & set(header))
