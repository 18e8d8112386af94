"""Seccomp filters, assembled by hand: an allow-list of system calls, as a balanced tree.

Two filters, of which both must agree: `program` is installed once, in the process that runs are
cloned from, and still allows what confining a child takes; `last_program` is short, is installed in
every child, and takes that away. The kernel runs every new filter over all numbers that are still
allowed, which makes a long one in every child expensive.
"""

from __future__ import annotations

import struct

from .calls import Calls
from .syscall_rules import CHILD_RULES, PRETENDED, RULES, SIGNALLING, UNKNOWN, Test
from .syscall_table import table, template_calls

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP, _JUMP_EQUAL, _JUMP_GREATER_EQUAL = 0x05, 0x15, 0x35
_ALLOW_ACTION, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: number of instructions, their address
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data; little-endian halves
_X32_BIT = 0x40000000


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _answer(action: int) -> list[bytes]:
    return [_op(_RETURN, action)]


_ALLOW = _answer(_ALLOW_ACTION)
_REFUSE = _answer(_ERRNO | _EPERM)


def program(machine: str) -> bytes:
    """The filter of a template, as BPF instructions (8 bytes each). KeyError: unknown machine.

    A foreign architecture (32-bit or x32 calls) kills the process; a call that is not listed fails
    with EPERM.
    """
    numbers, arch = table(machine)
    blocks = dict.fromkeys(template_calls(machine).values(), _ALLOW)
    for name, number in numbers.items():
        if name in PRETENDED:
            blocks[number] = _answer(_ERRNO)
        elif name in UNKNOWN:
            blocks[number] = _answer(_ERRNO | _ENOSYS)
        else:
            blocks[number] = _rule(RULES.get(name, ()))
    code = [
        _op(_LOAD, _ARCH_AT),
        _op(_JUMP_EQUAL, arch, 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        code += [_op(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1), _op(_RETURN, _KILL_PROCESS)]
    return b"".join([*code, *_tree(_intervals(blocks, _REFUSE))])


def last_program(machine: str, signal_only: int = 0) -> bytes:
    """The filter of a child, to be stacked on `program`.

    `signal_only` is the pid of the only process that it may signal; 0 for any (in a pid namespace
    of its own).
    """
    numbers, _ = table(machine)
    blocks = dict.fromkeys(template_calls(machine).values(), _REFUSE)
    for name, tests in CHILD_RULES.items():
        blocks[numbers[name]] = _rule(tests)
    if signal_only:
        for name in SIGNALLING:
            blocks[numbers[name]] = _rule((Test(0, (signal_only,)),))
    return b"".join([_op(_LOAD, _NUMBER_AT), *_tree(_intervals(blocks, _ALLOW))])


def _rule(tests: tuple[Test, ...]) -> list[bytes]:
    """Allows when all tests hold. Each test loads, masks, compares; ends in a return by itself."""
    code: list[bytes] = []
    for test in tests:
        low = _ARGUMENTS_AT + 8 * test.argument
        if test.wide:
            code += [_op(_LOAD, low + 4), _op(_JUMP_EQUAL, 0, 1, 0), *_REFUSE]
        code.append(_op(_LOAD, low))
        if test.mask != 0xFFFFFFFF:
            code.append(_op(_AND, test.mask))
        left = len(test.values)
        for value in test.values:
            left -= 1
            # Found: over the other comparisons and the one instruction behind them.
            code.append(_op(_JUMP_EQUAL, value, left + 1, 0))
        code += [_op(_JUMP, 1), *_REFUSE] if test.negate else _REFUSE
    return code + _ALLOW


def _intervals(
    blocks: dict[int, list[bytes]], otherwise: list[bytes]
) -> list[tuple[int, list[bytes]]]:
    """(first number, what to do from there on), neighbours that do the same merged."""
    found: list[tuple[int, list[bytes]]] = [(0, otherwise)]
    for number in sorted(blocks):
        for start, block in ((number, blocks[number]), (number + 1, otherwise)):
            if found[-1][0] == start:
                found.pop()
            if not found or found[-1][1] != block:
                found.append((start, block))
    return found


def _tree(intervals: list[tuple[int, list[bytes]]]) -> list[bytes]:
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    left, right = _tree(intervals[:middle]), _tree(intervals[middle:])
    pivot = _op(_JUMP_GREATER_EQUAL, intervals[middle][0], 0, 1)
    return [pivot, _op(_JUMP, len(left)), *left, *right]


def install(code: bytes) -> None:
    """Applies the filter to this process and all it will fork, for good.

    Needs no_new_privs set before.
    """
    calls = Calls()
    add(calls, code)
    calls.carry_out()


def add(calls: Calls, code: bytes) -> None:
    """Adds what `install` does."""
    program = _PROGRAM.pack(len(code) // 8, calls.hold(code))
    calls.add("seccomp", 1, 0, calls.hold(program))
