"""The page in a real browser: it draws, follows a live run, and asks nobody else for anything."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from sdpo_megatron.monitoring.local.server import serve
from tests.browser import NEEDS_CHROMIUM, opened

STEPS = Path(__file__).parents[3] / "docs" / "pictures" / "quickstart.jsonl"
pytestmark = NEEDS_CHROMIUM


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copy(STEPS, tmp_path / "metrics.jsonl")
    return tmp_path


@pytest.fixture
def url(run: Path) -> Iterator[str]:
    with serve(run) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def num_inked(page: Page) -> int:
    """Canvases on which something is drawn."""
    found = page.evaluate(
        "() => [...document.querySelectorAll('canvas')].filter((canvas) => canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0)).length"
    )
    return int(found)


def test_every_dashboard_draws_and_nothing_is_asked_elsewhere(browser: Browser, url: str) -> None:
    seen = opened(browser, url)
    names = [button.inner_text() for button in seen.page.locator("nav button").all()]
    assert names == [
        "Overview",
        "Learning",
        "Rollouts and hot swap",
        "Verifiers",
        "Trainer performance",
    ]
    for name in names:
        seen.page.get_by_role("button", name=name).click()
        drawn = seen.page.locator("canvas").count()
        unmeasured = seen.page.locator(".none").count()
        assert drawn + unmeasured == seen.page.locator(".panel").count()
        assert drawn > 0
        seen.page.wait_for_timeout(100)  # uPlot draws in the next frame
        assert num_inked(seen.page) == drawn
    assert seen.complaints == []
    assert {asked.removeprefix(url) for asked in seen.asked} == {"", "data.json"}


def test_a_live_run_is_followed(browser: Browser, url: str, run: Path) -> None:
    seen = opened(browser, url)
    steps = seen.page.locator(".tile b").first
    expect(steps).to_have_text("8")
    last = json.loads(STEPS.read_text().splitlines()[-1])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(last | {"step": 9, "rollout/success_rate": 0.5}) + "\n")
    expect(steps).to_have_text("9", timeout=20_000)
    expect(seen.page.locator(".tile b").nth(1)).to_have_text("50 %")
    legend = seen.page.locator(".panel", has_text="Success rate").locator(".u-legend").first
    expect(legend).to_contain_text("50 %")
    assert seen.complaints == []


@pytest.mark.parametrize(("scheme", "light"), [("light", True), ("dark", False)])
def test_it_is_light_or_dark_as_the_system_is_and_can_be_switched(
    browser: Browser, url: str, scheme: Any, light: bool
) -> None:
    def is_light(page: Page) -> bool:
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(",")) > 3 * 128

    seen = opened(browser, url, color_scheme=scheme)
    assert is_light(seen.page) is light
    seen.page.locator("#theme").click()
    assert is_light(seen.page) is not light
    assert seen.complaints == []


def test_a_run_that_has_ended_says_how(browser: Browser, url: str, run: Path) -> None:
    (run / "lease").mkdir()
    (run / "lease" / "000001.released").touch()
    for steps, tile, text in ((8, "8 of 8", "finished"), (9, "8 of 9", "not running; ")):
        (run / "config.yaml").write_text(f"run: {{steps: {steps}}}")
        seen = opened(browser, url)
        expect(seen.page.locator(".tile b").first).to_have_text(tile)
        expect(seen.page.locator("#state")).to_contain_text(text)
        assert seen.complaints == []


def test_a_run_without_a_step_says_so(browser: Browser, url: str, run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    seen = opened(browser, url)
    expect(seen.page.locator("#state")).to_have_text("no step yet")
    assert seen.page.locator("canvas").count() == 0
    assert seen.complaints == []


def test_it_fits_a_narrow_window(browser: Browser, url: str) -> None:
    seen = opened(browser, url)
    seen.page.set_viewport_size({"width": 390, "height": 800})
    seen.page.wait_for_timeout(300)
    wide = seen.page.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= 390
