"""A plan as a file: every rank reads its own line of it, and nothing that was altered."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpo_megatron.actor.batches.plan import StepPlanner
from sdpo_megatron.actor.batches.share import contents
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.actor.config import ActorConfig, BatchConfig
from sdpo_megatron.errors import GroupFileError
from sdpo_megatron.loops.plans.file import (
    plan_from_bytes,
    plan_to_bytes,
    read_plan,
    write_plan,
)
from sdpo_megatron.nouns import GroupLease, GroupReceipt
from tests.actor.batches.test_plan import SPEC
from tests.actor.worlds import made_up_samples

RANKS = 3


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[GroupReceipt]]:
    samples = made_up_samples(2, questions=6, attempts=5)
    groups = [
        GroupReceipt(
            lease=GroupLease(q), question_id=f"q{q}", attempts=5, dropped=0,
            samples=tuple(s.receipt() for s in samples[5 * q : 5 * q + 5]), oldest_version=None,
            file=f"{q}.bin", bytes=1, crc32=100 + q,
        )
        for q in range(6)
    ]  # fmt: skip
    config = ActorConfig(
        batch=BatchConfig(questions=6, questions_per_step=2, micro_batch_tokens=60)
    )
    plans = StepPlanner(config, SPEC, num_ranks=RANKS).plan(SampleTable.of_groups(groups), 7)
    path = tmp_path / "step-000008.plan"
    write_plan(path, 8, plans, groups)
    for rank, plan in enumerate(plans):  # what every other test may rely on
        read = read_plan(path, rank)
        assert [(read.files[number][0], place) for number, place in contents(read.plan)] == [
            (groups[number].file, place) for number, place in contents(plan)
        ]
        for got, want in zip(read.plan, plan, strict=True):
            assert (got.counts, got.flops, got.lengths) == (want.counts, want.flops, want.lengths)
            assert list(map(len, got.micro_batches)) == list(map(len, want.micro_batches))
        assert plan_from_bytes(plan_to_bytes(plan)) == plan
    return path, groups


def test_a_rank_is_told_of_no_file_that_it_does_not_need(
    written: tuple[Path, list[GroupReceipt]],
) -> None:
    path, groups = written
    crc32 = {group.file: group.crc32 for group in groups}
    for rank in range(RANKS):
        read = read_plan(path, rank)
        assert {number for number, _ in contents(read.plan)} == set(range(len(read.files)))
        assert all(crc32[name] == found for name, found in read.files)


def test_altered_missing_or_of_another_layout(written: tuple[Path, list[GroupReceipt]]) -> None:
    path, _ = written
    with pytest.raises(GroupFileError, match="it is for 3 ranks, this is rank 3"):
        read_plan(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + b"7" + whole[-2:])
    read_plan(path, 0)
    with pytest.raises(GroupFileError, match="checksum of rank 2's line is wrong"):
        read_plan(path, 2)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GroupFileError, match=r"checksum|cannot be read"):
        read_plan(path, 2)
    path.write_bytes(b"")
    with pytest.raises(GroupFileError, match="cannot be read"):
        read_plan(path, 0)
    path.unlink()
    with pytest.raises(GroupFileError, match=r"No such file.*share"):
        read_plan(path, 0)
