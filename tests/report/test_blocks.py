"""Blocks of attempts: what is in them, and which fit."""

from __future__ import annotations

import base64
import json
import time
import zlib
from pathlib import Path
from typing import Any

from sdpo_megatron.report.attempts import attempts_of_step
from sdpo_megatron.report.blocks import INDEXED, Block, BlockCache, spread
from tests.report import runs

PLENTY = 10**9


def inflated(block: Block) -> list[dict[str, Any]]:
    return json.loads(zlib.decompress(base64.b64decode(block.data)))  # type: ignore[no-any-return]


def test_all_attempts_are_in_blocks_scored_ones_first(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path, steps=2)
    chosen = BlockCache(run).select(PLENTY, PLENTY)
    assert (chosen.num_recorded, chosen.complete) == (2, True)
    assert [(b.step, b.scored, len(b.rows)) for b in chosen.blocks] == [
        (1, True, 2), (1, False, 6), (2, True, 2), (2, False, 6),
    ]  # fmt: skip
    for block in chosen.blocks:
        expected = [a for a in attempts_of_step(run, block.step) if ("gap" in a) is block.scored]
        assert inflated(block) == expected
        assert list(block.rows) == [tuple(a.get(name) for name in INDEXED) for a in expected]


def test_large_steps_are_cut_into_blocks_that_inflate_quickly(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path, steps=1, questions=3, attempts=10, tokens=9000, scored=0)
    blocks = BlockCache(run).select(PLENTY, PLENTY).blocks
    assert len(blocks) > 3
    assert sum(len(block.rows) for block in blocks) == 30
    assert max(len(json.dumps(inflated(block))) for block in blocks) < 400_000


def test_where_not_all_fit_scored_ones_come_first_and_steps_are_spread(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path, steps=9)
    chosen = BlockCache(run).select(10, PLENTY)
    assert not chosen.complete
    assert [(b.step, b.scored) for b in chosen.blocks] == [(s, True) for s in (1, 2, 4, 8, 9)]
    size = len(chosen.blocks[0].data) * 3
    few = BlockCache(run).select(PLENTY, size)
    assert sum(len(block.data) for block in few.blocks) <= size
    assert {1, 9} <= {block.step for block in few.blocks}


def test_every_beginning_of_the_order_is_spread_over_the_run() -> None:
    steps = list(range(1, 65))
    order = spread(steps)
    assert sorted(order) == steps
    assert order[:5] == [64, 1, 32, 16, 48]
    gaps = [b - a for a, b in zip(sorted(order[:17]), sorted(order[:17])[1:], strict=False)]
    assert max(gaps) <= 4
    assert spread([]) == []
    grown = spread([*steps, 65])
    assert [s for s in grown if s not in (64, 65)] == [s for s in order if s != 64]


def test_only_what_changed_is_read_again(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path, steps=3)
    cache = BlockCache(run)
    before = cache.select(PLENTY, PLENTY).blocks
    runs.write_hostile_step(run, 2, ["other"])
    after = cache.select(PLENTY, PLENTY).blocks
    same = [any(block is old for old in before) for block in after]
    assert same == [block.step != 2 for block in after]
    assert [len(b.rows) for b in after if b.step == 2] == [1]


def test_what_is_not_read_in_time_is_left_for_the_next_time(tmp_path: Path) -> None:
    cache = BlockCache(runs.write_run(tmp_path, steps=3))
    late = cache.select(PLENTY, PLENTY, until=time.monotonic() - 1)
    assert (late.blocks, late.complete) == ((), False)
    assert cache.select(PLENTY, PLENTY).complete
