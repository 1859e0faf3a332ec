"""Reports: one HTML page per artifact that opens anywhere without a network, made of a few kinds of sections.

Every artifact has a `report.html`. A stage that has more to say than its headline writes its own; the contract writes
the others. Pages hold their pictures as data URIs, run no script and load nothing; every text is escaped.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

REPORT = "report.html"
LINKED = frozenset({".csv", ".html", ".json"})
"""Suffixes of files that a browser shows, and that a report links to."""


@dataclass(frozen=True)
class Cards:
    """Headline figures side by side: label -> value."""

    kind: ClassVar[str] = "cards"
    values: Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """A table. Numbers are set right; `note` stands above, `link` (text, relative address) below."""

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    link: tuple[str, str] | None = None
    folded: bool = False


@dataclass(frozen=True)
class Plot:
    """A PNG plot with its caption."""

    kind: ClassVar[str] = "plot"
    title: str
    png: bytes


@dataclass(frozen=True)
class Picture:
    """A thumbnail (data URI, empty if there is nothing to show) and the lines below it."""

    uri: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Pictures:
    """Thumbnails in a grid."""

    kind: ClassVar[str] = "pictures"
    title: str
    pictures: Sequence[Picture]
    note: str = ""
    link: tuple[str, str] | None = None


@dataclass(frozen=True)
class Bars:
    """Counts as bars, for example of classes."""

    kind: ClassVar[str] = "bars"
    title: str
    counts: Mapping[str, int]
    note: str = ""


@dataclass(frozen=True)
class Trend:
    """Values over past runs: one line per name, the oldest value first; None where a run has none."""

    kind: ClassVar[str] = "trend"
    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    note: str = ""


@dataclass(frozen=True)
class Links:
    """Further pages and files beside the report: text -> relative address."""

    kind: ClassVar[str] = "links"
    title: str
    links: Mapping[str, str]


Section = Cards | Table | Plot | Pictures | Bars | Trend | Links


@dataclass(frozen=True)
class Report:
    """What a page says.

    Attributes:
        title: headline.
        subtitle: one line below it.
        verdict: one line on what was found, and `passed` whether it is good; no verdict if empty.
        sections: the page's parts in order.
    """

    title: str
    subtitle: str = ""
    verdict: str = ""
    passed: bool = True
    sections: Sequence[Section] = field(default=())


def plain_report(name: str, description: str, headline: Mapping[str, object], artifact: Path) -> Report:
    """The report of a stage that writes none: its headline, its plots and its files.

    Args:
        name: of the stage.
        description: of the stage, one line.
        headline: its figures.
        artifact: the folder with its output.
    """
    plots = [Plot(path.stem.replace("_", " "), path.read_bytes()) for path in sorted(artifact.glob("plots/*.png"))]
    files = sorted(path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.suffix in LINKED)
    links = [Links("Files", {name: name for name in files})] if files else []
    return Report(title=name, subtitle=description, sections=[Cards(headline), *plots, *links])


def write_report(path: Path, report: Report) -> None:
    """Write a report as one self-contained HTML page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not needed for --help

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html").render(
        report=report, png=lambda plot: "data:image/png;base64," + base64.b64encode(plot.png).decode()
    )
    path.write_text(page, encoding="utf-8")
