"""Reports a clean-up to people and to Airflow: a table on the terminal, a page, a result in JSON."""

import time
import uuid
from pathlib import Path
from typing import Any

from stages.archive.prune import PASSES, Found
from stages.common.contract.artifacts import json_digest, making, publish, write_manifest
from stages.common.reports.report import REPORT, Cards, Report, Table, short_table, write_report

SHOWN = 500
"""Rows of removed entries on the page."""


def mb(size: int) -> float:
    """Megabytes (10^6 bytes), one decimal."""
    return round(size / 1e6, 1)


def headline(found: Found) -> dict[str, int | float | str]:
    """A few figures."""
    return {
        ("would_free_mb" if found.dry_run else "freed_mb"): mb(found.removed_bytes),
        ("would_remove" if found.dry_run else "removed"): found.removed,
        "kept_mb": mb(found.kept_bytes),
        "not_removable": len(found.problems),
        "keep": found.keep,
    }


def table(found: Found) -> str:
    """Counts by kind, freed bytes, and entries that could not be removed."""
    goes = "would go" if found.dry_run else "removed"
    lines = [f"{'what':<28} {'kept':>7} {'MB':>9}  {goes:>8} {'MB':>9}  kept, why"]
    for what, count in sorted(found.counts.items()):
        lines.append(
            f"{what:<28} {count.kept:>7,} {mb(count.kept_bytes):>9,.1f}  {count.removed:>8,} "
            f"{mb(count.removed_bytes):>9,.1f}  {count.why}"
        )
    lines += [f"not removed: {problem}" for problem in found.problems]
    return "\n".join([*lines, verdict(found)])


def verdict(found: Found) -> str:
    """The outcome of the pass, in a line."""
    freed = f"{mb(found.removed_bytes):,.1f} MB {'would be freed' if found.dry_run else 'freed'}"
    left = f"; {len(found.problems):,} could not be removed" if found.problems else ""
    return f"{freed}, {mb(found.kept_bytes):,.1f} MB kept{left}"


def write_page(found: Found, store: Path) -> Path:
    """Write the page of a pass into the store, in its own folder like the artifact of a stage, and return it."""
    key = json_digest({PASSES: uuid.uuid4().hex})
    final = store / PASSES / key
    with making(final) as partial:
        write_report(partial / REPORT, _page(found))
        write_manifest(partial, stage=PASSES, key=key, inputs={}, headline=headline(found))
        publish(partial, final)
    return final / REPORT


def result(found: Found, page: Path, seconds: float) -> dict[str, Any]:
    """The result for Airflow."""
    return {
        "stage": "archive",
        "report": str(page),
        "seconds": seconds,
        "headline": headline(found),
        "counts": {
            what: {
                "kept": count.kept, "kept_bytes": count.kept_bytes, "why": dict(count.reasons),
                "removed": count.removed, "removed_bytes": count.removed_bytes,
            }
            for what, count in sorted(found.counts.items())
        },
        "problems": found.problems,
    }  # fmt: skip


def _page(found: Found) -> Report:
    goes = "Would go" if found.dry_run else "Removed"
    counts = [
        (what, count.kept, mb(count.kept_bytes), count.why, count.removed, mb(count.removed_bytes))
        for what, count in sorted(found.counts.items())
    ]
    gone = sorted(found.gone, key=lambda entry: -entry[3])
    rows = [(what, name, _date(used), mb(size)) for what, name, used, size in gone]
    problems = [
        Table("Could not be removed", ("What, why, and what to do",), [(problem,) for problem in found.problems])
    ]
    return Report(
        title="Clean-up" + (", a dry run" if found.dry_run else ""),
        subtitle=f"{_date(time.time())}. Kept: artifacts used within {found.keep}, the newest of each stage, versions.",
        verdict=verdict(found),
        passed=not found.problems,
        sections=[
            Cards({
                ("would be freed" if found.dry_run else "freed"): f"{mb(found.removed_bytes):,.1f} MB",
                ("would be removed" if found.dry_run else "removed"): found.removed,
                "kept": f"{mb(found.kept_bytes):,.1f} MB",
                "could not be removed": len(found.problems),
                "kept if used within": found.keep,
            }),
            *(problems if found.problems else []),
            Table("What is kept and what is removed", ("What", "Kept", "MB", "Why", goes, "MB"), counts),
            *([short_table(goes, ("What", "Key", "Last used", "MB"), rows, SHOWN, folded=True)] if rows else []),
        ],
    )  # fmt: skip


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
