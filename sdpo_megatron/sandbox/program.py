"""What is run and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["script", "call", "serve"]
Cause = Literal["", "cpu_time", "wall_time", "memory", "output", "processes"]
JudgeCause = Literal["", "cpu_time", "wall_time", "memory", "died"]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Trusted tests in Python for a program in mode "serve"; they run in a second confined process.

    Attributes:
        setup: Sources executed first, in order (imports, helpers, constants).
        tests: (index, source) of each test, in the order in which to run them; a test calls
            `candidate`.
        stop_at_failure: Stop at the first test that does not pass.
    """

    setup: tuple[str, ...]
    tests: tuple[tuple[int, str], ...]
    stop_at_failure: bool = True


@dataclass(frozen=True, kw_only=True)
class Program:
    """One untrusted program.

    Attributes:
        readings: (prefix, text) pairs, possible readings of the program; the first that compiles
            and defines `entry` is run. Line numbers count from the start of `text`.
        mode: "script" runs it with `stdin`; "call" calls `entry` once with `args`; "serve" lets
            `judge` call it.
        prelude: Trusted source executed before it in the same namespace (e.g. the question's
            imports and helpers).
        entry: A function, or "Class.method"; "" for scripts.
        stdin: Standard input, bytes.
        args: Plain data (see `inside.plain_data`).
        judge: Only with mode "serve".
        limits: Values of `RunLimits` that replace those the sandbox was made with.
    """

    readings: tuple[tuple[str, str], ...]
    mode: Mode = "script"
    prelude: str = ""
    entry: str = ""
    stdin: bytes = b""
    args: tuple[Any, ...] = ()
    judge: Judge | None = None
    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def script(cls, source: str, stdin: bytes = b"", **limits: float) -> Program:
        """A whole program, run as it stands."""
        return cls(readings=(("", source),), stdin=stdin, limits=limits)


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
        report: The program's own word: "loaded", "error" {type, message, line}, "value", ... {}
            when it said nothing.
        judgement: The judge's report: "results" and possibly "gone" or "broken". None without a
            judge, or when the run was ended before the judge could report.
        wall_s: Wall time of the run, seconds.
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
    report: Mapping[str, Any]
    judgement: Mapping[str, Any] | None
    wall_s: float
    cpu_s: float
    peak_memory_mib: int
    layers: tuple[str, ...]
