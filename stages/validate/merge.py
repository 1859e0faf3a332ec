"""Merge the annotations of several files into one table: label by label, the newest file with that label wins."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from stages.common.schema.annotations import GIVEN
from stages.validate.forms.part import SHORT, Broken
from stages.validate.forms.text import brief

_PLAIN = r"^(?!/)(?!(?:.*/)?\.).+"  # not absolute, no `..` and nothing hidden in it


def merge(
    columns: Sequence[str], parts: list[pd.DataFrame]
) -> tuple[pd.DataFrame, list[Broken], pd.DataFrame, pd.DataFrame]:
    """Merge rows of different files about the same image; rows of one file are never merged with each other.

    Two names mean the same image if their base names agree, and their folders as far as both have them: `lot/x.png`
    and `x.png`, but not `lot/x.png` and `other/x.png`; beside these two, `x.png` is ambiguous and is not merged. A row
    whose name leaves its folder is not merged either, and the suite rejects it.

    An empty cell changes nothing; a cell with `CANNOT_TELL` wins like a label. A merged row has the place of the newest
    row, and the most specific name. A file without label columns adds no rows, and is not the place of any row.
    If a file names an image several times, its first row is merged with the first of the other file, and so on; if the
    other file has more rows, the last one is used for them. So a contradiction within a file, which no newer file
    resolves, stays a contradiction for the suite.

    Args:
        columns: of the flat CSV, `filename` first.
        parts: `RawAnnotations.rows` of each file, the oldest first.

    Returns:
        The merged rows; the place of each row with labels that a newer file replaced, with the replacements; for merged
        rows, a column per label with the place of its origin, if that is another row; and the rows of files without
        labels that were not merged into any row.
    """
    rows = pd.concat(parts)
    rows = rows[["source", "row", *(name for name in (*columns, *GIVEN, SHORT) if name in rows)]]
    if len(parts) == 1 or "filename" not in rows:
        return rows, [], pd.DataFrame(), rows[:0]
    file = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    labelled = np.array([bool(set(columns[1:]) & set(part)) for part in parts])[file]
    groups = _groups(rows["filename"], file)
    groups["labelled"] = labelled[groups["at"]]
    groups = groups[groups.groupby("group")["labelled"].transform("any")]
    alone = np.setdiff1d(np.arange(len(rows)), groups["at"])
    unused, alone = rows.iloc[alone[~labelled[alone]]], alone[labelled[alone]]
    if groups.empty:
        return rows.iloc[alone], [], pd.DataFrame(), unused

    stays = groups[~groups["copy"]].sort_values(["group", "labelled"], kind="stable")
    stays = stays.drop_duplicates("group", keep="last").set_index("group")
    merged = rows.iloc[stays["at"]].copy()
    merged["filename"] = stays["longest"].array
    replaced: dict[int, list[str]] = {}
    taken: dict[str, pd.Series] = {}
    where = (rows["source"] + " row " + rows["row"].astype("str")).to_numpy(dtype=object)
    for label in (name for name in (*columns[1:], *GIVEN) if name in rows):
        cells = rows[label].to_numpy(dtype=object)
        known = groups[~pd.isna(cells[groups["at"]])]
        winners = known.drop_duplicates("group", keep="last").set_index("group")["at"]
        merged[label] = pd.Series(cells[winners], winners.index, dtype="str").reindex(stays.index).array
        elsewhere = winners[winners != stays["at"].reindex(winners.index)]
        taken[label] = pd.Series(where[elsewhere], elsewhere.index, dtype="str").reindex(stays.index)
        losers = known.assign(winner=known["group"].map(winners)).drop_duplicates("at")
        losers = losers[cells[losers["at"]] != cells[losers["winner"]]]
        for old, new in zip(losers["at"], losers["winner"], strict=True):
            text = f"{label} {_shown(cells[old])} replaced by {_shown(cells[new])} of {where[new]}"
            replaced.setdefault(old, []).append(text)

    order = np.argsort(np.concatenate([alone, stays["at"]]))
    together = pd.concat([rows.iloc[alone], merged]).iloc[order]
    beaten = rows.iloc[sorted(replaced)]
    places = zip(beaten["source"], beaten["row"], beaten["filename"], sorted(replaced), strict=True)
    listed = [Broken(source, row, name, "; ".join(replaced[at])) for source, row, name, at in places]
    return together, listed, pd.DataFrame(taken).set_axis(merged.index).dropna(how="all"), unused


def _groups(filename: pd.Series, file: np.ndarray) -> pd.DataFrame:
    """Groups of rows to merge.

    Args:
        filename: of each row, or missing.
        file: number of each row's file, the oldest first.

    Returns:
        Columns `at` (position of a row), `group` (rows of one group become one row; each is from another file), `copy`
        (the row is also in an earlier group) and `longest` (the group's most specific name). Rows of a group are
        adjacent, the oldest file first.
    """
    rows = pd.DataFrame({"at": np.arange(len(file)), "file": file, "name": filename.array})
    rows = rows[rows["name"].str.match(_PLAIN, na=False)]
    rows["longest"] = whole_names(rows["name"])
    rows = rows[rows["longest"].notna()]
    files = rows.groupby("longest")["file"]
    rows = rows[files.transform("min") != files.transform("max")]

    of_file = rows.groupby(["longest", "file"])["at"]
    number, count = of_file.cumcount(), of_file.transform("size")
    most = count.groupby(rows["longest"]).transform("max")
    rows = rows.loc[rows.index.repeat(np.where(number == count - 1, most - number, 1))]
    rows["copy"] = rows.index.duplicated()
    rows["nth"] = rows.groupby(["longest", "file"]).cumcount()
    rows["group"] = rows.groupby(["longest", "nth"]).ngroup()
    return rows.sort_values(["group", "file"])[["at", "group", "copy", "longest"]]


def whole_names(names: "pd.Series[str]") -> "pd.Series[str]":
    """The longest name that agrees with each name in all folders that both have; missing if it is ambiguous.

    So `x.png` and `s1/x.png` both become `s1/x.png`; if there is `s2/x.png`, too, `x.png` is ambiguous.
    """
    if not names.str.contains("/", regex=False).any():
        return names
    # Reversed, a name is the beginning of more specific names, so these follow it in sorted order.
    order = sorted(f"/{name}"[::-1] for name in set(names.dropna()))
    whole: list[str | None] = [None] * len(order)
    end = [0] * len(order)  # behind the last that follows so
    for at in range(len(order) - 1, -1, -1):
        after, more = at + 1, []
        while after < len(order) and order[after].startswith(order[at]):
            more.append(after)
            after = end[after]
        end[at] = after
        whole[at] = whole[more[0]] if len(more) == 1 else None if more else order[at]
    found = {name[::-1][1:]: longest and longest[::-1][1:] for name, longest in zip(order, whole, strict=True)}
    return names.map(found).astype("str")


def _shown(label: str) -> str:
    return label if label.isdecimal() and len(label) < 3 else brief(label)
