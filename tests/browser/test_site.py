"""The documents as a site that is opened from a folder, without a network: its pages, pictures and search."""

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_the_site_opens_from_a_folder_and_its_search_finds_pages(browser: "Browser", tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts/docs", tmp_path / "site"], check=True, capture_output=True)
    context = browser.new_context(offline=True)
    page = context.new_page()
    requests, errors = list[str](), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "site" / "index.html").as_uri())
    assert page.locator("article img").first.evaluate("one => one.naturalWidth") > 100
    page.get_by_role("link", name="Operate it").first.click()
    page.get_by_role("heading", name="Workers on other machines").wait_for()
    page.get_by_placeholder("Search").press_sequentially("near duplicate")
    page.get_by_role("link", name=re.compile("Glossary")).first.wait_for()
    assert [address for address in requests if not address.startswith(("file:", "data:", "blob:"))] == []
    assert errors == []
    context.close()
