"""Run a Great Expectations suite of `expectations/` on a table and report the findings.

Great Expectations needs seconds to import, so this module is imported by a run only, not by `--help`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.exceptions.exceptions import SuiteParameterError
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from stages.common.checks.template import LINES, read_suite
from stages.common.checks.validation_report import SOURCE
from stages.common.contract.data_folder import OURS
from stages.common.contract.errors import DataError
from stages.common.schema.attributes import Attributes

SHOWN = 160
"""Characters of an expectation that an error names."""


@dataclass(frozen=True)
class Finding:
    """One expectation that the table does not meet.

    Attributes:
        type: the expectation's type, for example `expect_column_values_to_be_in_set`.
        reason: its `meta.reason`.
        remedy: its `meta.remedy`, empty if it has none.
        column: the column that it checks; None if it is about the whole table.
        rows: index labels of the failing rows; None if it is about the whole table.
        critical: whether its severity is critical.
        clear: whether a failing cell becomes unknown (`meta.clear`).
        kwargs: its arguments, with the values of parameters filled in.
        details: the values that Great Expectations observed.
    """

    type: str
    reason: str
    remedy: str
    column: str | None
    rows: list[Any] | None
    critical: bool
    clear: bool
    kwargs: dict[str, Any]
    details: dict[str, Any]


def suite_file(name: str, own: Mapping[str, Path]) -> Path:
    """The file of a suite: that of the data folder if it has one, else that of the repository.

    Args:
        name: of the suite.
        own: suites of the data, `Context.suites`.
    """
    return own.get(name, OURS / f"{name}.json")


def load_suite(path: Path, attributes: Attributes) -> gx.ExpectationSuite:
    """Read a suite from JSON: Great Expectations' own form, with templates for parts that repeat per attribute.

    Raises:
        DataError: it is not JSON, a template cannot be expanded (`stages.common.checks.template`), or an expectation
            is not valid (Great Expectations itself would only log and drop it); its line is named.
    """
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # at INFO it logs hundreds of lines
    data = read_suite(path, attributes)
    expectations = []
    for line, expectation in zip(data.pop(LINES), data["expectations"], strict=True):
        try:
            expectations.append(ExpectationConfiguration(**expectation).to_domain_obj())
            expectation["meta"]["reason"]  # what reports say
        except Exception as error:  # of several libraries
            why = " ".join(f"{type(error).__name__}: {error}".split())
            told = f"{str(expectation)[:SHOWN]} is not a valid expectation ({why}): correct it"
            raise DataError(f"{path}, line {line}: {told}") from error
    meta = {**(data.get("meta") or {}), SOURCE: str(path.relative_to(OURS.parent) if path.parent == OURS else path)}
    try:
        return gx.ExpectationSuite(**data | {"expectations": expectations, "meta": meta})
    except Exception as error:  # likewise
        raise DataError(f"{path}: {' '.join(str(error).split())}: correct it") from error


def run_suite(
    suite: gx.ExpectationSuite, name: str, table: pd.DataFrame, thresholds: Mapping[str, Any] | None = None
) -> Any:
    """Check `table` against `suite`, in memory: no files, no network, no progress bars.

    Args:
        suite: the suite.
        name: name of the table in reports.
        table: the table to check.
        thresholds: values of the suite's parameters: `{"$PARAMETER": "min_rows"}` takes `min_rows`.

    Returns:
        Great Expectations' `ExpectationSuiteValidationResult`, its results in the order of the suite.

    Raises:
        DataError: the suite names an unknown parameter.
    """
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    suite = context.suites.add(suite)  # gives every expectation its id
    whole = context.data_sources.add_pandas("raw").add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
    # Not through a ValidationDefinition: it writes all findings as JSON into a store that nobody reads, which takes 4 s
    # with 100,000 rejected rows.
    source = (suite.meta or {}).get(SOURCE, suite.name)
    try:
        result: Any = whole.get_batch({"dataframe": table}).validate(
            suite,
            expectation_parameters=dict(thresholds or {}),
            result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
        )
    except SuiteParameterError as error:
        there = ", ".join(sorted(thresholds or {}))
        raise DataError(f"{source}: {error}: there are {there}") from error
    result.meta |= {SOURCE: source}
    order = [expectation.id for expectation in suite.expectations]
    result.results.sort(key=lambda outcome: order.index(outcome.expectation_config.id))
    for outcome in result.results:
        observed: Any = outcome.result.get("observed_value")
        if hasattr(observed, "item"):  # a number of numpy, which Great Expectations 1.24 cannot render
            outcome.result["observed_value"] = observed.item()
    return result


def findings(result: Any) -> list[Finding]:
    """The expectations that were not met, in the order of the suite, those about the whole table first.

    Raises:
        DataError: an expectation could not be evaluated although the table as a whole is as expected.
    """
    found, broken = [], []
    for outcome in result.results:
        if outcome.success:
            continue
        config = outcome.expectation_config
        if not outcome.result:
            broken.append(f"{config.type}({config.kwargs.get('column')}): {_cause(outcome)}")
            continue
        found.append(
            Finding(
                type=config.type,
                reason=config.meta["reason"],
                remedy=config.meta.get("remedy", ""),
                column=config.kwargs.get("column"),
                rows=outcome.result.get("unexpected_index_list"),
                critical=config.severity == "critical",
                clear=bool(config.meta.get("clear")),
                kwargs=config.kwargs,
                details=outcome.result,
            )
        )
    found.sort(key=lambda finding: finding.rows is not None)
    if broken and not any(finding.critical and finding.rows is None for finding in found):
        raise DataError(f"{result.meta[SOURCE]}: cannot be evaluated: {'; '.join(broken)}: correct the suite")
    return found


def _cause(outcome: Any) -> str:
    """Why an expectation could not be evaluated, in Great Expectations' words."""
    info = outcome.exception_info
    raised = info if "exception_message" in info else next(iter(info.values()))
    return " ".join(str(raised["exception_message"]).split())[:SHOWN]
