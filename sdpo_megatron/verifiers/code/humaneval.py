"""HumanEval: a function, judged by the asserts of `check(candidate)` in a process of their own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdpo_megatron.errors import VerifierUnavailable
from sdpo_megatron.sandbox import Judge, Program, RunResult, Sandbox, limit_text
from sdpo_megatron.sandbox.inside.verdict.judgement import Judgement, TestResult
from sdpo_megatron.verifiers.base import BadItem, require

from .asserts import SplitTests, complete, split_asserts
from .feedback import (
    COSTLY,
    GARBAGE,
    case_text,
    crash_text,
    failed_answer_text,
    no_code_text,
    wrong_facts,
)
from .outcome import LIMITS, Outcome, public_indices
from .program import no_program, quoted_code
from .reading import readings

if TYPE_CHECKING:
    from .config import CodeVerifierConfig

_split = lru_cache(maxsize=1024)(split_asserts)
_complete = lru_cache(maxsize=1024)(complete)
_MAX_REHEARSED = 100_000


@dataclass(frozen=True)
class HumanEvalItem:
    """A question, checked. `prompt` is as the model saw it, `prelude` the same as whole Python;
    `opening` is code that the prefill holds, so a response begins in the middle of its line.
    """

    id: str
    prompt: str
    prelude: str
    entry: str
    tests: SplitTests
    public: tuple[int, ...]
    in_fence: bool
    opening: str

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> HumanEvalItem:
        """The item's fields.

        Raises:
            BadItem: One is missing or cannot be used.
        """
        prompt, test = require(item, "prompt", str), require(item, "test", str)
        entry = require(item, "entry_point", str)
        name = str(item.get("id", item.get("task_id", entry)))
        if not entry.isidentifier():
            raise BadItem(f"{name}: the entry point {entry!r} is not the name of a function")
        try:
            prelude = _complete(prompt)
        except ValueError as error:
            raise BadItem(f"{name}: the prompt {error}") from error
        try:
            tests = _split(test)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadItem(f"{name}: the test: {error}") from error
        public = public_indices(item, len(tests.tests))
        in_fence, opening = item.get("opened_fence") is True, item.get("opening", "")
        if not isinstance(opening, str):
            raise BadItem(f"{name}: key 'opening' is a {type(opening).__name__}, expected a text")
        return cls(name, prompt, prelude, entry, tests, public, in_fence, opening)

    @property
    def order(self) -> tuple[int, ...]:
        """Public tests first."""
        hidden = (index for index in range(len(self.tests.tests)) if index not in self.public)
        return (*self.public, *hidden)

    @property
    def setup(self) -> tuple[str, ...]:
        """What the tests need before them: the question's own helpers, and theirs."""
        return (self.prelude, *self.tests.setup)

    def source(self, test: int) -> str:
        """A test as the function's callers would write it."""
        return self.named(self.tests.tests[test])

    def named(self, source: str) -> str:
        """`source` with the function's own name for `candidate`."""
        return re.sub(r"\bcandidate\b", lambda _: self.entry, source)

    def digest(self) -> bytes:
        """Of all that a rehearsal depends on."""
        parts = (self.entry, *self.setup, "", *self.tests.tests)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


class HumanEvalJudge:
    """Judges items of kind "humaneval". Thread-safe."""

    def __init__(self, sandbox: Sandbox, config: CodeVerifierConfig) -> None:
        self._sandbox, self._config = sandbox, config
        self._rehearsed: set[bytes] = set()

    def __call__(self, item: Mapping[str, Any], response: str) -> Outcome:
        """Runs the public tests first, then the hidden ones; stops at the first failure unless the
        reward is a fraction.

        Raises:
            BadItem: The item cannot be used; nothing of the response was run.
            VerifierUnavailable: The sandbox failed.
        """
        question, config = HumanEvalItem.of(item), self._config
        text = question.opening + response
        found = readings(text, entry=question.entry, in_fence=question.in_fence)
        if not found:
            counts = _counts(question)
            feedback = no_code_text(question.entry)
            return Outcome(kind="no_code", format_ok=False, feedback=feedback, **counts)
        digest = question.digest()
        judge = Judge(
            setup=question.setup,
            tests=tuple((index, question.tests.tests[index]) for index in question.order),
            shown=question.public,
            stop_at_failure=config.reward == "all",
            rehearse=digest not in self._rehearsed,
            text_limit=config.text_limit(),
        )
        program = Program(
            readings=found,
            continues=question.prompt,
            mode="serve",
            prelude=question.prelude,
            entry=question.entry,
            judge=judge,
            limits=config.limits(),
        )
        run = self._sandbox.run(program)
        judgement = run.judgement or Judgement()
        if judgement.broken:
            raise BadItem(f"{question.id}: {judgement.broken}")
        if judgement.is_set_up and len(self._rehearsed) < _MAX_REHEARSED:
            self._rehearsed.add(digest)
        return _Reading(question, config, found).outcome(run, judgement)


def _counts(question: HumanEvalItem) -> dict[str, Any]:
    num_tests, num_public = len(question.tests.tests), len(question.public)
    return {"num_tests": num_tests, "num_public": num_public, "num_passed": 0}


class _Reading:
    """Turns a run into an outcome. Whatever came after the set-up is the attempt's doing."""

    def __init__(
        self, question: HumanEvalItem, config: CodeVerifierConfig, found: tuple[str, ...]
    ) -> None:
        self._question, self._config, self._found = question, config, found

    def outcome(self, run: RunResult, judgement: Judgement) -> Outcome:
        question, results = self._question, judgement.results
        num_passed = sum(result.kind == "passed" for result in results)
        common = {**_counts(question), "num_passed": num_passed, "layers": run.layers}
        if judgement.all_passed(len(question.tests.tests)):
            return Outcome(kind="passed", **common)
        failures = [result for result in results if result.kind != "passed"]
        nothing_tested = not results and not judgement.answering
        if nothing_tested or (failures and failures[0].kind == "died" and len(results) == 1):
            loading = self._loading(run, judgement, common)
            if loading is not None:
                return loading
        if not failures:  # the judging ended in the middle of a test
            index = next((i for i in question.order[len(results) :]), question.order[-1])
            failures = [TestResult(test=index, kind="costly" if judgement.answering else "died")]
        first = failures[0]
        kind = self._kind(first.kind, run)
        if first.test not in question.public:
            return Outcome(kind=kind, failed_hidden_only=True, failed_test=first.test, **common)
        feedback = self._case(first, kind, run)
        return Outcome(kind=kind, failed_test=first.test, feedback=feedback, **common)

    def _loading(
        self, run: RunResult, judgement: Judgement, common: dict[str, Any]
    ) -> Outcome | None:
        """No program, or one that failed before its first test. None: it was loaded."""
        report = run.report
        if report.kind == "loaded":
            return None
        if run.cause in LIMITS:
            feedback = limit_text(run.cause, self._config.limits())
            return Outcome(kind=run.cause, feedback=feedback, **common)
        if not judgement.is_set_up:
            raise VerifierUnavailable(f"judging {self._question.id}: the judge did not set up")
        question = self._question
        caller = question.source(question.public[0]) if question.public else ""
        if nothing := no_program(report, question.entry, self._code(run), caller):
            return Outcome(**nothing, **common)
        if report.kind in ("raised", "exit"):
            text = failed_answer_text(report, self._code(run))
            feedback = f"Runtime error while loading the code.\n{text}"
            return Outcome(kind="raised", feedback=feedback, **common)
        if report.kind == "":
            return Outcome(kind="crashed", feedback=crash_text(run.signal), **common)
        return Outcome(kind="garbage", feedback=GARBAGE, **common)

    def _kind(self, kind: str, run: RunResult) -> str:
        if kind in ("died", "costly"):
            return run.cause or ("crashed" if kind == "died" else "unusable")
        return "raised" if kind == "exit" else kind

    def _case(self, failure: TestResult, kind: str, run: RunResult) -> str:
        public = self._question.public
        at = f"public test {public.index(failure.test) + 1} of {len(public)}"
        facts = {"Input": failure.call} if failure.call else {}
        if kind in LIMITS:
            text = limit_text(kind, self._config.limits())
            return case_text(f"Limit exceeded on {at}.", facts) + "\n" + text
        if kind == "wrong":
            if failure.expected:
                facts |= wrong_facts(failure.expected, failure.got, failure.where)
            elif failure.condition:
                held = self._question.named(failure.condition)
                facts |= {"Expected to hold": held, "Got": failure.got}
            elif failure.got:
                facts["Got"] = failure.got
            if failure.problem:
                facts["Problem"] = failure.problem
            return case_text(f"Wrong answer on {at}.", facts)
        text = {"crashed": crash_text(run.signal), "garbage": GARBAGE}.get(kind, "")
        if failure.kind == "costly":
            text = COSTLY
        text = text or failed_answer_text(failure, self._code(run))
        return case_text(f"Runtime error on {at}.", facts) + "\n" + text

    def _code(self, run: RunResult) -> str:
        return quoted_code(self._config, self._found, run.report)
