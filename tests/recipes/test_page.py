"""docs/recipes.md shows the layouts that the code chooses today, and the recipes that there are."""

from __future__ import annotations

import re
import subprocess
import sys

from recipes.layouts_page import PAGE, filled


def test_the_computed_parts_are_of_today() -> None:
    page = PAGE.read_text()
    assert page == filled(page), "docs/recipes.md is out of date: run `make docs`"


def test_the_page_names_the_commands_that_there_are() -> None:
    program = (
        "import recipes.commands, nemo_run\n"
        "print(*sorted(nemo_run.cli.list_entrypoints()['sdpo']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    named = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(named) == done.stdout.splitlines()[-1].split()
