"""The run report: one HTML page without any link to the outside, so it opens anywhere and can be mailed."""

import base64
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.common.attributes import ATTRIBUTES

REJECTS_SHOWN = 50
"""Rows of a rejects table; the full list is in `rejected/` beside the report."""


def _image(path: Path) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _rejects(artifact: Path) -> list[dict[str, str]]:
    file = artifact / "rejected.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


def render_report(
    title: str,
    key: str,
    manifests: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, Path],
    archive: Path,
) -> str:
    """Render the report.

    Args:
        title: the page's title.
        key: the key of the archive artifact; its first 12 digits name the version.
        manifests: stage name -> manifest.
        inputs: stage name -> artifact.
        archive: the folder with the collected `metrics/` and `plots/`.

    Returns:
        A complete HTML page; every value from the data is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    metrics = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (archive / "metrics").glob("*.json")}
    rejects = {name: _rejects(inputs[name]) for name in ("validate", "prepare_train")}
    return environment.get_template("report.html").render(
        title=title,
        version=key[:12],
        manifests=manifests,
        metrics=metrics,
        attributes=ATTRIBUTES,
        plots={path.stem: _image(path) for path in sorted((archive / "plots").glob("*.png"))},
        rejects={name: rows[:REJECTS_SHOWN] for name, rows in rejects.items()},
        reject_counts={name: len(rows) for name, rows in rejects.items()},
    )
