"""docs/metrics.md is what the declarations say."""

from __future__ import annotations

from pathlib import Path

from sdpo_megatron.judging.service.metrics import SERVICE
from sdpo_megatron.monitoring.metrics_page import render
from sdpo_megatron.observability.metrics import BY_KEY

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_what_the_declarations_say() -> None:
    page = PAGE.read_text()
    assert page == render(), "docs/metrics.md is out of date: run `make docs`"
    assert all(f"| `{key}` |" in page for key in BY_KEY)
    assert all(f"| `{series.name}" in page for series in SERVICE)
