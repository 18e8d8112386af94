"""Which records may follow which, and the state that they lead to."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.errors import LedgerError
from sdpo_megatron.rollout.ledger.book import Book


def book(*records: dict[str, Any]) -> Book:
    made = Book()
    for record in records:
        made.apply(record)
    return made


def plan(num: int) -> dict[str, Any]:
    return {"event": "plan", "num": num}


def lease(*positions: int, worker: str = "w") -> dict[str, Any]:
    return {"event": "lease", "positions": list(positions), "worker": worker, "seconds": 1.0}


def commit(position: int) -> dict[str, Any]:
    return {"event": "commit", "position": position, "receipt": {"file": str(position)}}


def batch(step: int, *positions: int) -> dict[str, Any]:
    return {"event": "batch", "step": step, "positions": list(positions)}


def saved(step: int, oldest: int) -> dict[str, Any]:
    return {"event": "saved", "step": step, "oldest": oldest}


THREE_STEPS = (
    plan(6),
    lease(0, 1, 2, 3, 4),
    *(commit(position) for position in range(4)),
    batch(1, 0, 1),
    saved(1, 1),
    batch(2, 2),
    saved(2, 1),
    batch(3, 3),
)


def test_trained_groups_are_forgotten_when_no_checkpoint_is_from_before() -> None:
    found = book(*THREE_STEPS)
    assert (found.forgotten, found.positions("trained"), found.positions("batched")) == (
        2,
        [2],
        [3],
    )
    assert found.num("trained") == 3
    assert found.of_step(2) == [2]
    assert 0 not in found
    assert sum(found.sums().values()) == found.planned == 6


def test_going_on_from_a_checkpoint_undoes_later_steps_and_no_earlier_one() -> None:
    newest = book(*THREE_STEPS, {"event": "resume", "step": 2})
    assert (newest.positions("trained"), newest.positions("committed")) == ([2], [3])
    older = book(*THREE_STEPS, {"event": "resume", "step": 1})
    assert (older.positions("trained"), older.positions("committed")) == ([], [2, 3])
    assert older.step == 1
    assert older.positions("waiting") == [4, 5]  # whoever had 4 is gone
    assert older.returned == {"restart": 1}
    older.apply(batch(2, 3))  # another choice than before is as good
    assert older.of_step(2) == [3]
    assert sum(older.sums().values()) == 6


@pytest.mark.parametrize("step", [0, 4])
def test_a_step_that_the_ledger_does_not_know_is_refused(step: int) -> None:
    with pytest.raises(LedgerError, match=f"goes on from step {step}, .* from step 1 to 3 only"):
        book(*THREE_STEPS, {"event": "resume", "step": step})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (lease(3), "lease of group 3, which is batched; expected waiting"),
        (commit(3), "commit of group 3, which is batched; expected waiting or leased"),
        (batch(4, 0), "batch of group 0, which is dropped, forgotten or not planned"),
        (batch(4, 9), "group 9, which is dropped, forgotten or not planned"),
        (batch(5, 4), "batch 5 follows batch 3"),
        ({"event": "again", "positions": [2], "reason": "x"}, "again of group 2, which is trained"),
        ({"event": "drop", "positions": [3], "reason": "x"}, "drop of group 3, which is batched"),
        (lease(5, 5), "names a group twice"),
        (saved(4, 1), "a checkpoint of step 4"),
        (saved(1, 1), "when 2"),
        ({"event": "x"}, "unknown event 'x'"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    record: dict[str, Any], message: str
) -> None:
    found = book(*THREE_STEPS)
    with pytest.raises(LedgerError, match=message):
        found.apply(record)
    assert found == book(*THREE_STEPS)


def test_a_late_receipt_commits_a_group_that_was_taken_back() -> None:
    found = book(plan(1), lease(0), {"event": "again", "positions": [0], "reason": "expired"})
    found.apply(commit(0))
    assert found.positions("committed") == [0]
    assert found[0].tries == 1
