"""Machines divided otherwise between trainer and engines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdpo_megatron.planning.division import best_division, step_bound_s
from sdpo_megatron.planning.loads import synchronous_s
from sdpo_megatron.planning.request import Request
from tests.planning.cases import model

ASKED = Request.read(
    [
        *("experiment=science", "shape=qwen3-8b", "nodes=8", "engine_nodes=8", "response=3000"),
        *("batch.questions=128", "max_staleness=8", "transport=distributed"),
    ]
)


def test_the_best_is_no_slower_than_what_was_asked() -> None:
    best = best_division(ASKED)
    assert best is not None
    assert best.nodes + best.engine_nodes == 16
    asked, _ = ASKED.plan()
    assert best.step_s <= step_bound_s(asked, 8)
    found, _ = replace(ASKED, nodes=best.nodes, engine_nodes=best.engine_nodes).plan()
    assert best.step_s == step_bound_s(found, 8)


def test_work_for_engines_alone_gives_them_the_machines() -> None:
    """Few attempts are taught, so that training is nothing beside decoding."""
    best = best_division(replace(ASKED, taught=0.01))
    assert best is not None
    assert best.engine_nodes >= 14


def test_lockstep_is_bound_by_all_phases_and_running_ahead_by_the_busiest() -> None:
    one = model()
    assert step_bound_s(one, 0) == synchronous_s(one)
    slow = model(cluster={"judges": 1})
    assert step_bound_s(slow, 1) == pytest.approx(256 * 0.25)


def test_a_machine_that_both_share_has_no_other_division() -> None:
    assert best_division(replace(ASKED, nodes=1, engine_nodes=0)) is None
