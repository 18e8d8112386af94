"""Headless Chromium, Debian's: a page, and what it complained of and asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

# Without these it looks for its maker's hosts at every start.
_FLAGS = [
    "--no-sandbox",  # of a container's root; the pages are ours
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"
)


@contextmanager
def started() -> Iterator[Browser]:
    """A browser that ends with the block."""
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS) as launched,
    ):
        yield launched


@dataclass
class Seen:
    """A page, what its console said, and every address that it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def opened(browser: Browser, url: str, **settings: Any) -> Seen:
    """The page at `url` in a window of its own."""
    seen = Seen(browser.new_page(**{"viewport": {"width": 1300, "height": 900}, **settings}))
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("request", lambda request: seen.asked.append(request.url))
    seen.page.goto(url)
    return seen
