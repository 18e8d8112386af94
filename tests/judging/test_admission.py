"""Admission by deadline: what is refused, with which Retry-After, and what was measured for it."""

from __future__ import annotations

import pytest

from sdpo_megatron.judging.service import admission
from sdpo_megatron.judging.service.admission import Admission, Refused

SLOW, QUICK = "slow", "quick"


class Clock:
    """Stands in for the module `time`, so that seconds are exact."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(admission, "time", made)
    return made


def judged(admission: Admission, clock: Clock, verifier: str, seconds: float) -> None:
    """One item, alone, from the door to its end."""
    admission.admit([verifier], None)
    ticket = admission.begin(verifier)
    clock.now += seconds
    assert admission.end(ticket) == seconds
    admission.leave(verifier)


def test_before_anything_was_measured_a_worker_each_is_accepted_and_no_more(clock: Clock) -> None:
    door = Admission(workers=4, queue_size=1000)
    for _ in range(4):
        door.admit([SLOW], 10.0)
        door.begin(SLOW)
    clock.now += 3.5
    with pytest.raises(Refused, match="not known before the first one is judged") as refused:
        door.admit([SLOW], 10.0)
    assert refused.value.retry_after_s == 4  # as long as they have been running: it was measured
    door.admit([SLOW], None)  # who has no deadline may wait


def test_of_1000_slow_items_those_are_accepted_that_can_be_judged_in_time(clock: Clock) -> None:
    door = Admission(workers=4, queue_size=1024)
    judged(door, clock, SLOW, 1.0)
    accepted = 0
    for _ in range(1000):
        try:
            door.admit([SLOW], 10.0)
            accepted += 1
        except Refused as refused:
            last = refused
    assert accepted == 40  # 4 workers, 1 s each, 10 s
    assert last.retry_after_s == 1  # the next place: 10.25 s against 10


def test_what_running_items_have_behind_them_is_not_waited_for(clock: Clock) -> None:
    door = Admission(workers=1, queue_size=9)
    judged(door, clock, SLOW, 10.0)
    door.admit([SLOW], None)
    door.begin(SLOW)
    with pytest.raises(Refused, match=r"would end in about 20\.0 s, and its deadline is 15 s") as r:
        door.admit([SLOW], 15.0)
    assert r.value.retry_after_s == 5
    clock.now += 6.0
    door.admit([SLOW], 15.0)


def test_a_batch_is_measured_as_a_whole_and_by_its_verifiers(clock: Clock) -> None:
    door = Admission(workers=2, queue_size=1000)
    judged(door, clock, SLOW, 4.0)
    judged(door, clock, QUICK, 0.5)
    with pytest.raises(Refused, match=r"about 20\.0 s"):
        door.admit([SLOW] * 10, 19.0)
    door.admit([QUICK] * 10, 3.0)
    with pytest.raises(Refused, match=r"about 4\.5 s"):  # 2.5 s of the others before it
        door.admit([SLOW], 4.0)


def test_one_item_longer_than_its_deadline_is_refused_even_by_an_idle_service(clock: Clock) -> None:
    door = Admission(workers=8, queue_size=9)
    judged(door, clock, SLOW, 30.0)
    with pytest.raises(Refused, match=r"about 30\.0 s, and its deadline is 5 s"):
        door.admit([SLOW], 5.0)


def test_what_was_measured_long_ago_does_not_refuse_for_ever(clock: Clock) -> None:
    door = Admission(workers=1, queue_size=9)
    judged(door, clock, SLOW, 30.0)  # the first one, with its imports
    with pytest.raises(Refused):
        door.admit([SLOW], 5.0)
    clock.now += admission.STALE_S + 1.0
    door.admit([SLOW], 5.0)


def test_the_queue_has_a_bound_whatever_the_deadline(clock: Clock) -> None:
    door = Admission(workers=2, queue_size=10)
    judged(door, clock, SLOW, 3.0)
    door.admit([SLOW] * 9, None)
    assert not door.full
    with pytest.raises(Refused, match="the queue is full") as refused:
        door.admit([SLOW] * 2, None)
    assert refused.value.retry_after_s == 14  # 9 items of 3 s on 2 workers
    door.admit([SLOW], None)
    assert door.full


def test_first_measurements_count_alike_and_later_ones_little(clock: Clock) -> None:
    door = Admission(workers=1, queue_size=1000)
    for seconds in (9.0, 1.0, 2.0):
        judged(door, clock, SLOW, seconds)
    with pytest.raises(Refused, match=r"about 4\.0 s"):
        door.admit([SLOW], 3.9)
    for _ in range(200):
        judged(door, clock, SLOW, 1.0)
    door.admit([SLOW], 1.1)
