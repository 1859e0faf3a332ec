"""What becomes of every annotation, as the suite's findings say."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from stages.common.attributes import ATTRIBUTES, NAMES
from stages.validate.raw_annotations import COLUMNS, brief

if TYPE_CHECKING:
    from stages.common.suite import Finding

LISTED = ["source", "row", "filename", "reason"]
"""Columns of rejected.csv and warnings.csv."""


@dataclass(frozen=True)
class Verdict:
    """Annotation rows, accepted or not.

    Attributes:
        accepted: canonical annotations: filename, lot, path and the class index per attribute as text, missing if
            unknown; sorted by filename.
        rejected: rows left out, in the columns `LISTED`; a row that fails in several ways stands there once.
        warnings: rows kept with a remark, and repeats, likewise.
        reasons: rejected rows per reason; of several the first in the order of the suite counts.
        remarks: warnings per reason.
    """

    accepted: pd.DataFrame
    rejected: pd.DataFrame
    warnings: pd.DataFrame
    reasons: dict[str, int]
    remarks: dict[str, int]


def judge(table: pd.DataFrame, repeats: pd.DataFrame, broken: pd.DataFrame, found: "Iterable[Finding]") -> Verdict:
    """Sort annotations into accepted and rejected.

    Args:
        table: the rows that the suite has checked, with the columns of `stages.validate.table.join_images`.
        repeats: rows left out before because they repeat one of `table`, with their `reason`.
        broken: annotations that could not be read, with their `reason`.
        found: the suite's findings about rows.
    """
    values = table.copy()
    none = table[:0].assign(reason="", kind="")
    rejects: list[pd.DataFrame] = [none]
    remarks: list[pd.DataFrame] = [repeats.assign(kind="repeats another row")]
    for finding in found:
        failing = table.loc[finding.rows or []]
        cells = failing[finding.column] if finding.column in (*COLUMNS, "path") else pd.Series(pd.NA, failing.index)
        shown = ["" if pd.isna(cell) else f" (found {brief(cell)})" for cell in cells]
        listed = failing.assign(reason=[finding.reason + text for text in shown], kind=finding.reason)
        (rejects if finding.critical else remarks).append(listed)
        if finding.clear:
            values.loc[failing.index, finding.column] = pd.NA

    failures = pd.concat(rejects)
    reasons = failures.groupby(level=0, sort=False)["reason"].agg("; ".join)
    rejected = failures[~failures.index.duplicated()].assign(reason=reasons)
    warnings = pd.concat([part[~part.index.isin(rejected.index)] for part in remarks])
    rejected_or_broken = pd.concat([rejected, broken.assign(kind="cannot be read")])

    accepted = values.drop(index=rejected.index).drop(columns="filename")
    accepted = accepted.rename(columns={attribute.column: attribute.name for attribute in ATTRIBUTES})
    accepted = accepted.rename(columns={"image": "filename"})[["filename", "lot", "path", *NAMES]]
    return Verdict(
        accepted=accepted.sort_values("filename"),
        rejected=rejected_or_broken.sort_values(["source", "row"])[LISTED],
        warnings=warnings.sort_values(["source", "row"])[LISTED],
        reasons=count(rejected_or_broken["kind"]),
        remarks=count(warnings["kind"]),
    )


def count(values: pd.Series) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return {str(value): int(number) for value, number in values.value_counts().items()}
