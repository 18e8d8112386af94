"""The recipes are the authors', value by value; what differs says why, and the page shows it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from recipes.paper import FACTS, OPTIONS, RECIPES, RULES, Fact
from recipes.paper_page import differences, ours, render
from sdpo_megatron import config

PAGE = Path(__file__).parents[2] / "docs" / "recipes-and-the-paper.md"
# Groups that decide what is computed; the rest says where and how fast.
GROUPS = ("batch", "objective", "optimizer", "teacher", "precision", "validation")
GROUPS += ("rollout.sampling", "rollout.teacher_prompt")


@cache
def composed() -> dict[str, dict[str, Any]]:
    return {recipe: ours(recipe) for recipe in RECIPES}


def test_every_experiment_of_the_paper_is_compared() -> None:
    names = {path.stem for path in (config.CONF / "experiment").glob("*.yaml")}
    ours = {n for n in names if n.startswith("quickstart")} | {"small", "hidden_api", "python_tool"}
    assert names - ours - {"paper"} == set(RECIPES)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.key)
def test_the_recipes_are_theirs_but_for_what_has_a_reason(fact: Fact) -> None:
    assert sorted(differences(fact, composed())) == sorted(fact.differs)
    assert bool(fact.differs) == bool(fact.reason)


def test_a_recipe_that_drifts_is_noticed() -> None:
    fact = next(fact for fact in FACTS if fact.key == "teacher.cadence")
    drifted = {name: dict(values) for name, values in composed().items()}
    drifted["livecodebench"]["teacher.cadence"] = "per_optimizer_step"
    assert differences(fact, drifted) == ["livecodebench"]


def test_every_setting_that_decides_what_is_computed_is_in_the_table() -> None:
    known = {fact.key for fact in FACTS} | OPTIONS.keys()
    settings = {key for values in composed().values() for key in values}
    mine = {key for key in settings if key.startswith(tuple(f"{group}." for group in GROUPS))}
    assert mine - known == set()
    assert known - settings == set()


def test_the_page_is_what_the_recipes_say() -> None:
    assert PAGE.read_text() == render(), f"docs/{PAGE.name} is out of date: run `make docs`"


def test_cells_do_not_break_the_table() -> None:
    for rule in RULES:
        assert "|" not in f"{rule.name}{rule.theirs}{rule.ours}{rule.reason}"
    columns = [line.count("|") for line in render().splitlines() if line.startswith("| `batch")]
    assert set(columns) == {5, 3}
