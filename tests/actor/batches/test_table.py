"""Lengths and names of samples, whether they come from receipts or lie in memory."""

from __future__ import annotations

from sdpo_megatron.actor.batches.counts import StepCounts
from sdpo_megatron.actor.batches.packing import Role, sequence_length
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.nouns import GroupLease, GroupReceipt, TrainSample
from tests.actor.worlds import made_up_samples

SAMPLES = made_up_samples(4)
ROLES: tuple[Role, ...] = ("student", "teacher", "null")


def receipt(question: str, samples: list[TrainSample]) -> GroupReceipt:
    return GroupReceipt(
        lease=GroupLease(0), question_id=question, attempts=len(samples), dropped=0,
        samples=tuple(sample.receipt() for sample in samples), oldest_version=None, file="f",
        bytes=0, crc32=0,
    )  # fmt: skip


def test_lengths_are_those_of_the_samples() -> None:
    table = SampleTable.of_samples(SAMPLES)
    for multiple in (1, 4):
        for role in ROLES:
            expected = [sequence_length(s, role, multiple_of=multiple) for s in SAMPLES]
            assert table.tokens(role, multiple_of=multiple).tolist() == expected
    longest = [max(sequence_length(s, role) for role in ROLES) for s in SAMPLES]
    assert table.longest().tolist() == longest


def test_receipts_say_what_the_samples_do() -> None:
    groups = [receipt(f"q{q}", SAMPLES[4 * q : 4 * q + 4]) for q in range(3)]
    table, whole = SampleTable.of_groups(groups), SampleTable.of_samples(SAMPLES)
    assert table.longest().tolist() == whole.longest().tolist()
    assert (table.question_ids, table.index) == (whole.question_ids, whole.index)
    assert table.places == [(q, i) for q in range(3) for i in range(4)]
    assert StepCounts.of(table) == StepCounts.of(whole)


def test_a_question_asked_three_times_has_samples_of_twelve_names() -> None:
    group = receipt("q", SAMPLES[:4])
    table = SampleTable.of_groups([group] * 3)
    assert table.index == list(range(12))


def test_counts_are_of_the_rows_and_of_what_has_weight() -> None:
    table = SampleTable.of_samples(SAMPLES)
    for rows in (range(len(SAMPLES)), [0, 3, 5]):
        chosen = [SAMPLES[row] for row in rows]
        counts = StepCounts.of(table, list(rows))
        assert counts.distill.samples == counts.policy.samples == len(chosen)
        assert counts.distill.tokens == sum(s.loss_mask.sum() for s in chosen if s.distill_weight)
        assert counts.policy.tokens == sum(s.loss_mask.sum() for s in chosen if s.policy_weight)
