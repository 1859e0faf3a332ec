"""Differences from the previous validation: rows and labels added, changed and removed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.common.schema.annotations import ANNOTATIONS
from stages.common.schema.attributes import Attributes, difference, read_attributes

FILE = "changes.csv"
_COLUMNS = ["filename", "lot", "what", "before", "now"]


@dataclass(frozen=True)
class Changes:
    """Differences of the accepted rows from those of an earlier validation.

    Attributes:
        since: time of the earlier validation, UTC, ISO 8601.
        added, gone: numbers of images that only this one has, and that only the earlier one has.
        labels: title of an attribute -> labels added, changed and gone, of the images in both.
        unlike: the difference of the attributes in words; attributes in only one of them are not compared. "" if equal.
        table: all changes in the columns of `FILE`.
    """

    since: str
    added: int
    gone: int
    labels: Mapping[str, tuple[int, int, int]]
    unlike: str
    table: pd.DataFrame


def last_before(key: str, home: Path, history: Sequence[Mapping[str, Any]]) -> tuple[Path, str] | None:
    """The last validation whose artifact is still there.

    Args:
        key: of this validation, which is skipped: it may have been made before, too.
        home: folder of the artifacts of this stage.
        history: past runs, the oldest first.

    Returns:
        Its artifact, and its time.
    """
    for run in reversed(history):
        artifact = home / str(run.get("key"))
        if artifact.name != key and (artifact / ANNOTATIONS).is_file():
            return artifact, str(run["time"])
    return None


def find_changes(attributes: Attributes, accepted: pd.DataFrame, earlier: Path, since: str) -> Changes:
    """Compare the accepted rows with those of an earlier artifact; the path identifies an image.

    Args:
        attributes: the annotated attributes.
        accepted: accepted rows, in the columns of annotations.csv.
        earlier: the artifact.
        since: its time.
    """
    had = read_attributes(earlier)
    before = _by_image(pd.read_csv(earlier / ANNOTATIONS, dtype="str", keep_default_na=False))
    now = _by_image(accepted.fillna("").astype("str"))
    added, gone = now[~now.index.isin(before.index)], before[~before.index.isin(now.index)]
    then, here = before.loc[before.index.isin(now.index)], now.reindex(before.index[before.index.isin(now.index)])
    parts = [_told(added, "row added", "", ""), _told(gone, "row gone", "", "")]
    labels: dict[str, tuple[int, int, int]] = {}
    classes = {attribute.name: attribute.classes for attribute in had}
    for attribute in attributes:
        if classes.get(attribute.name) != attribute.classes:
            continue
        old, new = then[attribute.name], here[attribute.name]
        differ = old != new
        none, lost = differ & (old == ""), differ & (new == "")
        labels[attribute.title] = int(none.sum()), int((differ & ~none & ~lost).sum()), int(lost.sum())
        called = {"": "", **{str(index): name for index, name in enumerate(attribute.classes)}}
        parts.append(_told(here[differ], attribute.name, old[differ].map(called), new[differ].map(called)))
    return Changes(since, len(added), len(gone), labels, difference(had, attributes), pd.concat(parts)[_COLUMNS])


def _by_image(table: pd.DataFrame) -> pd.DataFrame:
    image = table["path"].where(table["path"] != "", table["filename"])  # without --raw no path is known
    return table.set_index(pd.Index(image)).loc[lambda rows: ~rows.index.duplicated()]


def _told(rows: pd.DataFrame, what: str, before: Any, now: Any) -> pd.DataFrame:
    return rows.assign(what=what, before=before, now=now)[_COLUMNS]
