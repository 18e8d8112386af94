"""HumanEval: a function, judged by the asserts of `check(candidate)` in a process of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdpo_megatron.errors import VerifierUnavailable
from sdpo_megatron.sandbox import Judge, Program, RunResult, Sandbox
from sdpo_megatron.verifiers.harmless import harmless

from .asserts import SplitTests, split_asserts
from .feedback import case_text, crash_text, error_text, limit_text
from .outcome import Outcome
from .reading import readings

if TYPE_CHECKING:
    from .config import CodeVerifierConfig

_split = lru_cache(maxsize=1024)(split_asserts)
_LIMITS = ("cpu_time", "wall_time", "memory", "output", "processes")


def judge_humaneval(
    sandbox: Sandbox, config: CodeVerifierConfig, item: Mapping[str, Any], response: str
) -> Outcome:
    """Runs the public tests first, then the hidden ones; stops at the first failure unless the
    reward is a fraction."""
    prompt, entry = str(item["prompt"]), str(item["entry_point"])
    split = _split(str(item["test"]))
    public = _public(item, split)
    order = [*public, *(index for index in range(len(split.tests)) if index not in set(public))]
    counts: dict[str, Any] = {"num_tests": len(split.tests), "num_public": len(public)}
    found = readings(response, prompt, entry)
    if not found:
        return Outcome(
            kind="no_code", num_passed=0, format_ok=False, feedback=_no_code(entry), **counts
        )
    judge = Judge(
        setup=(
            prompt + "\n    pass\n" if not prompt.rstrip().endswith(('"""', "'''")) else prompt,
            *split.setup,
        ),
        tests=tuple((index, split.tests[index]) for index in order),
        stop_at_failure=config.reward == "all",
    )
    program = Program(
        readings=found,
        mode="serve",
        prelude=prompt,
        entry=entry,
        judge=judge,
        limits=config.limits(),
    )
    return _Reading(item, config, entry, public, found, counts).outcome(sandbox.run(program))


def _public(item: Mapping[str, Any], split: SplitTests) -> list[int]:
    public = sorted({int(index) for index in item["public"]})
    if public and not 0 <= public[0] <= public[-1] < len(split.tests):
        raise ValueError(f"public tests {public} of an item with {len(split.tests)} tests")
    return public


def _no_code(entry: str) -> str:
    return f"No Python code was found that defines the function `{entry}`."


class _Reading:
    """Turns a run's result into an outcome."""

    def __init__(
        self,
        item: Mapping[str, Any],
        config: CodeVerifierConfig,
        entry: str,
        public: list[int],
        found: tuple[tuple[str, str], ...],
        counts: dict[str, Any],
    ) -> None:
        self.config, self.entry, self.public, self.found, self.counts = (
            config,
            entry,
            public,
            found,
            counts,
        )
        self.where = str(item.get("id", item.get("task_id", entry)))

    def outcome(self, run: RunResult) -> Outcome:
        judgement = run.judgement or {}
        if "broken" in judgement:
            raise VerifierUnavailable(
                f"the tests of {self.where} are broken: {judgement['broken']}"
            )
        results = list(judgement.get("results", ()))
        failures = [result for result in results if result["kind"] != "passed"]
        common: dict[str, Any] = {
            **self.counts,
            "num_passed": len(results) - len(failures),
            "layers": run.layers,
        }
        if not failures and run.judgement is not None and "gone" not in judgement:
            return Outcome(kind="passed", **common)
        if not results:
            return self._before_tests(run, common)
        if not failures:  # the whole run was ended from outside between two tests
            index = self._first_missing(results)
            failures = [{"test": index, "kind": "died", "call": ""}]
        first = next((f for f in failures if f["test"] in self.public), failures[0])
        kind = self._kind(first["kind"], run)
        if first["test"] not in self.public:
            return Outcome(kind=kind, failed_hidden_only=True, failed_test=first["test"], **common)
        return Outcome(
            kind=kind, failed_test=first["test"], feedback=self._case(first, kind, run), **common
        )

    def _first_missing(self, results: list[Mapping[str, Any]]) -> int:
        done = {result["test"] for result in results}
        hidden = (index for index in range(self.counts["num_tests"]) if index not in self.public)
        return next(index for index in [*self.public, *hidden] if index not in done)

    def _before_tests(self, run: RunResult, common: dict[str, Any]) -> Outcome:
        """Nothing was tested: no program, or it failed while it was loaded."""
        report = run.report
        if run.cause in _LIMITS:
            return Outcome(
                kind=run.cause, feedback=limit_text(run.cause, self.config.limits()), **common
            )
        if "missing" in report:
            return Outcome(kind="no_code", format_ok=False, feedback=_no_code(self.entry), **common)
        error = report.get("error")
        if isinstance(error, Mapping):
            loaded = report.get("loaded") is True
            text = error_text(error, self._code(run))
            feedback = f"Runtime error while loading the code.\n{text}" if loaded else text
            return Outcome(
                kind="raised" if loaded else "syntax", format_ok=loaded, feedback=feedback, **common
            )
        if run.judgement is None and run.signal is None and run.exit_code is None:
            raise VerifierUnavailable(f"judging {self.where} ended without a word from the judge")
        return Outcome(kind="crashed", feedback=crash_text(run.signal), **common)

    def _kind(self, kind: str, run: RunResult) -> str:
        if kind == "died":
            return run.cause or "crashed"
        return "crashed" if kind == "garbage" else kind

    def _case(self, failure: Mapping[str, Any], kind: str, run: RunResult) -> str:
        at = f"public test {self.public.index(failure['test']) + 1} of {len(self.public)}"
        facts = {"Input": str(failure["call"])} if failure.get("call") else {}
        if kind in _LIMITS:
            return (
                case_text(f"Limit exceeded on {at}.", facts)
                + "\n"
                + limit_text(kind, self.config.limits())
            )
        if kind == "crashed":
            return case_text(f"Runtime error on {at}.", facts) + "\n" + crash_text(run.signal)
        if kind == "raised":
            return case_text(f"Runtime error on {at}.", facts) + "\n" + self._raised(failure, run)
        for key, label in (
            ("expected", "Expected"),
            ("condition", "Expected to hold"),
            ("got", "Got"),
        ):
            if key in failure:
                facts[label] = str(failure[key])
        if "problem" in failure:
            facts["Problem"] = str(failure["problem"])
        return case_text(f"Wrong answer on {at}.", facts)

    def _raised(self, failure: Mapping[str, Any], run: RunResult) -> str:
        if isinstance(failure.get("error"), Mapping):
            return error_text(failure["error"], self._code(run))
        if "exit" in failure:
            return "The program called exit instead of returning an answer."
        why = harmless(str(failure.get("unusable", "it is not plain data")), 200)
        return f"The returned value cannot be used: {why}"

    def _code(self, run: RunResult) -> str:
        """The attempt's source when it is to be quoted, else ""."""
        chosen = run.report.get("chosen", 0)
        if (
            not self.config.quote_code
            or not isinstance(chosen, int)
            or not 0 <= chosen < len(self.found)
        ):
            return ""
        return self.found[chosen][1]
