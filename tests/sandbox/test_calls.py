"""System calls put down before a clone, and the messages between a worker and its template."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from sdpo_megatron.sandbox.inside import order
from sdpo_megatron.sandbox.inside.fence import confine, linux, syscall_table
from sdpo_megatron.sandbox.inside.fence.calls import Calls
from sdpo_megatron.sandbox.inside.messages import Letterbox

LIMITS = confine.Limits(wall_s=3.0, cpu_s=1.5, memory_mib=64, processes=4, tmp_mib=8, open_files=32)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_calls_are_carried_out_in_their_order_with_what_was_filled_in(
    pipe: tuple[int, int],
) -> None:
    calls, texts = Calls(), [b"%d " % number for number in range(5000)]  # several pieces of memory
    addresses = [calls.hold(text) for text in texts]
    first = calls.add("write", -1, addresses[0], 2, result=2)
    calls.add("write", pipe[1], addresses[4999], 5, result=5)
    address, view = calls.hold_open(b"before", 16)
    calls.add("write", pipe[1], address, 6, result=6)
    calls.replace(first, pipe[1])
    view[:6] = b"after!"
    calls.carry_out()
    assert os.read(pipe[0], 100) == b"0 4999 after!"


def test_the_first_call_that_fails_ends_it_by_name(pipe: tuple[int, int]) -> None:
    calls = Calls()
    calls.add("write", 1 << 20, calls.hold(b"x"), 1, result=1)
    calls.add("write", pipe[1], calls.hold(b"y"), 1, result=1)
    with pytest.raises(OSError, match="write: Bad file descriptor"):
        calls.carry_out()
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)


def test_another_result_than_the_expected_is_a_failure(pipe: tuple[int, int]) -> None:
    """A descriptor that is not where it was put down to be would be somebody else's."""
    calls = Calls()
    calls.add("dup3", pipe[0], 700, 0, result=701)
    with pytest.raises(OSError, match="dup3: returned 700, expected 701"):
        calls.carry_out()
    os.close(700)


def _confinement(monkeypatch: pytest.MonkeyPatch, close_range: bool) -> confine.Confinement:
    def call(name: str, *arguments: object) -> int:
        assert name == "close_range"
        if not close_range:
            raise OSError(38, "Function not implemented")
        return 0

    monkeypatch.setattr(linux, "call", call)
    fence = confine.Fence(
        layers=("seccomp", "pid", "mount", "rlimits", "landlock"),
        run_flags=sum(linux.NAMESPACES.values()),
        landlock_abi=6,
        rules=[(8, 4)],
        entrances=[7],
        choose_uid=True,
    )
    fds = confine.Descriptors(sources=(9, 10, 11, 12), status=6, free=13)
    return confine.Confinement(fence, LIMITS, fds, "/tmp", is_attempt=True)


def _names(confinement: confine.Confinement) -> list[tuple[str, tuple[int, ...]]]:
    rows = memoryview(confinement._calls._rows).cast("q").tolist()
    eight = [rows[at : at + 8] for at in range(0, len(rows), 8)]
    return [(linux.name_of(number), tuple(arguments)) for _, number, *arguments in eight]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_of_a_template_allows_what_confining_takes(
    monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr(linux, "MACHINE", machine)
    allowed = syscall_table.table(machine)[0] | syscall_table.template_calls(machine)
    calls = [*_names(_confinement(monkeypatch, close_range=False)), ("recvmsg", ()), ("clone", ())]
    assert {"mount", "setresuid", "capset", "seccomp", "close", "dup3"} <= {n for n, _ in calls}
    for name, _ in calls:
        assert allowed[name] == linux.number(name)


@pytest.mark.parametrize("close_range", [True, False])
def test_no_descriptor_of_the_template_stays_open(
    monkeypatch: pytest.MonkeyPatch, close_range: bool
) -> None:
    """0 to 3 are the child's, 4 is where it says that it is confined; 14 is the last in use."""
    calls = _names(_confinement(monkeypatch, close_range))
    closed = [arguments for name, arguments in calls if name in ("close", "close_range")]
    if close_range:
        assert closed == [(5, 0xFFFFFFFF, 0, 0, 0, 0)]
    else:
        assert [first for first, *_ in closed] == list(range(5, 15))


def test_orders_and_answers_arrive_as_they_were_written() -> None:
    judged = order.write_order(LIMITS, True, [600_000, 600_001], "/tmp/x/ä")
    assert order.read_kind(judged) == (LIMITS, True)
    assert order.read_run(judged) == ((600_000, 600_001), "/tmp/x/ä")
    other = order.write_order(LIMITS, False, [0, 0], "")
    assert order.read_kind(other) == (LIMITS, False)
    assert order.read_run(other) == ((0, 0), "")
    assert judged[: order.KIND_BYTES] != other[: order.KIND_BYTES]
    assert order.read_answer(order.write_answer([5, 6])) == ([5, 6], "")
    assert order.read_answer(order.write_answer([5], "no")) == ([5], "no")


def test_a_letterbox_knows_the_numbers_of_what_comes() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        free = os.dup(0)
        os.close(free)
        box = Letterbox(theirs.fileno(), free)
        for content in (b"one", b"another"):
            socket.send_fds(ours, [content], [0, 0])
            assert box.receive() == content
            os.close(free)
            os.close(free + 1)
        socket.send_fds(ours, [b"three"], [0])
        taken = os.dup(0)  # a gap that is not there any more
        with pytest.raises(OSError, match=f"descriptor below {free}"):
            box.receive()
        os.close(taken)
        os.close(free + 1)
        box.answer(b"yes")
        assert ours.recv(10) == b"yes"
        ours.close()
        assert box.receive() == b""
