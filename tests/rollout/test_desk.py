"""Leases, receipts and batches under kills: nothing is lost, nothing is trained on twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo_megatron.rollout.admission import choose, is_stale, room
from sdpo_megatron.rollout.desk import Desk
from sdpo_megatron.rollout.ledger.ledger import Ledger
from sdpo_megatron.rollout.ledger.lines import Place
from tests.rollout.simulated_run import Run

STEPS = 3


def test_room_is_that_of_the_paper() -> None:
    """running + accepted < (eta + v + 1) x batch."""

    def left(running: int, accepted: int, trained_batches: int, eta: int, last: int = 99) -> int:
        return room(
            running=running, accepted=accepted, trained_batches=trained_batches, batch=4,
            eta=eta, last=last,
        )  # fmt: skip

    assert left(0, 0, trained_batches=0, eta=0) == 4
    assert left(3, 1, trained_batches=0, eta=0) == 0
    assert left(1, 6, trained_batches=1, eta=1) == 5
    assert left(9, 6, trained_batches=1, eta=1) == 0
    assert left(1, 6, trained_batches=1, eta=1, last=2) == 1  # of the last batch


def test_what_is_too_old_and_who_comes_first() -> None:
    assert [is_stale(oldest, 5, 2) for oldest in (2, 3, 5, None)] == [True, False, False, False]
    groups = [(7, {"oldest_version": 3}), (5, {"oldest_version": 4}), (6, {"oldest_version": 3})]
    assert choose(groups, 2, eta=1) == [6, 7]  # the oldest, in the order of questions
    assert choose(groups, 2, eta=0) == [5, 6]
    assert choose(groups, 4, eta=1) is None


def simulate(
    folder: Path, seed: int, eta: int, replaced: int, kill_at: int = -1, torn: float = 0.0
) -> Run:
    run = Run(folder, seed, eta=eta, max_replaced=replaced)
    run.kill_at, run.torn = kill_at, torn
    with pytest.MonkeyPatch.context() as patch:
        run.live(patch, STEPS)
    run.check(STEPS)
    return run


def test_killed_between_each_two_writes_of_the_ledger(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Before a write (after the last one) and in the middle of it: every write of a run in turn."""
    writes = simulate(tmp_path_factory.mktemp("run"), 1, 1, 2).writes
    assert writes > 20
    for kill_at in range(writes):
        for torn in (0.0, 0.5):
            run = simulate(tmp_path_factory.mktemp("run"), 1, 1, 2, kill_at, torn)
            assert run.kill_at == -1  # it was killed


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    eta=st.integers(0, 3),
    replaced=st.integers(0, 3),
    kills=st.lists(st.integers(0, 40), max_size=6),
)
def test_any_number_of_kills_at_any_writes(
    seed: int, eta: int, replaced: int, kills: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = Run(tmp_path_factory.mktemp("run"), seed, eta=eta, max_replaced=replaced)
    with pytest.MonkeyPatch.context() as patch:
        for kill in kills:
            run.kill_at, run.writes, run.torn = kill, 0, run.draw.random()
            run.live_once(patch, STEPS)
        run.kill_at = -1
        run.live(patch, STEPS)
    run.check(STEPS)


def test_a_group_whose_file_is_gone_or_altered_is_made_again(tmp_path: Path) -> None:
    run = Run(tmp_path, 0, eta=1)
    run.start()
    for lease in run.desk.lease("w", 3):
        run.desk.commit(run.make(lease, 0))
    lost, altered = (tmp_path / "groups" / f"00000000{n}-000.bin" for n in (1, 2))
    lost.unlink()
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")
    run.start()
    assert +run.desk.ledger.book.returned == {"file_lost": 2}
    again = [(lease.position, lease.number) for lease in run.desk.lease("w", 3)]
    assert again == [(1, 1), (2, 1), (3, 0)]


def test_groups_of_lost_weights_are_made_again(tmp_path: Path) -> None:
    """Killed after step 2 with a checkpoint of step 1 only: version 2 is gone with all it made."""
    run = Run(tmp_path, 0, eta=1)
    run.start()
    run.draw.random = lambda: 0.6  # type: ignore[method-assign]  # no checkpoints
    while run.step < 2:
        for lease in run.desk.lease("w", 3):
            run.desk.commit(run.make(lease, run.step))
        run.train()
    for lease in run.desk.lease("w", 3):
        run.desk.commit(run.make(lease, 2))
    run.start()
    book = run.desk.ledger.book
    assert book.step == 0
    assert book.returned["abandoned"] == 6  # of versions 1 and 2
    assert book.num("committed") == 3
    assert len(list((tmp_path / "groups").glob("*.bin"))) == 3


def test_a_group_that_takes_very_long_holds_no_batch(tmp_path: Path) -> None:
    run = Run(tmp_path, 0, eta=1)
    run.start()
    first, *others = run.desk.lease("w", 6)
    for lease in others:
        run.desk.commit(run.make(lease, 0))
    batch = run.desk.cut(1, 0)
    assert batch is not None
    assert [group.lease.position for group in batch] == [1, 2, 3]
    run.trained.append((1, 2, 3))
    run.desk.admit(1)
    run.desk.commit(run.make(first, 0))  # in time for the next one, and then the oldest goes first
    following = run.desk.cut(2, 1)
    assert following is not None
    assert [group.lease.position for group in following] == [0, 4, 5]


def test_the_first_receipt_counts_and_later_ones_leave_no_file(tmp_path: Path) -> None:
    run = Run(tmp_path, 0, eta=0)
    run.start()
    slow = run.desk.lease("w", 1)[0]
    run.clock = 5.0
    assert run.desk.expire() == [0]
    fast = run.desk.lease("other", 1)[0]
    assert (fast.position, fast.number) == (0, 1)
    receipt = run.make(slow, 0)
    assert run.desk.commit(receipt)  # late, and still the first
    assert not run.desk.commit(run.make(fast, 0))
    assert not run.desk.commit(receipt)  # told twice
    assert run.desk.late == 2
    assert [path.name for path in (tmp_path / "groups").iterdir()] == ["000000000-000.bin"]


def test_nothing_is_begun_before_engines_have_weights_and_after_the_last_batch(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path)
    desk = Desk(ledger, tmp_path / "groups", batch=3, eta=2, steps=2, lease_s=5.0)
    desk.resume(0, 0, Place())
    assert desk.lease("w", 100) == []
    desk.admit(0)
    assert [lease.position for lease in desk.lease("w", 4)] == [0, 1, 2, 3]
    assert [lease.position for lease in desk.lease("v", 100)] == [4, 5]  # of two batches
    assert (desk.held_by("w"), desk.held_by("v")) == (4, 2)
    desk.drop(1, "stale")
    desk.drop(1, "stale")  # told twice
    assert ledger.book.dropped == {"stale": 1}
    assert [lease.position for lease in desk.lease("w", 100)] == [6]  # in its place
    assert desk.worker_gone("v") == [4, 5]
    assert desk.held_by("v") == 0
