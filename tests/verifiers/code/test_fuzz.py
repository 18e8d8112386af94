"""Reports drawn at random, sent as an attempt would: to the host's readers, to the judge, and as
values. Never an exception that leaves the verifier, never a reward, never much of the host's time.

`make test` draws some of them, `make test-exhaustive` 10,000 of each kind.
"""

from __future__ import annotations

import json
import random
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sdpo_megatron.sandbox import RunLimits, Sandbox, SandboxConfig
from sdpo_megatron.sandbox.inside.plain_data import encode
from sdpo_megatron.sandbox.inside.verdict.judgement import (
    FAILURES,
    SHAPES,
    Judgement,
    read_judgement,
    write_line,
)
from sdpo_megatron.sandbox.inside.verdict.statement import SHAPES as STATEMENTS
from sdpo_megatron.sandbox.inside.verdict.statement import Statement, read_statement
from sdpo_megatron.verifiers.code import CodeVerifier, CodeVerifierConfig
from tests.verifiers.code.hostile import taking_over

HOST_CPU_S = 0.2  # of one attempt
NONCE = "0123456789abcdef" * 2
SECRET = "a value that nobody draws"
ITEM: dict[str, Any] = {
    "kind": "humaneval",
    "prompt": 'def total(xs):\n    """Guess."""\n',
    "entry_point": "total",
    "test": f"def check(candidate):\n    assert candidate([1]) == {SECRET!r}\n",
    "public": [0],
}
FUNCTION: dict[str, Any] = {
    "kind": "livecodebench",
    "entry_point": "total",
    "tests": [{"input": "[1]", "output": json.dumps(SECRET)}],
    "public": [0],
}


def scalar(draw: random.Random) -> Any:
    return draw.choice(
        [
            None,
            True,
            draw.randrange(-2, 3),
            draw.randrange(10**6) * (2**61 - 1),
            10 ** draw.randrange(1, 4000),
            draw.random(),
            float("nan"),
            "",
            "x" * draw.randrange(3000),
            "\ud800",
            "<|im_end|>\0\x1b[0m",
            "passed",
        ]
    )


def value(draw: random.Random, depth: int = 0) -> Any:
    if depth > 4 or draw.random() < 0.4:
        return scalar(draw)
    several = range(draw.randrange(5))
    kind = draw.randrange(4)
    if kind == 0:
        return [value(draw, depth + 1) for _ in several]
    if kind == 1:
        return {str(scalar(draw)): value(draw, depth + 1) for _ in several}
    if kind == 2:
        return {draw.randrange(10**4) * (2**61 - 1) for _ in range(draw.randrange(300))}
    return frozenset([frozenset([draw.randrange(9)]), draw.randrange(9)])


def as_json(drawn: Any) -> str:
    return json.dumps(drawn, default=lambda other: [str(item) for item in other])


def record(draw: random.Random, shapes: Any) -> bytes:
    """A record of one of `shapes`, true to it or not."""
    kind = draw.choice([*shapes, "passed", "value", scalar(draw)])
    fields = {"kind": kind}
    for name in shapes.get(kind, ()) if isinstance(kind, str) else ():
        fields[name] = draw.choice([0, "", "x", [], ["f"], value(draw)])
    if draw.random() < 0.3:
        fields[draw.choice(["test", "public", "kind", "expected", "cause"])] = value(draw)
    data = as_json(fields).encode()
    match draw.randrange(8):
        case 0:
            data = data[: draw.randrange(len(data) + 1)]
        case 1:
            data = draw.randbytes(draw.randrange(64)) + data
        case 2:
            data = b"[" * draw.randrange(50_000) + data
        case 3:
            data = b'{"kind": "loaded", "chosen": ' + b"9" * draw.randrange(9000) + b"}"
    return data


def payload(draw: random.Random) -> bytes:
    """What an attempt might send in place of a statement."""
    data = record(draw, STATEMENTS) + draw.choice([b"\n", b"", b"\r\n", b"\n\n"])
    if draw.random() < 0.5:
        data += draw.choice([encode(value(draw)), draw.randbytes(draw.randrange(99))])
    return data


@pytest.mark.parametrize(
    "number", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.exhaustive])]
)
def test_the_hosts_reader_of_statements(number: int) -> None:
    draw = random.Random(4)
    kinds = set()
    for _ in range(number):
        data = payload(draw)
        before = time.thread_time()
        statement = read_statement(data)
        assert time.thread_time() - before < HOST_CPU_S
        _assert_typed(statement)
        kinds.add(statement.kind)
    assert {"garbage", "loaded", "value"} <= kinds  # some of what is drawn is in due form


def _assert_typed(statement: Statement) -> None:
    assert statement.kind in ("", "garbage", *STATEMENTS)
    assert type(statement.line) is int
    assert 0 <= statement.line <= 10**6
    assert type(statement.chosen) is int
    assert all(type(text) is str for text in (statement.type, statement.message, *statement.names))
    assert len(statement.type) <= 80
    assert len(statement.message) <= 2000
    assert type(statement.value) is bytes


def report(draw: random.Random) -> bytes:
    """A judge's report that is not of a judge whose tests all pass."""
    lines = [write_line(NONCE, "set_up", {})]
    for test in range(3):
        lines.append(write_line(NONCE, "answered", {"test": test}))
        kind = draw.choice(["passed", *FAILURES])
        lines.append(write_line(NONCE, kind, {"test": test, "got": "x"}))
    lines.append(write_line(NONCE, "done", {}))
    at = draw.randrange(len(lines))
    match draw.randrange(6):
        case 0:
            draw.shuffle(lines)
        case 1:
            del lines[at]
        case 2:
            lines[at] = NONCE.encode() + b" " + record(draw, SHAPES) + b"\n"
        case 3:
            lines[at] = lines[at][: draw.randrange(len(lines[at]))]
        case 4:
            lines[at] = lines[at].replace(NONCE.encode(), NONCE[::-1].encode())
        case 5:
            lines.insert(at, draw.randbytes(draw.randrange(99)))
    return b"".join(lines)


@pytest.mark.parametrize(
    "number", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.exhaustive])]
)
def test_the_hosts_reader_of_a_compromised_judge(number: int) -> None:
    draw = random.Random(2)
    for _ in range(number):
        data = report(draw)
        before = time.thread_time()
        judgement = read_judgement(data, NONCE, (0, 1, 2))
        assert time.thread_time() - before < HOST_CPU_S
        assert isinstance(judgement, Judgement)
        assert [result.test for result in judgement.results] == list(range(len(judgement.results)))
        told = [line for line in data.split(b"\n") if line.startswith(NONCE.encode())]
        passed = [line for line in told if b'"passed"' in line]
        assert judgement.all_passed(3) <= (len(passed) >= 3)


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    with Sandbox(SandboxConfig(workers=1), RunLimits()) as sandbox:
        yield CodeVerifier(sandbox, CodeVerifierConfig(cpu_s=1.0, wall_s=10.0))


def _program(draw: random.Random) -> str:
    """Sends one payload in an answer's place: raw, framed, or behind the call that is asked for."""
    data = payload(draw)
    match draw.randrange(5):
        case 0:
            return taking_over(repr(data))
        case 1:
            return taking_over("value(call, " + repr(encode(value(draw))) + ")")
        case 2:
            return taking_over("value(call, " + repr(draw.randbytes(draw.randrange(60))) + ")")
        case 3:
            frame = struct.pack(">I", draw.choice([len(data), 0, 7, 2**32 - 1])) + data
            fd = draw.choice([1, 3, 4])
            return f"import os\ntry: os.write({fd}, {frame!r})\nfinally: os._exit(0)"
        case _:
            fields = {"chosen": 0, "kind": draw.choice([*STATEMENTS, "passed"])}
            fields |= {name: value(draw) for name in draw.sample(["line", "type", "test"], 2)}
            text = as_json(fields)
            return taking_over(f"say(**{{**json.loads({text!r}), 'call': call}})")


@pytest.mark.parametrize(
    "number", [60, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.exhaustive])]
)
@pytest.mark.timeout(3600)
def test_the_judge_and_the_whole(verifier: CodeVerifier, number: int) -> None:
    draw = random.Random(3)
    for at in range(number):
        program = _program(draw)
        before = time.thread_time()
        verdict = verifier.verify((ITEM, FUNCTION)[at % 2], program)
        assert time.thread_time() - before < HOST_CPU_S, program
        assert (verdict.reward, verdict.success) == (0.0, False), program
        assert verdict.feedback
