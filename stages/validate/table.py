"""The table that the suite checks: annotations as read, joined with what is known of their images."""

from collections.abc import Collection
from pathlib import PurePosixPath

import pandas as pd

from stages.common.attributes import ATTRIBUTES
from stages.validate.images import lot_of

LABEL_COLUMNS = [attribute.column for attribute in ATTRIBUTES]


def join_images(rows: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Find the image of every annotation by its base name; no path out of an annotation is ever opened.

    Args:
        rows: `RawAnnotations.rows`, or `broken`.
        images: `list_images` of the raw folder.

    Returns:
        `rows` with the columns that the suite looks at besides: `image` (base name), `images` (how many files are
        called so), `known_labels` (cells that are not empty); and `path` and `lot`, missing where they are not known.
    """
    table = rows.copy()
    filename = rows.get("filename", pd.Series(pd.NA, rows.index)).astype("str")
    image = filename.str.replace(r"^.*/", "", regex=True)
    image = image.mask(image == "")
    first = images.drop_duplicates("image").set_index("image")
    named = filename[image.notna()].map(lambda name: lot_of(PurePosixPath(name))).reindex(rows.index)
    table["image"] = image
    table["images"] = image.map(images["image"].value_counts()).fillna(0).astype("Int64").mask(image.isna())
    table["known_labels"] = rows[[name for name in LABEL_COLUMNS if name in rows]].notna().sum(axis=1)
    table["path"] = image.map(first["path"])
    table["lot"] = image.map(first["lot"]).fillna(named)
    return table


def select_lots(table: pd.DataFrame, lots: Collection[str]) -> pd.DataFrame:
    """Keep the rows of `lots` (all of them when it is empty) and those whose lot cannot be told."""
    return table[table["lot"].isin(lots) | table["lot"].isna()] if lots else table


def split_repeats(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take out rows that name the same image with the same labels as an earlier one.

    Returns:
        The rows that stay, and the others with a column `reason` that says which they repeat.
    """
    same = ["image", *(name for name in LABEL_COLUMNS if name in table)]
    repeats = table["image"].notna() & table.duplicated(same)
    where = table["source"] + " row " + table["row"].astype("str")
    first = where.groupby([table[name] for name in same], dropna=False).transform("first")
    return table[~repeats], table[repeats].assign(reason="repeats " + first[repeats] + " with the same labels")
