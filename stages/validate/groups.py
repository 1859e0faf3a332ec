"""Groups of images that belong together: given groups, and near duplicates."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from stages.common.schema.annotations import GIVEN, GROUP, SPLIT
from stages.common.schema.dataset import SPLITS
from stages.validate.perceptual import unite

JOINED_SHOWN = 3
"""Number of groups that a notice names; annotations.csv has all."""


def join_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Assign each accepted image to a group.

    Images of one given group are together, and so are near duplicates, directly or through others: two given groups
    that share a picture become one. The name of a group is the least given name in it or, without one, the least
    `pixels` in it. So it does not depend on file names, and new images change the name of a given group only if they
    join it with another.

    Args:
        table: columns `pixels`, `group` (the same for near duplicates), and those of `GIVEN`; all text, missing if
            unknown.

    Returns:
        The table with the names of groups in `group`, and without empty columns of `GIVEN`.
    """
    group = np.arange(len(table))
    for column in (GROUP, GIVEN[GROUP]):
        first = pd.Series(group, table.index).groupby(table[column]).transform("first")
        known = np.flatnonzero(first.notna())
        unite(group, first.iloc[known].to_numpy(np.int64), known)
    members = [pd.Series(group, table.index)]
    called, least = (table.groupby(members)[column].transform("min") for column in (GIVEN[GROUP], "pixels"))
    silent = [column for column in GIVEN.values() if table[column].isna().all()]
    return table.assign(group=called.fillna(least)).drop(columns=silent)


def count_groups(table: pd.DataFrame) -> dict[str, Any]:
    """Counts of `join_groups`, for `groups` and `splits` in `metrics/validation.json`.

    Returns:
        Empty without given groups. Else `groups`: their number, `images` in them, images `alone` in none, images of the
        `largest`, and the lists of given groups that were `joined`. With given splits also `splits`: images of each,
        and of none.
    """
    found: dict[str, Any] = {}
    if (given := GIVEN[GROUP]) in table:
        is_given = table[given].notna().groupby(table["group"]).transform("any")
        images = table.loc[is_given, "group"].value_counts()
        named = table[table[given].notna()].groupby("group")[given].unique()
        joined = [sorted(names) for names in named if len(names) > 1]
        found["groups"] = {
            "groups": len(images),
            "images": int(images.sum()),
            "alone": int((~is_given).sum()),
            "largest": int(images.max()),
            "joined": sorted(joined),
        }
    if (given := GIVEN[SPLIT]) in table:
        counts = table[given].value_counts()
        found["splits"] = {name: int(counts.get(name, 0)) for name in SPLITS} | {"none": int(table[given].isna().sum())}
    return found


def groups_joined(found: dict[str, Any]) -> Iterable[str]:
    """Notices about `count_groups`: groups that share a picture may be one person under two numbers."""
    joined = found["groups"]["joined"] if "groups" in found else []
    if joined:
        shown = ", ".join(" and ".join(map(repr, names[:JOINED_SHOWN])) for names in joined[:JOINED_SHOWN])
        yield (
            f"{len(joined):,} times given groups are merged, because they share a picture or a near duplicate: {shown}"
            + (", …" if len(joined) > JOINED_SHOWN else "")
        )
