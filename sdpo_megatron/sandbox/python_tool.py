"""Python as a tool that a model calls: code in, texts out, each call a run of its own.

Nothing is kept from one call to the next, and what one call may use is bounded as for any program:
the tool is the sandbox behind another door.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .config import RunLimits
from .inside.verdict.render import shorten_middle
from .program import Program, RunResult
from .sandbox import Sandbox
from .words import crashed_text, limit_text

TOOL_LIMITS = RunLimits(cpu_s=5.0, wall_s=15.0, output_kib=256)


@dataclass(frozen=True, kw_only=True)
class ToolOutput:
    """What a call came to. All texts are the program's own words: make them harmless
    (`verifiers.harmless`) before a model reads them.

    Attributes:
        stdout: What it printed; the middle is cut from a long one.
        stderr: The same of standard error.
        value: The text of the value of its last statement, where that is an expression and the
            value is not None; else "".
        error: Why it did not end as it should: an exception with its line, a limit, a crash. ""
            when it did.
        cpu_s: CPU time that it used, seconds.
    """

    stdout: str
    stderr: str
    value: str
    error: str
    cpu_s: float

    @property
    def text(self) -> str:
        """Everything in the order in which a terminal would show it; never empty."""
        parts = [self.stdout, self.stderr, self.value, self.error]
        return "\n".join(part.rstrip("\n") for part in parts if part) or "(no output)"


class PythonTool:
    """Runs one piece of code a call. Thread-safe.

    with Sandbox() as sandbox:
        tool = PythonTool(sandbox)
        print(tool("import math; math.comb(10, 3)").value)  # 120
    """

    def __init__(
        self, sandbox: Sandbox, limits: RunLimits = TOOL_LIMITS, max_chars: int = 4000
    ) -> None:
        """`limits` bound each call, `max_chars` each text that comes back."""
        if max_chars < 1:
            raise ValueError(f"max_chars={max_chars}: must be at least 1")
        self._sandbox, self._limits, self._max_chars = sandbox, asdict(limits), max_chars

    def __call__(self, code: str, stdin: str = "") -> ToolOutput:
        """Runs `code` on empty files, with `stdin` as its standard input.

        Raises:
            VerifierUnavailable: The machinery failed; never the code's doing. Try again.
        """
        given = stdin.encode("utf-8", "surrogatepass")
        program = Program(readings=(code,), mode="show", stdin=given, limits=self._limits)
        run = self._sandbox.run(program)
        shown = run.report.message if run.report.kind == "shown" and not run.cause else ""
        return ToolOutput(
            stdout=self._text(run.stdout),
            stderr=self._text(run.stderr),
            value=shorten_middle(shown, self._max_chars),
            error=shorten_middle(self._error(run), self._max_chars),
            cpu_s=run.cpu_s,
        )

    def _text(self, data: bytes) -> str:
        return shorten_middle(data.decode("utf-8", "backslashreplace"), self._max_chars)

    def _error(self, run: RunResult) -> str:
        report = run.report
        if run.cause:
            return limit_text(run.cause, self._limits)
        if report.kind in ("raised", "syntax"):
            where = f" (line {report.line})" if report.line else ""
            return f"{report.type}: {report.message}".rstrip(": ") + where
        if run.signal is not None:
            return crashed_text(run.signal)
        if report.kind in ("shown", "exit"):
            return ""
        if report.kind == "" and run.exit_code is not None:
            return f"The program ended its own process with exit code {run.exit_code}."
        return "The program interfered with the channel that its value is read from."
