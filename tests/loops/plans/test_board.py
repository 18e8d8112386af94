"""A plan is heard of without a collective, and so is a request to stop."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from torch.distributed import HashStore, TCPStore

from sdpo_megatron.errors import PeerLost
from sdpo_megatron.loops.plans import board as plan_board
from sdpo_megatron.loops.plans.board import PlanBoard
from sdpo_megatron.loops.stop import StopRequest
from tests.distributed import rank_processes


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_board, "_MOST_S", 0.01)


def test_who_waits_hears_of_its_own_step() -> None:
    board, heard = PlanBoard(HashStore()), []
    waiting = threading.Thread(target=lambda: heard.append(board.wait(1, StopRequest())))
    board.announce(0, "step-000001.plan")
    waiting.start()
    waiting.join(0.1)
    assert heard == []  # the plan of step 0 is none of step 1
    board.announce(1, "step-000002.plan")
    waiting.join(10)
    assert heard == ["step-000002.plan"]
    assert board.wait(0, StopRequest()) == "step-000001.plan"  # who comes late hears of it too


def test_that_there_will_be_no_plan_is_heard_too() -> None:
    board = PlanBoard(HashStore())
    board.announce(4, None)
    assert board.wait(4, StopRequest()) is None


def test_a_rank_that_is_asked_tells_rank_0_and_rank_0_decides() -> None:
    board, first, other, heard = PlanBoard(HashStore()), StopRequest(), StopRequest(), []
    other.ask()
    waiting = threading.Thread(target=lambda: heard.append(board.wait(0, other)))
    with board.relaying(first):
        waiting.start()
        deadline = time.monotonic() + 10
        while not first.asked and time.monotonic() < deadline:
            time.sleep(0.005)
        assert first.asked
        assert heard == []  # it still waits for what rank 0 makes of it
        board.announce(0, None)
        waiting.join(10)
    assert heard == [None]


def keep_store(port: Any, ready: Any, done: Any) -> None:
    """A process that hosts the store, as rank 0 does, until it is told to end."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port.value = store.port
    ready.set()
    done.wait()
    del store
    os._exit(0)


@pytest.mark.slow
def test_a_store_that_is_gone_is_a_lost_peer_not_a_wait_for_ever() -> None:
    context = rank_processes()
    ready, done, port = context.Event(), context.Event(), context.Value("i", 0)
    host = context.Process(target=keep_store, args=(port, ready, done))
    host.start()
    assert ready.wait(60)
    board = PlanBoard(TCPStore("127.0.0.1", port.value, is_master=False, wait_for_workers=False))
    board.announce(1, "x")
    assert board.wait(1, StopRequest()) == "x"
    done.set()
    host.join()
    with pytest.raises(PeerLost, match="while the plan of step 2 was waited for, the store"):
        board.wait(2, StopRequest())


def test_nobody_asked_nobody_stops() -> None:
    stop = StopRequest()
    with PlanBoard(HashStore()).relaying(stop):
        time.sleep(0.05)
    assert not stop.asked
    assert not [thread for thread in threading.enumerate() if thread.name == "stop-relay"]


def test_waiting_longer_is_asking_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look comes at once, later ones after a twentieth of the wait, up to the bound."""
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds
        if now[0] > 100:
            board.announce(0, "x")

    monkeypatch.setattr(plan_board, "_MOST_S", 0.5)
    monkeypatch.setattr(plan_board.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(plan_board.time, "sleep", sleep)
    board = PlanBoard(HashStore())
    board.wait(0, StopRequest())
    assert slept[0] == 0.002
    assert max(slept) == slept[-1] == 0.5
    assert len(slept) < 400
    ends = [sum(slept[: i + 1]) for i in range(0, len(slept), 20)]
    assert all(s <= max(0.002, 0.0501 * end) for s, end in zip(slept[::20], ends, strict=True))
