"""What is run and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .inside.verdict.judgement import Judgement
from .inside.verdict.statement import ANSWER_BYTES, Statement

Mode = Literal["script", "show", "call", "serve"]
Cause = Literal["", "cpu_time", "wall_time", "memory", "output", "processes"]
JudgeCause = Literal["", "cpu_time", "wall_time", "memory", "died"]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Trusted tests in Python for a program in mode "serve"; they run in a second confined process.

    Nothing of the program runs before the setup has been executed and, with `rehearse`, the tests
    have been tried on a stub.

    Attributes:
        setup: Sources executed first, in order (imports, helpers, constants).
        tests: (index, source) of each test, in the order in which to run them; a test calls
            `candidate`.
        shown: Indices of the tests of which the first failure is told in words.
        stop_at_failure: Stop at the first test that does not pass.
        rehearse: Look for mistakes in the tests first.
        text_limit: Characters, about, of each text of a failure.
    """

    setup: tuple[str, ...]
    tests: tuple[tuple[int, str], ...]
    shown: tuple[int, ...] = ()
    stop_at_failure: bool = True
    rehearse: bool = False
    text_limit: int = 400


@dataclass(frozen=True, kw_only=True)
class Program:
    """One untrusted program.

    Attributes:
        readings: Possible readings of the program; the first that compiles and defines `entry` is
            run.
        continues: Head of a function whose body a reading may be; "" where it may not.
        mode: "script" runs it with `stdin`; "show" too, and reports the text of its last value
            (`report` of kind "shown"); "call" calls `entry` once with `args`; "serve" lets `judge`
            call it.
        prelude: Trusted source executed before it in the same namespace (e.g. the question's
            imports and helpers).
        entry: A function, or "Class.method"; "" for scripts.
        stdin: Standard input, bytes.
        args: Plain data (see `inside.plain_data`).
        judge: Only with mode "serve".
        answer_bytes: Size of one returned value, encoded.
        limits: Values of `RunLimits` that replace those the sandbox was made with.
    """

    readings: tuple[str, ...]
    continues: str = ""
    mode: Mode = "script"
    prelude: str = ""
    entry: str = ""
    stdin: bytes = b""
    args: tuple[Any, ...] = ()
    judge: Judge | None = None
    answer_bytes: int = ANSWER_BYTES
    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def script(cls, source: str, stdin: bytes = b"", **limits: float) -> Program:
        """A whole program, run as it stands."""
        return cls(readings=(source,), stdin=stdin, limits=limits)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended.

    Everything but `stdout`, `stderr` and `report` is known without the program's cooperation.

    Attributes:
        nonce: Of this run; the program never saw it. The judge's report was accepted because it
            carried it.
        cause: The limit that ended the program, or "".
        judge_cause: What ended the judge before it had reported: a limit, "died" (a signal or an
            error of its own), or "" when it ended by itself or there was none.
        exit_code: None when a signal ended it. Says nothing about success.
        signal: Number of the signal that ended it, or None.
        stdout: At most output_kib KiB.
        stderr: At most output_kib KiB.
        report: The program's own word.
        judgement: The judge's. None without a judge.
        wall_s: Wall time of the run, seconds.
        waited_s: The part of it in which the program was ready but the machine busy.
        cpu_s: CPU time of the program's processes, seconds.
        peak_memory_mib: Highest memory seen, MiB.
        layers: Names of the isolation layers that were active.
    """

    nonce: str
    cause: Cause
    judge_cause: JudgeCause
    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    report: Statement
    judgement: Judgement | None
    wall_s: float
    waited_s: float
    cpu_s: float
    peak_memory_mib: int
    layers: tuple[str, ...]
