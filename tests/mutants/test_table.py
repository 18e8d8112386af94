"""The table of mutants does not rot: each still applies, and its test is still there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, Mutant

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_text_occurs_exactly_once(mutant: Mutant) -> None:
    source = (REPOSITORY / mutant.file).read_text()
    assert source.count(mutant.text) == 1, f"say in tests/mutants/table.py what {mutant.file} says"
    if mutant.file.endswith(".py"):
        ast.parse(source.replace(mutant.text, mutant.instead))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_test_that_kills_it_exists(mutant: Mutant) -> None:
    file, _, name = mutant.killed_by.partition("::")
    names = {
        node.name
        for node in ast.walk(ast.parse((REPOSITORY / file).read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert not name or name in names


def test_names_are_different() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
