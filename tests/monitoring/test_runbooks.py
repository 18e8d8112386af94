"""What a page says of panels, alerts and settings exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdpo_megatron.monitoring.dashboards import DASHBOARDS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "runbooks").glob("Sdpo*.md"))
TITLES = {panel.title for page in DASHBOARDS for panel in page.panels}
TITLES |= {page.title.removeprefix("SDPO / ") for page in DASHBOARDS} | {"Rollouts"}
EMPHASIS = {"successful"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_panels_and_settings_that_it_names_exist(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"(?<!\*)\*([A-Za-z][^*\n]+)\*(?!\*)", text))
    assert named - TITLES - EMPHASIS == set()
    settings = (DOCS / "settings.md").read_text()
    keys = set(re.findall(r"`([a-z]+(?:\.[a-z_]+)+)(?:=[^`]*)?`", text))
    assert {key for key in keys if f"`{key}`" not in settings} == set()
