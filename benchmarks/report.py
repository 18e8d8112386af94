"""How large a report is and how long it takes to write and to open: `python benchmarks/report.py`.

A made-up run of 10,000 attempts of 200 tokens, a fifth of them with the teacher's view; and one of
which nothing like all fits. Headless Chromium opens the page three times.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from sdpo_megatron.report.blocks import BlockCache
from sdpo_megatron.report.page import report_page
from tests.browser import started
from tests.report.runs import write_run

CASES = {
    "10,000 attempts": {"steps": 40, "questions": 25, "attempts": 10, "tokens": 200, "scored": 2},
    "more than fits": {"steps": 20, "questions": 16, "attempts": 8, "tokens": 3000, "scored": 1},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="all by default")
    for name in parser.parse_args().cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"case": name, **measure(Path(folder), CASES[name])}), flush=True)


def measure(folder: Path, shape: dict[str, int]) -> dict[str, object]:
    """Sizes and seconds of a run of this shape."""
    cache = BlockCache(write_run(folder / "run", **shape))
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        text = report_page([cache])
        seconds.append(round(time.monotonic() - began, 2))
    page = folder / "page.html"
    page.write_text(text, encoding="utf-8")
    opened = []
    with started() as browser:
        for _ in range(3):
            window = browser.new_page()
            began = time.monotonic()
            window.goto(page.as_uri())
            window.wait_for_selector("html[data-ready]")
            opened.append(round(time.monotonic() - began, 2))
            attempts = window.evaluate("() => entries.length")
            window.close()
    return {
        "attempts": attempts,
        "file_mib": round(page.stat().st_size / 2**20, 1),
        "first_writing_s": seconds[0],
        "further_writing_s": seconds[1],
        "opening_s": opened,
    }


if __name__ == "__main__":
    main()
