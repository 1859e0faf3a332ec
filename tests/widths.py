"""Whether a page fits its window, so that nobody has to scroll sideways."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTHS = (320, 768, 1440)
"""Pixels of a phone, a tablet and a desk."""
OUTSIDE = """() => {
    const beyond = box => box.left < -.5 || box.right > innerWidth + .5
    const controls = document.querySelectorAll("a[href], button, input, select, textarea, summary")
    return [...controls]
        .filter(control => control.checkVisibility() && beyond(control.getBoundingClientRect()))
        .filter(control => !control.closest("[role=region][tabindex]"))
        .map(control => control.getAttribute("aria-label") || control.innerText || control.name)
}"""
"""Names of controls that lie beside the window, without those of wide tables, which scroll within a named region."""


def assert_fits(page: "Page") -> None:
    """See that the page is no wider than the window, and that all controls lie in it."""
    assert page.viewport_size
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.evaluate(OUTSIDE) == []
