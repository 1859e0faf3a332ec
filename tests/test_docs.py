"""The documents: each is reached, and they say what is so. `scripts/check` follows their links."""

import re
import subprocess
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
    assert versions == sorted(versions, key=lambda version: [*map(int, version.split("."))], reverse=True)


def test_a_tag_of_this_commit_is_the_products_version() -> None:
    tags = subprocess.run(["git", "tag", "--points-at"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert {tag for tag in tags.split() if re.match(r"\d", tag)} <= {VERSION}


def test_the_hosted_ci_calls_make_and_logs_in() -> None:
    told = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    commands = [step["run"] for job in told["jobs"].values() for step in job["steps"] if "run" in step]
    assert [re.sub(".*(make|docker) (\\S+).*", r"\1 \2", command) for command in commands] == [
        "make check", "make test", "docker login", "make push",
    ]  # fmt: skip


def test_every_lock_is_watched_for_newer_versions() -> None:
    told = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text(encoding="utf-8"))
    watched = {update["directory"] for update in told["updates"] if update["package-ecosystem"] == "pip"}
    assert watched == {"/", *(f"/images/{path.parent.name}" for path in ROOT.glob("images/*/requirements.in"))}
