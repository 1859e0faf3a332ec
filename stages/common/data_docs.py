"""Data Docs: Great Expectations' own pages, mended so that they open without network access and cannot run scripts.

Great Expectations 1.24 links some 16 files on CDNs, a browser without network waits for each, and it writes cells of
checked data into its tables unescaped. Here every plain text is escaped; scripts, links and remote images are taken
out; a content security policy forbids whatever might be left; and `data_docs_style.html` stands in for Bootstrap.
"""

import html
import re
from pathlib import Path
from typing import Any

from great_expectations.render.renderer.page_renderer import ExpectationSuitePageRenderer, ValidationResultsPageRenderer
from great_expectations.render.view.view import DefaultJinjaPageView
from jinja2 import pass_context

_STYLE = Path(__file__).with_name("data_docs_style.html")
_REMOTE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<footer>.*?</footer>|[\w-]+: url\('http[^;]*;", re.DOTALL
)


class _EscapingView(DefaultJinjaPageView):
    """Escapes plain text, which the stock view passes through; what is built from templates it escapes itself."""

    @pass_context
    def render_content_block(self, jinja_context: Any, content_block: Any, *args: Any, **kwargs: Any) -> Any:
        """Render one block of a page as HTML."""
        if isinstance(content_block, str):
            return html.escape(content_block)
        if isinstance(content_block, list):
            content_block = [html.escape(block) if isinstance(block, str) else block for block in content_block]
        return super().render_content_block(jinja_context, content_block, *args, **kwargs)


def _page(document: Any, summary: str) -> str:
    view: Any = _EscapingView()
    page = _REMOTE.sub("", view.render(document))
    page = re.sub(r'href="(?:\.\./)+index\.html"', 'href="index.html"', page)
    page = re.sub(r'href="(?:\.\./)+expectations/[^"]*"', 'href="suite.html"', page)
    page = re.sub(r"\n\s*\n+", "\n", page)
    page = page.replace("<head>", "<head>\n" + _STYLE.read_text(encoding="utf-8"), 1)
    return page.replace("<body>", f'<body>\n<p class="summary">{html.escape(summary)}</p>', 1)


def write_data_docs(folder: Path, suite: Any, result: Any, summary: str) -> None:
    """Write `index.html` (what was found) and `suite.html` (what is expected).

    Args:
        folder: where to; it is created.
        suite: the `ExpectationSuite`.
        result: its `ExpectationSuiteValidationResult`.
        summary: one line that both pages show on top.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: Any = ValidationResultsPageRenderer(run_info_at_end=True)
    expected: Any = ExpectationSuitePageRenderer()
    (folder / "index.html").write_text(_page(found.render(result), summary), encoding="utf-8")
    (folder / "suite.html").write_text(_page(expected.render(suite), summary), encoding="utf-8")
