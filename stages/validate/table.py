"""The table that suite `raw_annotations` checks: annotations as read, joined with their images."""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePosixPath

import pandas as pd

from stages.common.images.listing import as_text, lot_of, name_of
from stages.common.schema.annotations import GIVEN
from stages.common.schema.attributes import Attributes
from stages.validate.forms.part import SHORT
from stages.validate.merge import whole_names

_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda path: unicodedata.normalize("NFC", path),
    lambda path: unicodedata.normalize("NFC", path.casefold()),
    lambda path: re.sub(r"\.(png|jpe?g)$", "", unicodedata.normalize("NFC", path.casefold())),
)
"""Differences that are ignored, in turn, where no image has exactly the name of an annotation: the encoding of accents,
which macOS does in its own way, then upper and lower case as well, then also the extension."""


def _candidates(filename: str, paths: Sequence[str]) -> tuple[str, ...]:
    """Paths, all with the same base name, that a file name may mean; folders must agree as far as both have them.

    `lot/x.png` matches `raw/lot/x.png` and the reverse, because names may begin above or below the raw folder.
    """
    if "/" not in filename:
        return tuple(paths)
    return tuple(path for path in paths if f"/{path}".endswith(f"/{filename}") or f"/{filename}".endswith(f"/{path}"))


def similar_names(filenames: Collection[str], paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Paths whose names differ only in spelling, for file names without an image."""
    found: dict[str, tuple[str, ...]] = {}
    for spelt in _SPELLINGS:
        here: dict[str, list[str]] = {}
        original: dict[str, list[str]] = {}
        for path in paths:
            key = spelt(path)
            here.setdefault(key.rpartition("/")[2], []).append(key)
            original.setdefault(key, []).append(path)
        for filename in filenames:
            if filename not in found and filename.rpartition("/")[2]:
                key = spelt(filename)
                keys = dict.fromkeys(_candidates(key, here.get(key.rpartition("/")[2], ())))
                if meant := tuple(path for key in keys for path in original[key]):
                    found[filename] = meant
    return found


def listed_files(paths: Iterable[str], reasons: Sequence[str] | None = None) -> pd.DataFrame:
    """A row per listed file. Columns: `image` (base name), `path`, `lot`, all as `as_text`; and `reason`, if given."""
    shown = [as_text(path) for path in paths]
    columns = {"image": [name_of(path) for path in shown], "path": shown, "lot": [lot_of(path) for path in shown]}
    return pd.DataFrame(columns if reasons is None else columns | {"reason": reasons}, dtype="str")


def join_images(
    attributes: Attributes, rows: pd.DataFrame, images: pd.DataFrame, lots: Collection[str] = ()
) -> pd.DataFrame:
    """Find the image of every annotation among the listed ones; a path from an annotation is never opened.

    An annotation without an image may mean an image whose name differs in case, extension or Unicode form. The name of
    an image is its base name, or its path if the annotations name several images of that base name.

    Args:
        attributes: the annotated attributes.
        rows: `RawAnnotations.rows`, or `broken`.
        images: `listed_files` of the raw folder, of the selected lots.
        lots: the selected lots, empty for all: names in other lots change no name.

    Returns:
        `rows` with further columns for the suites: `image` (its name), `files` (number of candidates), `known_labels`
        (cells that are not empty), `short`, those of `GIVEN`, `path`, `other_name` (the path, if the spelling differs)
        and `ambiguous` (paths, if several differ in spelling; then `files` is missing); and `candidates` (paths of
        these files) and `lot`. `path` and `lot` are missing if unknown.
    """
    table = rows.copy()
    filename = rows.get("filename", pd.Series(pd.NA, rows.index)).astype("str")
    base_name = _base_name(filename)
    paths = {name: list(group) for name, group in images.groupby("image")["path"]}
    candidates = [
        () if pd.isna(base) else _candidates(name, paths.get(base, ()))
        for name, base in zip(filename, base_name, strict=True)
    ]
    without = {str(name) for name, found in zip(filename, candidates, strict=True) if not found and not pd.isna(name)}
    named = {path for found in candidates for path in found}
    similar = similar_names(without, [path for path in images["path"] if path not in named]) if without else {}
    also = [() if found or pd.isna(name) else similar.get(name, ())
            for name, found in zip(filename, candidates, strict=True)]  # fmt: skip
    candidates = [found or others for found, others in zip(candidates, also, strict=True)]
    named_lot = filename[base_name.notna()].map(lambda name: lot_of(PurePosixPath(name).as_posix())).reindex(rows.index)
    meant = pd.Series([found[0] if len(found) == 1 else None for found in candidates], rows.index, dtype="str")
    meant = meant.fillna(whole_names(filename.mask(meant.notna())))
    table["ambiguous"] = pd.Series(
        [" or ".join(found) if len(found) > 1 else None for found in also], rows.index, dtype="str"
    )
    table["other_name"] = pd.Series([found[0] if len(found) == 1 else None for found in also], rows.index, dtype="str")
    table["candidates"] = pd.Series(candidates, rows.index, dtype="object")
    table["files"] = pd.Series(map(len, candidates), rows.index, dtype="Int64")
    table["files"] = table["files"].mask(base_name.isna() | table["ambiguous"].notna())
    table["known_labels"] = rows[labelled_columns(attributes, rows)].notna().sum(axis=1)
    for name in (SHORT, *GIVEN):
        table[name] = rows[name] if name in rows else pd.Series(pd.NA, rows.index, "str")
    table["path"] = pd.Series([found[0] if found else None for found in candidates], rows.index, dtype="str")
    table["lot"] = table["path"].map(images.set_index("path")["lot"]).astype("str").fillna(named_lot)
    called, selected = _base_name(meant), meant[select_lots(table, lots).index]
    several = selected.groupby(called).transform("nunique") > 1
    table["image"] = called.mask(several.reindex(rows.index, fill_value=False), meant).fillna(base_name)
    return table


def _base_name(path: "pd.Series[str]") -> "pd.Series[str]":
    base_name = path.str.replace(r"^.*/", "", regex=True)
    return base_name.mask(base_name == "")


def select_lots(table: pd.DataFrame, lots: Collection[str]) -> pd.DataFrame:
    """Keep the rows of `lots` (all rows if it is empty), and rows whose lot is unknown."""
    return table[table["lot"].isin(lots) | table["lot"].isna()] if lots else table


def labelled_columns(attributes: Attributes, table: pd.DataFrame) -> list[str]:
    """Columns with labels that a table has."""
    return [attribute.column for attribute in attributes if attribute.column in table]


def split_repeats(attributes: Attributes, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take out rows with the same file, labels and group as an earlier row.

    Returns:
        The rows that stay, and the others with a column `reason` that names the repeated row.
    """
    same = ["image", "path", *labelled_columns(attributes, table), *GIVEN]
    repeats = table["image"].notna() & table.duplicated(same)
    several = table[table.duplicated(same, keep=False)]  # few of a million, so grouping them is cheap
    where = several["source"] + " row " + several["row"].astype("str")
    first = where.groupby([several[name] for name in same], dropna=False).transform("first")
    reason = "repeats " + first[repeats[several.index]] + " with the same labels"
    return table[~repeats], table[repeats].assign(reason=reason.astype("str"))


def add_classes(attributes: Attributes, table: pd.DataFrame) -> pd.DataFrame:
    """Add columns about labels for the suite, for each attribute that has a column.

    Returns:
        `table` with `<name>_class`, the cell if it is a whole number, and `<name>_share`, the share of that class among
        such labels (0-1); both missing elsewhere.
    """
    added = {}
    for attribute in attributes:
        if attribute.column in table:
            cells = table[attribute.column]
            known = cells.where(cells.str.fullmatch("[0-9]+").fillna(False).astype(bool))
            added[f"{attribute.name}_class"] = known
            share = known.where(known.isin([str(number) for number in range(len(attribute.classes))]))
            added[f"{attribute.name}_share"] = share.map(share.value_counts(normalize=True)).astype("float64")
    return table.assign(**added)
