"""The common part of the reports of validating stages: the checks of a suite, and findings of past runs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.common.reports.report import Badge, Group, Links, PageSection, Share, Table, Trend, short_table, text_of

DATA_DOCS = "data_docs"
"""Folder of an artifact with a folder per suite: `index.html` (findings) and `suite.html` (expectations)."""
SOURCE = "file"
"""Key in the meta of a suite and of its result: the file of the suite, by its name in reports."""
RUNS_SHOWN = 30
REJECTS_SHOWN = 50
"""Rows of a table of rejects; a file beside the report holds all."""

ALLOWED_SHOWN = 60
"""Characters of an allowed set or pattern; a table does not show a longer one."""

_MET = 3
_NO_THRESHOLD = frozenset({"column", "column_A", "column_B", "column_list", "batch_id", "row_condition"})
_BOUNDS = ("min_value", "max_value")


def checks(name: str, result: Any) -> Group:
    """Every expectation of a suite: whether it is met, and by how much; met ones are folded away.

    Args:
        name: of the suite; its Data Docs are linked.
        result: Great Expectations' `ExpectationSuiteValidationResult`.
    """
    rows = sorted((_check(outcome) for outcome in result.results), key=lambda row: row[0])
    unmet, met = ([row for order, row in rows if (order == _MET) is wanted] for wanted in (False, True))
    columns = ("Finding if not met", "Result", "Severity", "Column", "Found", "Allowed")
    sections: list[PageSection] = [Table("", columns, unmet)] if unmet else []
    if met:
        sections.append(Table(f"{len(met)} expectations that are met", columns, met, folded=True))
    return Group(
        title=f"Suite {name}",
        sections=sections,
        note=f"{len(met)} of {len(rows)} expectations of {result.meta[SOURCE]} met",
        link=("Findings of Great Expectations, with examples", f"{DATA_DOCS}/{name}/index.html"),
    )


def _check(outcome: Any) -> tuple[int, tuple[object, ...]]:
    """A row of `checks`, and its place: critical findings come first."""
    config, found = outcome.expectation_config, outcome.result
    if outcome.success:
        order, badge = _MET, Badge("met", "good")
    elif not found:
        order, badge = _MET - 1, Badge("not evaluated", "plain")
    else:
        order, badge = (
            (0, Badge("not met", "bad")) if config.severity == "critical" else (1, Badge("not met", "remark"))
        )
    kwargs = config.kwargs
    column = kwargs.get("column") or ", ".join(kwargs.get("column_list", ())) or "whole table"
    reason = (config.meta or {}).get("reason", config.type)
    return order, (reason, badge, str(config.severity.value), column, _found(found), thresholds(kwargs))


def _found(result: Mapping[str, Any]) -> str:
    """The finding in words: failing rows, or the value observed in the whole table."""
    count, rows = result.get("unexpected_count"), result.get("element_count")
    if count is not None and rows:
        return f"{text_of(count)} of {text_of(rows)} rows ({text_of(Share(count / rows))})" if count else "none"
    return observed(result) if result else ""


def observed(result: Mapping[str, Any]) -> str:
    """Value that Great Expectations observed in the whole table, in words."""
    if mismatched := (result.get("details") or {}).get("mismatched"):
        return "; ".join(f"{how} {', '.join(map(str, columns))}" for how, columns in sorted(mismatched.items()))
    if missing := result.get("partial_missing_list"):
        return f"no {', '.join(sorted(map(str, missing)))}"
    return text_of(result.get("observed_value"))


def thresholds(kwargs: Mapping[str, Any]) -> str:
    """Values that an expectation allows, in words: `at least 32`, `1 to 3`, `0, 1; for at least 95%`."""
    low, high = (kwargs.get(name) for name in _BOUNDS)
    said = []
    if low is not None and high is not None:
        said.append(f"{_number(low)} to {_number(high)}")
    elif low is not None:
        said.append(f"at least {_number(low)}")
    elif high is not None:
        said.append(f"at most {_number(high)}")
    for name, value in kwargs.items():
        if name in _NO_THRESHOLD or name in (*_BOUNDS, "mostly") or isinstance(value, bool | dict) or value is None:
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple | set) else _number(value)
        said.append(text if len(text) <= ALLOWED_SHOWN else "as the suite says")
    if (mostly := kwargs.get("mostly", 1)) < 1:
        said.append(f"for at least {mostly:.4g} of the rows")
    return "; ".join(said)


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def rejects(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], file: str) -> Group:
    """Images that cannot be used: counts per reason, and the names of the first.

    Args:
        title: of the section.
        columns: of `rows`.
        rows: one per image; the last cell is the reason, whose kind stands before a colon.
        file: the CSV beside the report that lists all of them.
    """
    kinds = Counter(row[-1].partition(":")[0] for row in rows).most_common()
    return Group(
        title,
        [
            short_table("", ("Reason", "Images"), kinds, REJECTS_SHOWN),
            short_table("Images", columns, rows, REJECTS_SHOWN, folded=True),
        ],
        link=(file, file),
    )


def past_runs(
    history: Sequence[Mapping[str, Any]], names: Sequence[str], called: Mapping[str, str] | None = None
) -> Group:
    """Findings of past runs.

    Args:
        history: `stages.common.contract.history.recall`, the oldest run first.
        names: keys of figures in `history`.
        called: key -> its name for people, where that is not the key itself.
    """
    runs = list(history)[-RUNS_SHOWN:]
    times = [str(run["time"]).replace("T", " ")[: len("2026-01-01 00:00")] for run in runs]
    titles = (
        {name: name.replace("_", " ") for name in names} | {"findings": "expectations not met"} | dict(called or {})
    )
    series = {titles[name]: [_figure(run.get(name)) for run in runs] for name in names}
    known = {title: values for title, values in series.items() if any(value is not None for value in values)}
    listed = [(time, _verdict(run), *(run.get(name) for name in names)) for time, run in zip(times, runs, strict=True)]
    sections: list[PageSection] = [Trend("", times, known)]
    if listed:
        columns = ("Time (UTC)", "Verdict", *(titles[name] for name in names))
        sections.append(Table("Past runs, the latest first", columns, listed[::-1], folded=True))
    return Group("Trend", sections, note="Runs of this stage with results in the same place; the last one is this run.")


def _figure(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _verdict(run: Mapping[str, Any]) -> Badge:
    return Badge("passed", "good") if run.get("success") else Badge("failed", "bad")


def data_docs_links(suites: Iterable[str]) -> Links:
    """Links to the pages of Great Expectations."""
    pages = {}
    for name in suites:
        pages[f"{name}: what was found"] = f"{DATA_DOCS}/{name}/index.html"
        pages[f"{name}: what is expected"] = f"{DATA_DOCS}/{name}/suite.html"
    return Links("Great Expectations", pages)
