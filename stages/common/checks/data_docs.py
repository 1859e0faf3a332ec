"""Data Docs: Great Expectations' own pages, changed so that they open without network access and cannot run scripts.

Great Expectations 1.24 links some 16 files on CDNs, and a browser without network waits for each. It also writes cells
of the checked data into its tables unescaped. Here every plain text is escaped; scripts, links and remote images are
removed; a content security policy forbids any that are left; and `data_docs_style.html` replaces Bootstrap.
"""

import copy
import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import great_expectations as gx
from great_expectations.render.renderer.content_block.validation_results_table_content_block import (
    ValidationResultsTableContentBlockRenderer,
)
from great_expectations.render.renderer.page_renderer import ExpectationSuitePageRenderer, ValidationResultsPageRenderer
from great_expectations.render.view.view import DefaultJinjaPageView
from jinja2 import pass_context

from stages.common.reports.report import PAGE_COLORS, REPORT

TEXT_SHOWN = 120
"""Characters of a cell; a longer one is cut in its middle."""
VALUES_SHOWN = 200
"""Failing values in a table: Great Expectations itself keeps no more, and shows 20 different ones."""
LISTED = 20
"""Entries of any other list."""

_STYLE = [
    PAGE_COLORS.read_text(encoding="utf-8"),
    Path(__file__).with_name("data_docs_style.html").read_text(encoding="utf-8"),
]
_REMOTE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<footer>.*?</footer>|[\w-]+: url\('http[^;]*;"
    r"|<nav class=\"navbar navbar-expand-md.*?</nav>\s*</div>\s*</nav>|(?<=\") onclick=\"[^\"]*\"",
    re.DOTALL,
)


class Rows(ValidationResultsTableContentBlockRenderer):
    """Table of a column's expectations, with the meaning of a failure and its severity in two further columns.

    Great Expectations finds this class by its name.
    """

    @classmethod
    def _process_content_block(cls, content_block: Any, has_failed_evr: Any, render_object: Any = None) -> None:
        super()._process_content_block(content_block, has_failed_evr, render_object)
        content_block.header_row += ["If not met", "Severity"]

    @classmethod
    def _get_content_block_fn(cls, expectation_type: str, expectation_config: Any = None) -> Any:
        rows_of: Any = super()._get_content_block_fn(expectation_type, expectation_config)

        def with_meaning(*args: Any, **kwargs: Any) -> Any:
            config = kwargs["result"].expectation_config
            told = [(config.meta or {}).get("reason", ""), str(config.severity.value)]
            return [[*row, *told] for row in rows_of(*args, **kwargs)]

        return with_meaning


class _EscapingView(DefaultJinjaPageView):
    """Escapes plain text, which the stock view passes through; the stock view escapes text built from templates."""

    @pass_context
    def render_content_block(self, jinja_context: Any, content_block: Any, *args: Any, **kwargs: Any) -> Any:
        """Render one block of a page as HTML."""
        if isinstance(content_block, str):
            return html.escape(content_block)
        if isinstance(content_block, list):
            content_block = [html.escape(block) if isinstance(block, str) else block for block in content_block]
        return super().render_content_block(jinja_context, content_block, *args, **kwargs)


def _short(value: Any, most: int = LISTED) -> Any:
    """A result that the renderer can show: numbers of numpy become Python's, long lists and texts are cut."""
    if isinstance(value, dict):
        kept = {"unexpected_list": VALUES_SHOWN, "unexpected_index_list": VALUES_SHOWN}
        return {name: _short(item, kept.get(name, LISTED)) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        first = [_short(item) for item in list(value)[:most]]
        return first if most == VALUES_SHOWN or len(value) <= most else [*first, f"\u2026 {len(value):,} in all"]
    if isinstance(value, str) and len(value) > TEXT_SHOWN:
        return f"{value[: TEXT_SHOWN * 2 // 3]} \u2026 {value[-TEXT_SHOWN // 3 :]}"
    return value.item() if hasattr(value, "item") else value


def _readable(result: Any) -> Any:
    """A copy of a result that is short enough for its page."""
    outcomes = []
    for outcome in result.results:
        short = copy.copy(outcome)
        short.result = _short(outcome.result)
        short.exception_info = _without_traceback(outcome.exception_info or {})
        outcomes.append(short)
    page = copy.copy(result)
    page.results = outcomes
    return page


def _without_traceback(info: Any) -> Any:
    """The exception without its lines of code, which show paths of this machine and take 10 kB an expectation."""
    if not isinstance(info, dict):
        return info
    return {
        name: "" if name == "exception_traceback" else _without_traceback(_short(part)) for name, part in info.items()
    }


def _expected(suite: Any, result: Any) -> Any:
    """The suite with the thresholds of this run in place of the names of parameters."""
    configs = [copy.deepcopy(outcome.expectation_config) for outcome in result.results]
    for config in configs:
        config.kwargs.pop("batch_id", None)
        config.id = None  # else it belongs to the suite that was run
    return gx.ExpectationSuite(
        name=suite.name,
        expectations=[config.to_domain_obj() for config in configs],
        meta=dict(suite.meta or {}),
        notes=suite.notes,
    )


def _pages(suite: str, others: Iterable[str], current: str) -> str:
    """Links to the report and to the other pages."""
    addresses = {
        "Report": f"../../{REPORT}",
        f"{suite}: what was found": "index.html",
        f"{suite}: what is expected": "suite.html",
        **{f"{other}: what was found": f"../{other}/index.html" for other in others if other != suite},
    }
    links = [
        f'<a href="{html.escape(address)}"{" aria-current=page" if address == current else ""}>{html.escape(text)}</a>'
        for text, address in addresses.items()
    ]
    return f'<nav class="pages" aria-label="Pages">{"".join(links)}</nav>'


def _page(document: Any, title: str, top: str) -> str:
    view: Any = _EscapingView()
    page = _REMOTE.sub("", view.render(document))
    page = re.sub(r'href="(?:\.\./)+index\.html"', f'href="../../{REPORT}"', page)
    page = re.sub(r'href="(?:\.\./)+expectations/[^"]*"', 'href="suite.html"', page)
    page = re.sub(r"<title>.*?</title>", "", page, flags=re.DOTALL)
    page = re.sub(r"\n\s*\n+", "\n", page)
    page = page.replace("<html>", '<html lang="en">', 1)
    page = page.replace("<head>", f"<head>\n<title>{html.escape(title)}</title>", 1)
    page = page.replace("</head>", "".join(_STYLE) + "</head>", 1)
    return page.replace("<body>", f"<body>\n{top}", 1)


def write_data_docs(folder: Path, suite: Any, result: Any, summary: str, others: Iterable[str] = ()) -> None:
    """Write `index.html` (what was found) and `suite.html` (what is expected).

    Args:
        folder: target, `data_docs/<suite>` beside the report to which the pages link back; it is created.
        suite: the `ExpectationSuite`.
        result: its `ExpectationSuiteValidationResult`.
        summary: one line that both pages show on top.
        others: suites whose pages lie beside this folder; its own name among them does not matter.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"class_name": Rows.__name__, "module_name": Rows.__module__}
    found: Any = ValidationResultsPageRenderer(
        {"class_name": "ValidationResultsColumnSectionRenderer", "table_renderer": rows}, run_info_at_end=True
    )
    expected: Any = ExpectationSuitePageRenderer()
    others = list(others)
    line = f'<p class="summary">{html.escape(_short(summary) if len(summary) > 2000 else summary)}</p>'
    for name, what, document in (
        ("index.html", "what was found", found.render(_readable(result))),
        ("suite.html", "what is expected", expected.render(_expected(suite, result))),
    ):
        top = _pages(suite.name, others, name) + "\n" + line
        (folder / name).write_text(_page(document, f"{suite.name}: {what}", top), encoding="utf-8")
