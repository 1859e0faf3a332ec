"""Check a table of a stage with its suite, before the stage publishes anything.

The findings go to findings.csv and to Data Docs; if one is critical, the stage ends there.
Great Expectations needs seconds to import, so this module is imported by a run only, not by `--help`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stages.common.checks.data_docs import write_data_docs
from stages.common.checks.suite import Finding, findings, load_suite, run_suite, suite_file
from stages.common.checks.validation_report import DATA_DOCS, checks, data_docs_links, observed
from stages.common.checks.validation_report import thresholds as allowed_by
from stages.common.contract.errors import DataError
from stages.common.contract.logs import log
from stages.common.contract.stage import Context
from stages.common.contract.tables import write_csv
from stages.common.reports.report import REPORT, PageSection, Report, short_table, text_of, write_report
from stages.common.schema.attributes import Attributes

FINDINGS = "findings.csv"
COLUMNS = ("severity", "reason", "filename", "column", "found")
"""Columns of findings.csv: a row per finding and image, or one row per finding about the whole table."""

NAMED = 3
"""Greatest number of images that a line names."""
LISTED = 20
"""Rows of findings.csv that a report shows."""


@dataclass(frozen=True)
class Checked:
    """The findings of a suite in a table.

    Attributes:
        suite: its name.
        result: Great Expectations' `ExpectationSuiteValidationResult`.
        found: the findings, none of them critical.
        rows: rows of findings.csv.
    """

    suite: str
    result: Any
    found: list[Finding]
    rows: list[tuple[str, ...]]

    @property
    def verdict(self) -> str:
        """One line for people."""
        met, asked = (self.result.statistics[f"{name}_expectations"] for name in ("successful", "evaluated"))
        return f"{met} of {asked} expectations of suite {self.suite} met"

    def sections(self) -> list[PageSection]:
        """The suite's part of a report: every check, and what failed."""
        columns = [name.capitalize() for name in COLUMNS]
        listed = short_table("Findings", columns, self.rows, LISTED, link=(FINDINGS, FINDINGS))
        return [checks(self.suite, self.result), *([listed] if self.rows else [])]


def check(
    attributes: Attributes,
    suite: str,
    table: pd.DataFrame,
    thresholds: Mapping[str, Any],
    context: Context[Any],
    without: Collection[str] = (),
) -> Checked:
    """Check `table`: warnings are logged, a critical finding ends the stage.

    Args:
        attributes: for the templates of the suite.
        suite: its name.
        table: a row per image, with column `filename` among others.
        thresholds: values of the suite's parameters.
        context: of the stage: findings.csv and `data_docs/<suite>/` go to its `out`, or, with report.html, to its
            `failed` if a finding is critical.
        without: columns that cannot be checked; the suite's expectations of them are left out.

    Raises:
        DataError: a finding is critical; the line names it, the number of images, and the first of them.
    """
    out, failed = context.out, context.failed
    expected = load_suite(suite_file(suite, context.suites), attributes)
    if without:
        expected.expectations = [
            expectation for expectation in expected.expectations if getattr(expectation, "column", None) not in without
        ]
    result = run_suite(expected, suite, table, thresholds)
    found = findings(result)
    critical = [finding for finding in found if finding.critical]
    rows = [row for finding in sorted(found, key=lambda finding: not finding.critical) for row in _rows(finding, table)]
    checked = Checked(suite, result, found, rows)
    folder = failed if critical else out
    write_data_docs(folder / DATA_DOCS / suite, expected, result, checked.verdict)
    write_csv(folder / FINDINGS, COLUMNS, rows, for_people=True)
    if critical:
        message = f"{suite}: {'; '.join(describe(finding, table) for finding in critical[:NAMED])}"
        message += f"; and {len(critical) - NAMED} more" if len(critical) > NAMED else ""
        if remedy := next((finding.remedy for finding in critical if finding.remedy), ""):
            message += f": {remedy}"
        sections = [*checked.sections(), data_docs_links([suite])]
        report = Report(f"{suite}: not as expected", checked.verdict, message, passed=False, sections=sections)
        write_report(failed / REPORT, report)
        raise DataError(f"{message}; see {failed / REPORT}")
    for finding in found:
        log.warning("%s: %s", suite, describe(finding, table))
    return checked


def describe(finding: Finding, table: pd.DataFrame) -> str:
    """One line: the reason, and the number of images with the first of them, or the observed and expected value."""
    if finding.rows is not None:
        names = [text_of(row[2]) for row in _rows(finding, table.loc[finding.rows[:NAMED]], NAMED)]
        first = f", the first {', '.join(names)}" if any(names) else ""
        return f"{finding.reason} ({len(finding.rows)} of {len(table)} images{first})"
    allowed = allowed_by(finding.kwargs)
    return f"{finding.reason} (found {observed(finding.details)}{f', expected {allowed}' if allowed else ''})"


def _rows(finding: Finding, table: pd.DataFrame, most: int | None = None) -> Iterator[tuple[str, ...]]:
    severity = "critical" if finding.critical else "warning"
    if finding.rows is None:
        yield severity, finding.reason, "", finding.column or "", observed(finding.details)
        return
    columns = [finding.column] if finding.column else finding.kwargs["column_list"]
    failing = table.loc[finding.rows[:most]].reindex(columns=["filename", *columns])
    for row in failing.itertuples(index=False, name=None):
        filename, *cells = ("" if pd.isna(cell) else str(cell) for cell in row)
        yield severity, finding.reason, filename, ", ".join(columns), ", ".join(cells)
