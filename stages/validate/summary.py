"""The result of a validation, in one line and in figures."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from stages.common.checks.validation_report import thresholds
from stages.common.schema.attributes import Attributes
from stages.validate.forms.part import columns_shown, example_row, flat_columns
from stages.validate.forms.text import brief
from stages.validate.raw_annotations import RawAnnotations
from stages.validate.verdict import Verdict, count

if TYPE_CHECKING:
    from stages.common.checks.suite import Finding

EXPLAINED = 3
"""Number of reasons in the line about rejected rows; the report has all."""


def stopping_line(finding: "Finding", annotations: RawAnnotations, not_selected: int) -> str:
    """Why the table as a whole cannot be used: expected and found values; rows that were left out before."""
    line = f"{annotations.name}: {finding.reason} ({finding.type})"
    missing = finding.details.get("details", {}).get("mismatched", {}).get("missing")
    if missing:
        columns = flat_columns(annotations.attributes)
        missing = [name for name in missing if name in columns]
        line += f": missing {columns_shown(missing)}; expected {columns_shown(columns)}"
        line += f"; found {brief(', '.join(annotations.header), 200)}"
        line += f"; a row is, for instance, {example_row(annotations.attributes)}"
    elif allowed := thresholds(finding.kwargs):
        line += f": found {finding.details.get('observed_value')}, expected {allowed}"
    if len(annotations.broken):
        first = annotations.broken.iloc[0]
        line += f"; {len(annotations.broken)} cannot be read, the first {first['source']} row {first['row']}: "
        line += str(first["reason"])
    if not_selected:
        line += f"; {not_selected} are of lots that validate.lots does not select"
    return line


def verdict_line(verdict: Verdict, rows: int, allowed: float, remedies: Mapping[str, str]) -> str:
    """The number of usable `rows`; `allowed` is the share that may be rejected, `remedies` belong to reasons."""
    accepted, rejected = len(verdict.accepted), len(verdict.rejected)
    counts = count(verdict.rejected["kind"])
    if rejected <= allowed * rows:
        line = f"{accepted} of {rows} rows accepted, {rejected} rejected"
        return f"{line}: {listed(counts)}" if rejected else line
    shown = examples(verdict.rejected, remedies)
    told = [f"{number} {kind}{shown[kind]}" for kind, number in list(counts.items())[:EXPLAINED]]
    told += [f"{len(counts) - EXPLAINED} more reasons"] if len(counts) > EXPLAINED else []
    return f"{rejected} of {rows} rows rejected ({rejected / rows:.1%} > {allowed:.1%} allowed): {'; '.join(told)}"


def remedies(findings: "Iterable[Finding]") -> dict[str, str]:
    """Reason -> remedy, for findings with a remedy."""
    return {finding.reason: finding.remedy for finding in findings if finding.remedy}


def examples(rows: pd.DataFrame, remedies: Mapping[str, str]) -> dict[str, str]:
    """Kind of remark or reject -> its first row, the content found there, and the remedy: text that follows the kind.

    Args:
        rows: `Verdict.rejected` or `Verdict.remarks`.
        remedies: reason -> remedy.
    """
    found = {}
    columns = ["source", "row", "filename", "kind", "found"]
    first = rows.drop_duplicates("kind")[columns].astype("str").fillna("")
    for source, row, filename, kind, details in first.to_numpy().tolist():
        found[kind] = f", first {source} row {row}: {brief(filename)}" + (f" ({details})" if details else "")
        found[kind] += f"; {remedies[kind]}" if kind in remedies else ""
    return found


def listed(counts: Mapping[str, int]) -> str:
    """Counts in words: `12 filename empty, 3 image missing`."""
    return ", ".join(f"{number} {what}" for what, number in counts.items())


def class_counts(attributes: Attributes, accepted: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Attribute -> class name, and "unknown" -> number of accepted images."""
    found = {}
    for attribute in attributes:
        counts = accepted[attribute.name].value_counts()
        found[attribute.name] = {name: int(counts.get(str(index), 0)) for index, name in enumerate(attribute.classes)}
        found[attribute.name]["unknown"] = int(accepted[attribute.name].isna().sum())
    return found


def expectation_counts(results: Iterable[Any]) -> dict[str, int]:
    """Numbers of evaluated and of met expectations of all suites."""
    statistics = [result.statistics for result in results]
    return {
        "expectations_evaluated": sum(counts["evaluated_expectations"] for counts in statistics),
        "expectations_met": sum(counts["successful_expectations"] for counts in statistics),
    }
