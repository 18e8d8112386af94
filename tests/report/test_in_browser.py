"""The report in a real browser: it draws, it can be read by mouse and keyboard, it asks nobody for
anything, and what a model wrote does nothing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from sdpo_megatron.report.blocks import BlockCache
from sdpo_megatron.report.page import report_page
from tests.browser import NEEDS_CHROMIUM, Seen, opened
from tests.report import axe
from tests.report.runs import STEPS, write_hostile_step, write_run

pytestmark = NEEDS_CHROMIUM


def written(folder: Path, *runs: Path) -> str:
    """The address of the runs' page."""
    path = folder / "page.html"
    path.write_text(report_page([BlockCache(run) for run in runs]), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    return written(folder, write_run(folder / "run", steps=6, attempts=8, scored=2))


def ready(browser: Browser, url: str, **settings: Any) -> Seen:
    seen = opened(browser, url, **settings)
    seen.page.wait_for_selector("html[data-ready]")
    return seen


def assert_quiet(seen: Seen, url: str) -> None:
    """No word on the console, and no request but for the page itself."""
    assert seen.complaints == []
    assert [asked.partition("#")[0] for asked in seen.asked] == [url]


def inked(page: Page) -> int:
    return int(
        page.evaluate(
            "() => [...document.querySelectorAll('canvas')].filter((canvas) => canvas"
            ".getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
            ".some((value) => value > 0)).length"
        )
    )


# --- what is shown ------------------------------------------------------------------------------


def test_numbers_curves_and_sections_are_there(browser: Browser, url: str) -> None:
    seen = ready(browser, url)
    page = seen.page
    lines = [json.loads(line) for line in STEPS.read_text().splitlines()]
    late = sum(line["rollout/success_rate"] for line in lines[-2:]) / 2
    expect(page.locator(".tile").first).to_contain_text(f"success{100 * late:.1f} %")
    expect(page.locator("#facts")).to_have_text("tiny · gsm8k · step 8 of 6")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws all that were out of sight
    page.wait_for_timeout(200)
    plots = page.locator(".plot").count()
    assert plots > 20
    assert inked(page) == plots
    expect(page.locator("#findings li")).to_have_count(11)
    expect(page.locator("#phases tbody tr").first).to_contain_text("Sampling the attempts")
    page.get_by_text("config.yaml", exact=True).click()
    expect(page.locator("#configs pre").first).to_contain_text("path: models/tiny")
    assert_quiet(seen, url)


@pytest.mark.parametrize(("scheme", "light"), [("light", True), ("dark", False)])
def test_it_is_light_or_dark_as_the_system_is(
    browser: Browser, url: str, scheme: Any, light: bool
) -> None:
    def is_light(page: Page) -> bool:
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(",")) > 3 * 128

    seen = ready(browser, url, color_scheme=scheme)
    assert is_light(seen.page) is light
    seen.page.locator("#theme").click()
    assert is_light(seen.page) is not light
    assert_quiet(seen, url)


def test_a_run_without_a_step(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("run:\n  steps: 5\n")
    url = written(tmp_path, tmp_path / "run")
    seen = ready(browser, url)
    expect(seen.page.locator("#attempts-lead")).to_have_text("No step has been recorded yet.")
    assert_quiet(seen, url)


# --- the reader ---------------------------------------------------------------------------------


def test_tokens_are_coloured_by_what_the_teacher_thinks(browser: Browser, url: str) -> None:
    page = ready(browser, url).page
    expect(page.locator("#count")).to_have_text("24 of 96 attempts")  # those with scores
    attempt = page.evaluate("async () => whole(chosenRows[0])")
    tokens = page.locator(".tokens .token")
    assert tokens.count() == len(attempt["pieces"]) == 20
    for place, gap in enumerate(attempt["gap"]):
        steps = sum(abs(gap) >= 1000 * least for least in (0.1, 0.5, 1, 2))
        name = f"{'b' if gap < 0 else 'p'}{steps}" if steps else ""
        assert tokens.nth(place).get_attribute("class") == f"token {name}"
    colours = {
        name: page.locator(f".legend .{name}").first.evaluate(
            "(node) => { const s = getComputedStyle(node);"
            " return [s.backgroundColor, s.borderBottomStyle, s.borderBottomColor]; }"
        )
        for name in ("b4", "p4", "b1", "p1")
    }
    assert len({background for background, _, _ in colours.values()}) == 4
    assert (colours["b4"][1], colours["p4"][1]) == ("dotted", "solid")  # not by colour alone


def test_a_token_tells_what_the_teacher_would_rather_have_seen(browser: Browser, url: str) -> None:
    page = ready(browser, url).page
    card = page.locator("#card")
    expect(card).to_be_hidden()
    page.locator(".tokens .token").nth(3).hover()
    expect(card).to_contain_text("token 4 of 20")
    attempt = page.evaluate("async () => whole(chosenRows[0])")
    gap = attempt["gap"][3] / 1000
    expect(card.locator("b")).to_have_text(f"{'+' if gap > 0 else '−'}{abs(gap):.2f}")
    better = card.locator("tr", has_text="better")
    expect(better).to_contain_text("82 %")  # exp(-0.2): the teacher
    expect(better).to_contain_text("14 %")  # exp(-2.0): the student
    expect(card.locator("tr.own")).to_contain_text("sampled")
    page.mouse.move(5, 5)
    expect(card).to_be_hidden()


def test_the_reader_works_by_keyboard(browser: Browser, url: str) -> None:
    page = ready(browser, url).page
    page.locator("#list").focus()
    title = page.locator(".attempt .faint").first
    first = title.inner_text()
    page.keyboard.press("ArrowDown")
    expect(title).not_to_have_text(first)
    row = page.locator("#list").get_attribute("aria-activedescendant")
    assert row == "row-1"
    expect(page.locator("#row-1")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("End")
    expect(page.locator("#row-23")).to_have_attribute("aria-posinset", "24")
    page.keyboard.press("Home")
    expect(title).to_have_text(first)
    page.locator(".tokens").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#card")).to_contain_text("token 2 of 20")
    expect(page.locator("#card")).to_have_attribute("role", "status")
    page.keyboard.press("b")
    assert " b" in str(page.locator(".token.current").get_attribute("class"))
    page.keyboard.press("Escape")
    expect(page.locator("#card")).to_be_hidden()


def test_verdict_feedback_and_the_teachers_prompt_stand_beside_it(
    browser: Browser, url: str
) -> None:
    page = ready(browser, url).page
    view = page.locator(".attempt")
    expect(view.locator("h3")).to_have_text("q/0 ✗ failed")
    expect(view).to_contain_text("wrong in step 1")
    expect(view.locator("mark")).to_have_text(" Feedback: no.")  # what the student did not see


def test_before_and_after(browser: Browser, url: str) -> None:
    page = ready(browser, url).page
    page.get_by_role("button", name="Latest").click()
    views = page.locator(".attempt")
    expect(views).to_have_count(2)
    expect(views.nth(0)).to_contain_text("step 1 ·")
    expect(views.nth(1)).to_contain_text("step 6 ·")
    assert views.nth(0).locator("h3").inner_text() == views.nth(1).locator("h3").inner_text()
    expect(page.locator(".tokens")).to_have_count(2)
    page.get_by_label("The same question beside it").select_option("")
    expect(views).to_have_count(1)


def test_filters(browser: Browser, url: str) -> None:
    page = ready(browser, url).page
    count = page.locator("#count")
    page.locator("#scored").uncheck()
    expect(count).to_have_text("96 of 96 attempts")
    page.locator("#verdict").select_option("solved")
    expect(count).to_have_text("48 of 96 attempts")
    page.locator("#step").select_option("3")
    expect(count).to_have_text("8 of 96 attempts")
    page.locator("#verdict").select_option("")
    page.locator("#find").fill("WRONG in step 3")
    expect(count).to_have_text("8 of 96 attempts")  # of 16, those that have this feedback
    page.locator("#find").fill("there is no such text")
    expect(count).to_have_text("0 of 96 attempts")
    expect(page.locator("#shown")).to_have_text("No attempt is like that.")
    page.locator("#find").fill("")
    page.locator("#step").select_option("")
    page.locator("#scored").check()
    page.locator("#order").select_option("blamed")
    expect(count).to_have_text("24 of 96 attempts")
    gains = page.evaluate("() => chosenRows.map(({ gain }) => gain)")
    assert gains == sorted(gains)


def test_runs_side_by_side(browser: Browser, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, steps=steps) for name, steps in (("one", 2), ("two", 3))]
    url = written(tmp_path, *runs)
    seen = ready(browser, url)
    page = seen.page
    expect(page.locator("#name")).to_have_text("one · two")
    expect(page.locator("#tiles tbody tr")).to_have_count(2)
    legend = page.locator(".panel", has_text="Success rate").locator(".u-legend")
    expect(legend).to_contain_text("one: success")
    expect(legend).to_contain_text("two: success")
    expect(page.locator("#configs")).to_contain_text("run.steps")
    page.locator("#run").select_option("1")
    expect(page.locator("#count")).to_have_text("6 of 40 attempts")
    page.get_by_role("button", name="Earliest").click()
    expect(page.locator(".attempt")).to_have_count(2)
    assert_quiet(seen, url)


@pytest.mark.slow
def test_ten_thousand_attempts(browser: Browser, tmp_path: Path) -> None:
    """The time is printed; benchmarks/report.py is where it is measured."""
    run = write_run(tmp_path / "r", steps=40, questions=25, attempts=10, tokens=100, scored=2)
    url = written(tmp_path, run)
    assert (tmp_path / "page.html").stat().st_size < 20 * 2**20
    began = time.monotonic()
    seen = ready(browser, url)
    print(f"10,000 attempts opened in {time.monotonic() - began:.2f} s")
    page = seen.page
    page.locator("#scored").uncheck()
    expect(page.locator("#count")).to_have_text("10,000 of 10,000 attempts")
    page.locator("#list").focus()
    page.keyboard.press("End")
    expect(page.locator(".attempt h3")).to_have_text("q/9 ✓ solved")  # q/9 sorts last
    assert page.locator(".entry").count() < 60  # only what is in sight exists
    assert_quiet(seen, url)


# --- hostile text -------------------------------------------------------------------------------

HOSTILE = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "</template></style></textarea><img src=x onerror='window.pwned = 1'>",
    "<svg/onload=window.pwned=1><iframe src=javascript:parent.pwned=1>",
    "{{constructor.constructor('window.pwned = 1')()}} ${window.pwned = 1} <%= 1 %> {% raw %}",
    "<!--POLICY--><!--SCRIPT-->]]><link rel=stylesheet href=https://example.com/x.css>",
    "<a href='javascript:window.pwned=1'>x</a> http://example.com/ping",
    "nul\u0000 esc\u001b[31m bell\u0007 del\u007f",
    "\u202egnp.exe\u202c \u2066isolate\u2069 \u200bzero\u200b \ufeffbom \u2028line",
    "\ud83d\ude00 \u05d0\u05d1 \u0627\u0644 combining e\u0301 \ud800 lone",
    "x" * 60_000,
    "__proto__",
    "constructor",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hostile")
    run = write_run(folder / "run <b>", steps=1)
    write_hostile_step(run, 2, HOSTILE)
    (run / "config.yaml").write_text("model:\n  path: '</script><script>pwned = 1</script>'\n")
    return written(folder, run)


def test_what_a_model_wrote_does_nothing(browser: Browser, hostile: str) -> None:
    seen = ready(browser, hostile)
    page = seen.page
    page.on("dialog", lambda _: seen.complaints.append("a dialog"))
    page.locator("#step").select_option("2")
    page.locator("#scored").check()
    expect(page.locator("#count")).to_contain_text(f"{len(HOSTILE)} of")
    before = page.locator("*").count()
    for place, text in enumerate(sorted(HOSTILE)):
        page.evaluate("(place) => choose(place)", place)
        page.wait_for_function("(place) => pair[0] === chosenRows[place]", arg=place)
        expect(page.locator(".attempt")).to_have_count(1)
        page.mouse.move(2, 2)
        page.locator(".tokens .token").first.hover()
        expect(page.locator("#card")).to_be_visible()
        for tag in ("img", "iframe", "svg", "a:not([href^='#'])", "link:not([rel=icon])"):
            assert page.locator(f"body {tag}").count() == 0, text[:40]
    assert before > 100
    assert page.evaluate("() => typeof window.pwned") == "undefined"
    assert page.evaluate("() => document.scripts.length") == page.evaluate(
        "() => 4 + content.attempts[0].columns.block.at(-1) + 1"
    )
    assert_quiet(seen, hostile)


def test_what_one_could_not_see_is_spelled_out(browser: Browser, hostile: str) -> None:
    page = ready(browser, hostile).page
    page.locator("#find").fill("gnp.exe")
    expect(page.locator("#count")).to_contain_text("1 of")
    shown = page.locator(".attempt h3")
    expect(shown).to_have_text("RLOgnp.exePDF LRIisolatePDI ZWSPzeroZWSP BOMbom LSEPline ✗ failed")
    page.locator("#find").fill("bell")
    expect(shown).to_have_text("nulNUL escESC[31m bellU+0007 delDEL ✗ failed")
    for place in ("#rows", ".attempt", "#card"):
        text = page.locator(place).first.evaluate("(node) => node.textContent")
        assert not any(letter in text for letter in "\u0000\u001b\u202e\u2066\u200b")


def test_the_policy_would_stop_what_got_through(browser: Browser, hostile: str) -> None:
    """The second line of defence, tried from inside: markup, scripts, requests."""
    seen = ready(browser, hostile)
    answered: list[str] = []
    seen.page.on("requestfinished", lambda request: answered.append(request.url))
    refused = seen.page.evaluate(
        """async () => {
          const outcome = async (attempt) => {
            try { await attempt(); return "done"; } catch (error) { return "refused"; }
          };
          const element = (tag, more) => Object.assign(document.createElement(tag), more);
          const run = () => document.body.append(element("script", { textContent: "pwned = 1" }));
          return [
            await outcome(() => { document.body.innerHTML += "<img src=x onerror=pwned=1>"; }),
            await outcome(() => fetch("https://example.com/")),
            await outcome(run),
            await outcome(() => new Promise((done, fail) => document.body.append(
              element("img", { onload: done, onerror: fail, src: "https://example.com/x.png" })))),
          ];
        }"""
    )
    assert refused == ["refused"] * 4
    assert seen.page.evaluate("() => typeof window.pwned") == "undefined"
    assert answered == []


# --- for everybody ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, url: str, scheme: Any) -> None:
    page = ready(browser, url, color_scheme=scheme, bypass_csp=True).page
    page.get_by_role("button", name="Latest").click()
    expect(page.locator(".attempt")).to_have_count(2)
    page.locator(".tokens").first.focus()
    page.keyboard.press("ArrowRight")
    for summary in page.locator("summary").all():
        if not summary.evaluate("(node) => node.parentElement.open"):
            summary.click()
    assert axe.violations(page) == []


def test_axe_sees_faults(browser: Browser, url: str) -> None:
    """The test's own eyes."""
    page = ready(browser, url, bypass_csp=True).page
    page.evaluate("() => document.body.append(document.createElement('input'))")
    assert any("label" in violation for violation in axe.violations(page))


def test_it_fits_a_narrow_window(browser: Browser, url: str) -> None:
    page = ready(browser, url, viewport={"width": 390, "height": 800}).page
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_on_paper_the_attempt_and_the_curves_are_left(browser: Browser, url: str) -> None:
    page = ready(browser, url, color_scheme="dark").page
    page.emulate_media(media="print")
    for gone in ("nav", ".finder"):
        expect(page.locator(gone)).to_be_hidden()
    expect(page.locator(".tokens")).to_be_visible()
    assert len(page.pdf(format="A4", print_background=True)) > 10_000
