"""Judges code: HumanEval's asserts, LiveCodeBench's stdin and functional tests, public and hidden.

The attempt runs in the sandbox and never shares an interpreter with what judges it: HumanEval's
tests run in a second confined process that calls the attempt by plain data; what a LiveCodeBench
program printed or returned is compared, byte by byte here or by value in a confined process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.sandbox import RunLimits, Sandbox
from sdpo_megatron.sandbox.inside.verdict.render import shorten_middle
from sdpo_megatron.sandbox.python_tool import PythonTool
from sdpo_megatron.verifiers.base import BadItem, graded
from sdpo_megatron.verifiers.harmless import harmless

from .config import CodeVerifierConfig
from .feedback import HIDDEN_TEXT
from .humaneval import HumanEvalJudge
from .livecodebench import LiveCodeBenchJudge
from .outcome import Outcome

_NOTHING_PUBLIC = "A test fails."


class CodeVerifier:
    """A verifier (see verifiers.base) for items of kind "humaneval" and "livecodebench".

    HumanEval item: "prompt", "entry_point", "test" as in the data set; "public": indices into
    `split_asserts(test).tests`.

    LiveCodeBench item: "tests": [{"input": str, "output": str}, ...]; "public": indices of them;
    "entry_point": absent or "" for stdin programs, else "Solution.method" or the name of a
    function. The input of a functional test is one JSON value a line, its output one JSON value.

    An item of kind "python_tool" holds nothing else: the response is code that a model runs by
    calling a tool. The verdict's feedback is what it reads next, and success that it ended well.

    The first two may hold "opened_fence": true when the prompt opened a fence, so that the response
    begins in code; a HumanEval item also "opening", code after that fence with which the response
    goes on.

    `verify` raises VerifierUnavailable when the sandbox fails and BadItem on a malformed item,
    always before anything of the response has run; never on any response.
    """

    name = "code"

    def __init__(self, sandbox: Sandbox, config: CodeVerifierConfig | None = None) -> None:
        self.sandbox = sandbox
        self.config = config or CodeVerifierConfig()
        self._tool = PythonTool(
            sandbox, RunLimits(**self.config.limits()), self.config.max_feedback_chars
        )
        self._judges: dict[str, Callable[[Mapping[str, Any], str], Outcome]] = {
            "humaneval": HumanEvalJudge(sandbox, self.config),
            "livecodebench": LiveCodeBenchJudge(sandbox, self.config),
        }

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        start = time.monotonic()
        kind = item.get("kind")
        if kind == "python_tool":
            return replace(self._call(response), seconds=time.monotonic() - start)
        judge = self._judges.get(kind) if isinstance(kind, str) else None
        if judge is None:
            raise BadItem(f"a code item of kind {kind!r}; known: {', '.join(self._judges)}")
        outcome = judge(item, response)
        return Verdict(
            reward=self._reward(outcome),
            success=outcome.success,
            format_ok=outcome.format_ok,
            feedback=self._feedback(outcome),
            seconds=time.monotonic() - start,
            layers=outcome.layers,
            details=outcome.details(),
        )

    def _call(self, code: str) -> Verdict:
        output = self._tool(code)
        text = harmless(output.text, self.config.max_feedback_chars)
        verdict = graded(not output.error, cpu_s=output.cpu_s)
        return replace(verdict, feedback=text, layers=self.sandbox.layers or ())

    def _reward(self, outcome: Outcome) -> float:
        if self.config.reward == "fraction":
            return outcome.num_passed / outcome.num_tests
        return 1.0 if outcome.success else 0.0

    def _feedback(self, outcome: Outcome) -> str:
        if outcome.success:
            return ""
        if outcome.failed_hidden_only:
            return HIDDEN_TEXT if outcome.num_public else _NOTHING_PUBLIC
        return shorten_middle(outcome.feedback, self.config.max_feedback_chars)
