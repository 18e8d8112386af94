"""Several machines as one run: their places, and how one learns of the others."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sdpo_megatron.errors import ConfigError, PeerLost
from sdpo_megatron.exit_codes import DONE, FAILED, STOPPED
from sdpo_megatron.loops.launching import nodes
from sdpo_megatron.loops.launching.nodes import Peers, Place
from sdpo_megatron.ports import hold_port
from tests.loops import runs


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        ({"NNODES": "1", "NODE_RANK": "0"}, Place()),
        (
            {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"},
            Place(1, 2, "a", 7),
        ),
        ({"NNODES": "3", "JOB_COMPLETION_INDEX": "2", "MASTER_ADDR": "a"}, Place(2, 3, "a", 29500)),
    ],
)
def test_the_place_comes_from_the_environment(environment: dict[str, str], place: Place) -> None:
    assert Place.of_environment(environment) == place


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"NNODES": "two"}, "NNODES='two': expected a whole number"),
        ({"NNODES": "2"}, "NODE_RANK .or JOB_COMPLETION_INDEX. must be set, from 0 to 1"),
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "from 0 to 1; got '2'"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "set MASTER_ADDR"),
    ],
)
def test_a_wrong_environment_says_what_to_set(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Place.of_environment(environment)


def test_every_machine_runs_as_many_ranks() -> None:
    assert list(Place(1, 2).local_ranks(4)) == [2, 3]
    assert list(Place().local_ranks(3)) == [0, 1, 2]
    with pytest.raises(ConfigError, match="NNODES=2 does not divide the 3 ranks"):
        Place(0, 2).local_ranks(3)


class Told:
    """What a launcher hears from `Peers.watch`."""

    def __init__(self) -> None:
        self.stops = 0
        self.losses: list[str] = []

    def stop(self) -> None:
        self.stops += 1

    def hears(self, condition: Callable[[Told], bool]) -> bool:
        deadline = time.monotonic() + 60
        while not condition(self) and time.monotonic() < deadline:
            time.sleep(0.01)
        return condition(self)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Peers, Peers]]:
    """Two machines that have met."""
    monkeypatch.setattr(nodes, "_BEAT_S", 0.02)
    with ExitStack() as stack:
        port = free_pair()
        first = stack.enter_context(Peers(Place(0, 2, "127.0.0.1", port), silence_s=0.5))
        second = stack.enter_context(Peers(Place(1, 2, "127.0.0.1", port), silence_s=0.5))
        yield first, second


def free_pair() -> int:
    """A port whose upper neighbour is free too."""
    while True:
        with hold_port("127.0.0.1") as held:
            port = int(held.getsockname()[1])
            try:
                hold_port("127.0.0.1", port + 1).close()
                return port
            except OSError:
                continue


def watched(peers: Peers) -> Told:
    told = Told()
    peers.watch(told.stop, told.losses.append)
    return told


def test_the_others_wait_for_the_run_folder(pair: tuple[Peers, Peers]) -> None:
    first, second = pair
    threading.Timer(0.1, first.tell_prepared, ("/runs/a b", 7)).start()
    assert second.wait_prepared() == ("/runs/a b", 7)


def test_a_request_to_stop_reaches_every_machine_once(pair: tuple[Peers, Peers]) -> None:
    told = [watched(peers) for peers in pair]
    pair[1].ask_to_stop()
    assert all(one.hears(lambda t: t.stops == 1) for one in told)
    time.sleep(0.2)
    assert [one.stops for one in told] == [1, 1]
    assert [one.losses for one in told] == [[], []]


@pytest.mark.parametrize("code", [DONE, STOPPED])
def test_a_machine_that_left_in_order_is_not_missed(code: int, pair: tuple[Peers, Peers]) -> None:
    told = watched(pair[0])
    pair[1].leave(code)
    time.sleep(1.0)  # twice the silence that would count
    assert told.losses == []


def test_a_failure_is_told_at_once_and_is_the_last_word(pair: tuple[Peers, Peers]) -> None:
    told = watched(pair[0])
    pair[1].leave(FAILED)
    pair[1].leave(DONE)
    assert told.hears(lambda t: bool(t.losses))
    assert told.losses == ["node 1 has failed (exit code 1): see its log"]


def test_silence_is_noticed(pair: tuple[Peers, Peers]) -> None:
    told = watched(pair[0])  # the second gives no sign at all
    assert told.hears(lambda t: bool(t.losses))
    assert told.losses == ["node 1 gave no sign of life for 0.5 s"]


@pytest.mark.parametrize("code", [None, STOPPED], ids=["killed", "stopped"])
def test_a_machine_that_comes_again_waits_for_the_others_next_time(
    code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod was replaced while the others still were there: they must not take it for the one
    before, which their ranks wait for in vain."""
    monkeypatch.setattr(nodes, "_BEAT_S", 0.02)
    monkeypatch.setattr(nodes, "_AGAIN_S", 0.02)
    port = free_pair()
    first, second = (Peers(Place(n, 2, "127.0.0.1", port), silence_s=60.0) for n in range(2))
    with ExitStack() as stack:
        stack.enter_context(first)
        first.tell_prepared("/runs/before", 1)
        stack.enter_context(second)
        told = watched(first)
        if code is not None:
            second.leave(code)
        again = Peers(Place(1, 2, "127.0.0.1", port), silence_s=60.0)
        entering = threading.Thread(target=again.__enter__)
        entering.start()
        if code is None:
            assert told.hears(lambda t: bool(t.losses))
            assert told.losses == ["node 1 has failed (exit code 1): see its log"]
        time.sleep(0.2)
        assert entering.is_alive()
        first.leave(FAILED if code is None else code)
    del first, second, told
    with Peers(Place(0, 2, "127.0.0.1", port), silence_s=60.0) as anew:
        anew.tell_prepared("/runs/now", 2)
        entering.join(60)
        assert again.wait_prepared() == ("/runs/now", 2)
        again.leave(DONE)
        again.__exit__()


def test_a_first_machine_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "START_S", 1.0)
    with pytest.raises(PeerLost, match=r"node 0 does not answer at 127\.0\.0\.1:"):
        Peers(Place(1, 2, "127.0.0.1", free_pair()), silence_s=1.0).__enter__()


def _start(node: int, port: int, arguments: list[str]) -> subprocess.Popen[str]:
    place = {"NNODES": "2", "NODE_RANK": str(node), "MASTER_ADDR": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-m", "sdpo_megatron.cli", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "MASTER_PORT": str(port)} | place,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_machines_stop_together_and_fail_together(tiny_llama: Path, tmp_path: Path) -> None:
    """Two launchers with a rank each; the second starts first. Asked to stop, they leave with a
    checkpoint; resumed, they end when one of them is killed."""
    folder, port = tmp_path / "run", free_pair()
    arguments = runs.overrides(tiny_llama, folder, "parallel.pipeline=2", "run.steps=50")
    second = _start(1, port, arguments)
    first = _start(0, port, arguments)
    runs.wait_until(lambda: (folder / "rollouts/step-000002.jsonl.zst").exists(), first)
    second.send_signal(signal.SIGTERM)
    assert "stopped after step" in runs.finish(first, code=STOPPED)
    runs.finish(second, code=STOPPED)

    first, second = _start(0, port, arguments), _start(1, port, arguments)
    done = len(runs.numbers(folder))
    runs.wait_until(lambda: len(runs.numbers(folder)) > done, first)
    second.kill()
    said = runs.finish(first, code=FAILED)
    assert re.search("node 1 gave no sign of life|rank 0: ", said), said
    second.communicate()
