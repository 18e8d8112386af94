"""Photograph a run's report for the docs: `python docs/pictures/report.py RUN [RUN]`.

It needs Chromium. The curves may be those of another, longer run.

report-light.png    the beginning of the page
report-reader.png   an attempt token by token, with what the teacher would rather have seen
report-dark.png     the same question early and late, side by side, in the dark
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from sdpo_megatron.report.blocks import BlockCache
from sdpo_megatron.report.page import report_page

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 1280, 860


def main(run: Path, curves: Path) -> None:
    """Write the three pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page, longer = Path(folder) / "report.html", Path(folder) / "curves.html"
        page.write_text(report_page([BlockCache(run)]))
        longer.write_text(report_page([BlockCache(curves)]))
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened(browser, longer, "light").screenshot(path=FOLDER / "report-light.png")
        light = opened(browser, page, "light")
        show_attempts(light)
        token = light.locator(".tokens .token.b4, .tokens .token.b3").first
        token.hover()
        light.screenshot(path=FOLDER / "report-reader.png")
        dark = opened(browser, page, "dark")
        show_attempts(dark)
        dark.get_by_role("button", name="Latest").click()
        dark.wait_for_selector("#shown.two")
        dark.screenshot(path=FOLDER / "report-dark.png")
        browser.close()


def opened(browser: Browser, page: Path, scheme: str) -> Page:
    """The page in a window of its own, drawn."""
    window = browser.new_page(
        viewport={"width": WIDTH, "height": HEIGHT},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    window.goto(page.as_uri())
    window.wait_for_selector("html[data-ready]")
    window.wait_for_timeout(300)
    return window


def show_attempts(page: Page) -> None:
    """The reader, at the attempt that the teacher blames most."""
    page.select_option("#order", "blamed")
    page.evaluate("document.getElementById('attempts').scrollIntoView()")
    page.wait_for_timeout(400)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[-1]))
