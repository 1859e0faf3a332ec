"""The documents: each is reached, and they say what is so. `scripts/check` follows their links."""

import re
from pathlib import Path

import yaml

from stages.common.reports.report import VERSION

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in (".", "bench", "data", "docs")
    for path in (ROOT / folder).glob("*.md")
)  # fmt: skip
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)[^)\s]*\)")


def test_every_page_and_picture_of_docs_is_reached() -> None:
    linked = {
        (page.parent / path).resolve() for page in PAGES for path in LINK.findall(page.read_text(encoding="utf-8"))
    }
    unreached = {path for path in (ROOT / "docs").iterdir() if path.suffix in {".md", ".png"}} - linked
    assert not unreached


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_newest_version_of_the_changelog_is_the_products() -> None:
    versions = re.findall(
        r"^## (\d\S*) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert versions[0] == VERSION
    assert versions == sorted(versions, key=lambda one: [*map(int, one.split("."))], reverse=True)


def test_every_lock_is_watched_for_newer_versions() -> None:
    told = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text(encoding="utf-8"))
    watched = {one["directory"] for one in told["updates"] if one["package-ecosystem"] == "pip"}
    assert watched == {"/", *(f"/images/{path.parent.name}" for path in ROOT.glob("images/*/requirements.in"))}
