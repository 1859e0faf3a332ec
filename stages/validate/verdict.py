"""The verdict on every annotation, from the findings of the suites."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from stages.common.schema.annotations import GIVEN
from stages.common.schema.attributes import Attributes, names
from stages.validate.forms.text import brief
from stages.validate.raw_annotations import RawAnnotations

if TYPE_CHECKING:
    from stages.common.checks.suite import Finding

LISTED = ["source", "row", "filename", "reason"]
"""Columns of rejected.csv and warnings.csv."""

REPLACED = "label replaced by a newer file"
"""The kind of remark about rows of older files; it has its own table in reports."""

_DETAILS = [*LISTED, "path", "kind", "found"]
_UNTOLD = frozenset({"image", "files", "known_labels"})
"""Columns whose value is already part of the reason."""


@dataclass(frozen=True)
class Verdict:
    """Annotation rows, accepted or not.

    Attributes:
        accepted: canonical annotations: filename, lot, path, the class index per attribute as text, missing if unknown,
            and the columns of `GIVEN`, likewise; sorted by filename.
        rejected: rows left out, in the columns `LISTED`, `path` (of the image, missing if not found), `kind` (the
            first reason without details) and `found` (these details); a row that fails in several ways is there once.
        remarks: rows kept with a warning, repeats, and rows of older files with replaced labels, likewise.
    """

    accepted: pd.DataFrame
    rejected: pd.DataFrame
    remarks: pd.DataFrame


def no_verdict(attributes: Attributes) -> Verdict:
    """The empty verdict on rows, for a table that failed as a whole."""
    return Verdict(
        pd.DataFrame(columns=["filename", "lot", "path", *names(attributes)], dtype="str"),
        pd.DataFrame(columns=_DETAILS, dtype="str"),
        pd.DataFrame(columns=_DETAILS, dtype="str"),
    )


def decide_rows(
    annotations: RawAnnotations,
    table: pd.DataFrame,
    left_out: pd.DataFrame,
    broken: pd.DataFrame,
    found: "Iterable[Finding]",
) -> Verdict:
    """Sort annotations into accepted and rejected.

    Args:
        annotations: as read.
        table: the rows that the suites have checked, with the columns of the suites, `path` and `lot`.
        left_out: rows left out before because they repeat a row of `table`, with their `reason`.
        broken: annotations of the selected lots that could not be read, with their `reason`.
        found: the findings about rows, in the order of the suites.
    """
    values = table.copy()
    attributes, replaced, taken = annotations.attributes, annotations.replaced, annotations.taken
    # the cells behind the columns of `add_classes`
    cells_of = {f"{attribute.name}_class": attribute.column for attribute in attributes}
    none = table[:0].assign(reason="", kind="", found="")
    rejects: list[pd.DataFrame] = [none]
    remarks: list[pd.DataFrame] = [
        left_out.assign(kind="repeats another row", found=left_out["reason"]),
        replaced.assign(kind=REPLACED, path=None, found=replaced["reason"]),
    ]
    for finding in found:
        failing = table.loc[finding.rows or []]
        told = finding.column is not None and finding.column not in _UNTOLD
        cells = failing[finding.column] if told else pd.Series(pd.NA, failing.index)
        column = cells_of.get(finding.column or "", finding.column)
        places = taken[column].reindex(failing.index) if column in taken else pd.Series(pd.NA, failing.index)
        shown = [
            "" if pd.isna(cell) else f" (found {_told(cell)}{'' if pd.isna(place) else f' in {place}'})"
            for cell, place in zip(cells, places, strict=True)
        ]
        reason = [finding.reason + text for text in shown]
        listed = failing.assign(reason=reason, kind=finding.reason, found=[text.strip(" ()") for text in shown])
        if finding.column == "problem":  # it contains its kind and the remedy
            listed["reason"] = finding.reason + ": " + failing["problem"]
            listed["kind"] = listed["reason"].str.extract("^([^:]*: [^:]*)", expand=False)
            listed["found"] = failing["problem"].str.extract("^[^:]*: *(.*)", expand=False).fillna("")
        (rejects if finding.critical else remarks).append(listed)
        if finding.clear:
            values.loc[failing.index, finding.column] = pd.NA

    failures = pd.concat(rejects)
    reasons = failures.groupby(level=0, sort=False)["reason"].agg("; ".join)
    rejected = failures[~failures.index.duplicated()].assign(reason=reasons)
    warnings = pd.concat([part[~part.index.isin(rejected.index)] for part in remarks])
    rejected_or_broken = pd.concat([rejected, broken.assign(kind="cannot be read", found=broken["reason"])])

    accepted = values.drop(index=rejected.index).drop(columns="filename")
    accepted = accepted.rename(
        columns={attribute.column: attribute.name for attribute in attributes} | {"image": "filename"} | GIVEN
    )
    accepted = accepted[["filename", "lot", "path", *names(attributes), *GIVEN.values()]]
    return Verdict(
        accepted=accepted.sort_values("filename"),
        rejected=rejected_or_broken.sort_values(["source", "row"])[_DETAILS],
        remarks=warnings.sort_values(["source", "row"])[_DETAILS],
    )


def _told(cell: object) -> str:
    return brief(cell, 200) if isinstance(cell, str) else f"{cell:.4g}"


def count(values: pd.Series) -> dict[str, int]:
    """The frequency of each value, the most frequent first."""
    return {str(value): int(number) for value, number in values.value_counts().items()}
