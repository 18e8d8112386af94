"""Every setting says what it may be and what it means, and is read by something."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdpo_megatron.config.page import render
from sdpo_megatron.config.run import TrainConfig
from sdpo_megatron.fields.meaning import allowed, meaning
from sdpo_megatron.fields.reading import Setting, all_settings
from sdpo_megatron.judging.offline.config import OfflineConfig
from sdpo_megatron.judging.service.config import ServiceConfig

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    (setting.owner, setting.name): setting
    for cls in (TrainConfig, ServiceConfig, OfflineConfig)
    for setting in all_settings(cls)
}.values()


def label(setting: Setting) -> str:
    return f"{setting.owner.__name__}.{setting.name}"


@pytest.mark.parametrize("setting", SETTINGS, ids=label)
def test_every_setting_has_a_range_and_a_meaning(setting: Setting) -> None:
    values = allowed(setting.field)
    assert (
        "number" not in values or " at least " in values or " above " in values or " in " in values
    )
    assert meaning(setting.owner, setting.name)


def test_units_are_what_they_say() -> None:
    names = {setting.name for setting in SETTINGS}
    assert not [name for name in names if name.endswith(("_mb", "_kb", "_gb", "_ms", "_seconds"))]


def attributes(node: ast.AST) -> Iterator[str]:
    """Names read as attributes, or by getattr and the like, below `node`."""
    for found in ast.walk(node):
        if isinstance(found, ast.Attribute) and isinstance(found.ctx, ast.Load):
            yield found.attr


def names_read() -> set[str]:
    """Attribute names that the product reads outside of the classes that declare settings."""
    owners = {setting.owner.__name__ for setting in SETTINGS}
    found: set[str] = set()
    for top in ("sdpo_megatron", "serving"):
        for file in (REPOSITORY / top).rglob("*.py"):
            tree = ast.parse(file.read_text())
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and node.name in owners:
                    methods = (
                        part
                        for part in node.body
                        if isinstance(part, ast.FunctionDef) and part.name != "__post_init__"
                    )
                    for part in methods:
                        found.update(attributes(part))
                else:
                    found.update(attributes(node))
    return found


# Read by the names of the dataclass's fields: the five limits of a run, in one loop.
BY_NAME = {"cpu_s", "wall_s", "memory_mib", "processes"}


def test_no_setting_is_dead() -> None:
    read = names_read() | BY_NAME
    assert sorted(label(setting) for setting in SETTINGS if setting.name not in read) == []


def test_the_page_is_what_make_docs_writes() -> None:
    assert (REPOSITORY / "docs" / "settings.md").read_text() == render(), "run `make docs`"


PAGES = [
    REPOSITORY / "README.md",
    *(REPOSITORY / "docs").glob("*.md"),
    *(REPOSITORY / "sdpo_megatron" / "conf").rglob("*.yaml"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_setting_that_does_not_exist(page: Path) -> None:
    keys = [setting.key for setting in all_settings(TrainConfig)]
    groups = "|".join(sorted({key.partition(".")[0] for key in keys}))
    text = page.read_text().replace("run.executor", "")  # nemo-run's own
    named = re.findall(rf"(?<![\w./(-])(?:{groups})(?:\.[a-z_0-9]+)+(?![\w/(-])", text)
    assert [n for n in named if not any(k == n or k.startswith(f"{n}.") for k in keys)] == []


def test_the_page_has_every_key() -> None:
    page = render()
    missing = [s.key for s in all_settings(TrainConfig) if f"| `{s.key}` |" not in page]
    assert missing == []
