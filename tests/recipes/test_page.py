"""docs/recipes.md shows the layouts that the code chooses today, and the recipes that there are."""

from __future__ import annotations

import importlib
import re
from types import SimpleNamespace

from recipes.layouts_page import PAGE, filled


def test_the_computed_parts_are_of_today() -> None:
    page = PAGE.read_text()
    assert page == filled(page), "docs/recipes.md is out of date: run `make docs`"


def test_the_page_names_the_commands_that_there_are(nemo: SimpleNamespace) -> None:
    importlib.import_module("recipes.commands")
    named = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(nemo.run.cli.list_entrypoints()["sdpo"])
