"""Reports: one HTML page per artifact that opens anywhere without a network, made of a few kinds of sections.

Every artifact has a `report.html`. A stage with more than a headline writes its own; the contract writes the others.
Pages hold their pictures as data URIs and load nothing; every text is escaped. They run no script, except ours where
people can correct labels; the policy of the page names that script by its digest.
"""

import base64
import hashlib
import json
import numbers
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, Union

REPORT = "report.html"
VERSION = Path(__file__).with_name("VERSION").read_text(encoding="utf-8").strip()
"""Version of Face Attributes as a whole, such as 1.0.0. No stage's version depends on it."""
PAGE_COLORS = Path(__file__).with_name("page_colors.html")
"""The colours of all pages, Data Docs among them."""
SCRIPT = Path(__file__).with_name("corrections.js")
"""Script with which people correct labels."""
LINKED = frozenset({".csv", ".html", ".json"})
"""Suffixes of files that a browser shows and a report links to."""

TEXT_SHOWN = 160
"""Characters of a text; longer texts are cut in the middle. A file name has up to 255, a hostile cell 100,000."""
VERDICT_SHOWN = 1000
"""Characters of the verdict, which lists counts per reason."""

WORD = 24
"""Characters of a word in a table that is not broken into lines; two such columns fit on a phone."""

ItemT = TypeVar("ItemT")


class Share(float):
    """A share of a whole, 0 to 1, shown in per cent."""


def share(value: float | None) -> Share | None:
    """A share that may not be known."""
    return None if value is None else Share(value)


@dataclass(frozen=True)
class Badge:
    """A coloured word in a table, with a sign for people who do not see the colour.

    Attributes:
        text: the word.
        tone: "good", "bad", "remark" or "plain".
    """

    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Text:
    """Text by people, in paragraphs separated by blank lines; a line that begins with `-` or `*` is one, too."""

    kind: ClassVar[str] = "text"
    text: str

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs, as text."""
        return [part.strip() for part in re.split(r"\n[ \t]*\n|\n(?=[-*] )", self.text) if part.strip()]


@dataclass(frozen=True)
class Link:
    """A cell that leads to a page or file beside the report (`address` is relative)."""

    text: str
    address: str


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
    """A plot, or a sheet of pictures, with its caption: the content of a PNG or JPEG file."""

    kind: ClassVar[str] = "plot"
    title: str
    image: bytes


class Labelled(Protocol):
    """An attribute, as `stages.common.schema.attributes` has it."""

    @property
    def title(self) -> str:
        """Name for people."""

    @property
    def column(self) -> str:
        """Its column in a CSV of corrections."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of its classes."""


@dataclass(frozen=True)
class Labels:
    """The labels of a picture that people can correct.

    Attributes:
        filename: what annotations call the image.
        known: class index of each of the report's attributes, None if unknown.
        asked: attributes that are open beside the picture; the others open on request.
        suggested: position of an attribute -> class index that a network suggests.
    """

    filename: str
    known: Sequence[int | None]
    asked: Collection[int] = ()
    suggested: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A thumbnail (data URI) and the lines below it; without a thumbnail, a sign and the reason in `missing`.

    With `labels` of `Report.attributes`, people can correct the labels of a picture that has a thumbnail.
    """

    uri: str
    lines: Sequence[str]
    missing: str = "no picture"
    labels: Labels | None = None


@dataclass(frozen=True)
class Pictures:
    """Thumbnails in a grid; `mark` is a badge beside their title."""

    kind: ClassVar[str] = "pictures"
    title: str
    pictures: Sequence[Picture]
    note: str = ""
    link: tuple[str, str] | None = None
    mark: Badge | None = None


@dataclass(frozen=True)
class Bars:
    """Counts as bars, for example of classes; the bars in `muted` are gray, for example unknown labels."""

    kind: ClassVar[str] = "bars"
    title: str
    counts: Mapping[str, int]
    note: str = ""
    muted: Collection[str] = ()


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


@dataclass(frozen=True)
class Group:
    """Sections below a common headline. Bars, or pictures without a title, stand side by side."""

    kind: ClassVar[str] = "group"
    title: str
    sections: Sequence["PageSection"]
    note: str = ""
    link: tuple[str, str] | None = None


PageSection = Union[Cards, Text, Table, Plot, Pictures, Bars, Trend, Links, Group]  # noqa: UP007 - a name in quotes takes no `|`


@dataclass(frozen=True)
class Report:
    """The content of a page.

    Attributes:
        title: headline.
        subtitle: one line below it.
        verdict: one line on the findings, and `passed` whether they are good; no verdict if empty.
        sections: the page's parts in order.
        remarked: whether there are findings to inspect although the verdict is good.
        word: the verdict in a word or two; "Passed", "Passed with findings" or "Failed" if empty.
        attributes: those whose labels people can correct.
    """

    title: str
    subtitle: str = ""
    verdict: str = ""
    passed: bool = True
    sections: Sequence[PageSection] = field(default=())
    remarked: bool = False
    word: str = ""
    attributes: Sequence[Labelled] = ()

    @property
    def correctable(self) -> bool:
        """Whether there is a picture whose labels can be corrected."""
        return bool(self.attributes) and any(map(_correctable, self.sections))


def _correctable(section: PageSection) -> bool:
    if isinstance(section, Group):
        return any(map(_correctable, section.sections))
    return isinstance(section, Pictures) and any(picture.uri and picture.labels for picture in section.pictures)


def shown(what: Sequence[ItemT], most: int, of: int | None = None) -> tuple[Sequence[ItemT], str]:
    """The first `most` of a list, and "12 of 3,456 shown", or "" if that is all (`of`: total number)."""
    total = len(what) if of is None else of
    first = what[:most]
    return first, f"{len(first):,} of {total:,} shown" if len(first) < total else ""


def short_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], most: int, note: str = "",
    *, of: int | None = None, link: tuple[str, str] | None = None, folded: bool = False,
) -> Table:  # fmt: skip
    """A table of the first `most` rows; its note also says how many there are; `of` as in `shown`."""
    first, told = shown(rows, most, of)
    return Table(title, columns, first, " ".join(filter(None, (note, told))), link, folded)


def plain_report(name: str, description: str, headline: Mapping[str, object], artifact: Path) -> Report:
    """The report of a stage that does not write its own: its headline, its plots and its files.

    Args:
        name: of the stage.
        description: of the stage, one line.
        headline: its figures.
        artifact: the folder with its output.
    """
    in_words = {key.replace("_", " "): value for key, value in headline.items()}
    plots = [Plot(path.stem.replace("_", " "), path.read_bytes()) for path in sorted(artifact.glob("plots/*.png"))]
    files = sorted(path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.suffix in LINKED)
    links = [Links("Files", {name: name for name in files})] if files else []
    return Report(title=name, subtitle=description, sections=[Cards(in_words), *plots, *links])


def text_of(value: object, most: int = TEXT_SHOWN) -> str:
    """A value for people: thousands separated, 4 significant digits, shares in per cent, long text cut.

    A mapping becomes "name value, name value", its names without underscores.
    """
    if value is None or (isinstance(value, float) and value != value):
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):  # numpy's too
        return f"{int(value):,}"
    if isinstance(value, Share):
        return _share(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{str(name).replace('_', ' ')} {text_of(item)}" for name, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        value = ", ".join(text_of(item) for item in value)
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", str(value))
    return text if len(text) <= most else f"{text[: most * 2 // 3]} \u2026 {text[-(most // 3) :]}"


def _share(value: float) -> str:
    """In per cent, one decimal; only none is 0%, and only all is 100%."""
    if 0 < value < 0.001:
        return "< 0.1%"
    if 0.999 < value < 1:
        return "> 99.9%"
    return f"{value:.1%}".replace(".0%", "%")


def write_report(path: Path, report: Report) -> None:
    """Write a report as one self-contained HTML page."""
    more: dict[str, Any] = {}
    if report.correctable:
        from markupsafe import Markup  # which comes with Jinja; not needed for --help

        script = SCRIPT.read_text(encoding="utf-8")
        told = [
            {"title": attribute.title, "column": attribute.column, "classes": attribute.classes}
            for attribute in report.attributes
        ]
        data = json.dumps(told).replace("<", "\\u003c")  # so that no text ends the element
        more = {"script": Markup(script), "digest": script_digest(script), "data": Markup(data)}  # noqa: S704 (ours)
    page = page_templates(Path(__file__).parent).get_template("report.html").render(report=report, **more)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def script_digest(script: str) -> str:
    """Name of a script in a policy: `sha256-` and the digest in base64."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def labels_json(labels: Labels) -> str:
    """The labels of a picture for the page's script."""
    return json.dumps(
        {"filename": labels.filename, "known": list(labels.known), "asked": sorted(labels.asked)}
        | {"suggested": {str(at): index for at, index in labels.suggested.items()}}
    )


def page_templates(folder: Path) -> Any:
    """A Jinja environment for the pages of `folder`: everything escaped, with the style that all pages share."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not needed for --help

    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"text": text_of, "share": _share, "inline": _inline, "labels": labels_json}
    environment.tests |= {
        "badge": lambda value: isinstance(value, Badge),
        "link": lambda value: isinstance(value, Link),
        "word": _word,
    }
    environment.globals |= {
        "boxed": _boxed,
        "curve": _curve,
        "numeric": _numeric,
        "titles": _titles,
        "VERDICT_SHOWN": VERDICT_SHOWN,
        "VERSION": VERSION,
    }
    return environment


def _word(cell: object) -> bool:
    """Whether a cell is one short word, such as a file name, which no line break should cut."""
    text = cell.text if isinstance(cell, Link) else cell
    return isinstance(text, str) and len(text) <= WORD and " " not in text


def _titles(report: Report) -> list[tuple[str, str]]:
    """Anchor and title of every section that has one."""
    titles = [(f"part{at}", getattr(section, "title", "")) for at, section in enumerate(report.sections, 1)]
    return [(anchor, title) for anchor, title in titles if title]


def _boxed(group: Group) -> bool:
    """Whether the parts of a group are small enough to stand side by side."""
    return all(
        isinstance(section, Bars) or (isinstance(section, Pictures) and not section.title) for section in group.sections
    )


def _numeric(table: Table) -> list[bool]:
    """Whether a column holds figures only; cells that are not known do not count."""
    columns = [[row[at] for row in table.rows] for at in range(len(table.columns))]
    known = [[cell for cell in cells if cell is not None and cell != ""] for cells in columns]
    return [
        bool(cells) and all(isinstance(cell, numbers.Real) and not isinstance(cell, bool) for cell in cells)
        for cells in known
    ]


@dataclass(frozen=True)
class _Line:
    """A curve in a square of 100 by 100, y downward; `path` and `dots` are SVG path data."""

    count: int
    first: float | None = None
    last: float | None = None
    low: float | None = None
    high: float | None = None
    path: str = ""
    dots: str = ""


def _curve(values: Sequence[float | None]) -> _Line:
    """The curve of values at even distances, broken at unknown values.

    A dot is a line of length 0 with round ends: a circle would be stretched together with the square.
    """
    known = [value for value in values if value is not None]
    if not known:
        return _Line(0)
    low, high = min(known), max(known)
    step = 100 / max(1, len(values) - 1)
    path, dots, pen = [], [], "M"
    for at, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        y = 100 * (high - value) / (high - low) if high > low else 50
        path.append(f"{pen}{at * step:.2f} {y:.2f}")
        dots.append(f"M{at * step:.2f} {y:.2f}h0")
        pen = "L"
    return _Line(len(known), known[0], known[-1], low, high, " ".join(path), " ".join(dots))


def _inline(content: bytes) -> str:
    kind = "jpeg" if content.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
