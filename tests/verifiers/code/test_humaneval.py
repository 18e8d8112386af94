"""All of HumanEval: canonical solutions pass; mutants get the right verdict and the right words."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.sandbox import Sandbox, SandboxConfig
from sdpo_megatron.verifiers.code import CodeVerifier, CodeVerifierConfig
from sdpo_megatron.verifiers.code.asserts import split_asserts
from tests.verifiers.code.hostile import FUNCTION_ATTACKS
from tests.verifiers.code.items import humaneval, humaneval_item
from tests.verifiers.code.mutants import first_failing_test, mutants

OTHER_FORGERY = "the serving module's functions replaced by passed"
MUTANT_CPU_S = 0.5  # many mutants loop for ever
MUTANT_MEMORY_MIB = 1024  # more than such a loop can fill in that time, so one limit comes first


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    with Sandbox(SandboxConfig(workers=2)) as sandbox:
        config = CodeVerifierConfig(cpu_s=MUTANT_CPU_S, wall_s=60.0, memory_mib=MUTANT_MEMORY_MIB)
        yield CodeVerifier(sandbox, config)


def test_canonical_solutions_pass(verifier: CodeVerifier) -> None:
    def verify(name: str) -> Verdict:
        return verifier.verify(humaneval_item(name), humaneval()[name]["canonical_solution"])

    with ThreadPoolExecutor(2) as pool:
        verdicts = dict(zip(humaneval(), pool.map(verify, humaneval()), strict=True))
    failed = {name: verdict.feedback for name, verdict in verdicts.items() if not verdict.success}
    assert failed == {}
    assert len(verdicts) == 164


WRAPPINGS = {
    "fenced": "```python\n{code}\n```",
    "tildes": "~~~\n{code}\n~~~",
    "headed": "## Solution\n\n```py\n{code}\n```",
    "explained": (
        "<think>Let me see.</think>Here is how:\n\n```python\n{code}\n```\n\nFor example it gives\n"
        "```\n42\n```\nor as JSON\n```json\n[1]\n```\n"
    ),
    "continued": "{code}\n```\nThis function does it.",  # where the prompt opened the fence
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_canonical_solutions_pass_however_they_are_wrapped(
    verifier: CodeVerifier, wrapping: str
) -> None:
    opened = wrapping == "continued"

    def verify(name: str) -> Verdict:
        problem = humaneval()[name]
        code = problem["prompt"] + problem["canonical_solution"]
        response = WRAPPINGS[wrapping].format(code=code)
        return verifier.verify({**humaneval_item(name), "opened_fence": opened}, response)

    with ThreadPoolExecutor(2) as pool:
        verdicts = dict(zip(humaneval(), pool.map(verify, humaneval()), strict=True))
    assert {name: v.feedback for name, v in verdicts.items() if not v.success} == {}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["answer: passed", OTHER_FORGERY])
def test_the_forging_program_passes_none(verifier: CodeVerifier, attack: str) -> None:
    def verify(name: str) -> Verdict:
        program = FUNCTION_ATTACKS[attack].replace("total", humaneval()[name]["entry_point"])
        return verifier.verify(humaneval_item(name), program)

    with ThreadPoolExecutor(2) as pool:
        assert [v.reward for v in pool.map(verify, humaneval())] == [0.0] * 164


def _mutants(name: str) -> list[str]:
    problem = humaneval()[name]
    return list(mutants(problem["prompt"] + problem["canonical_solution"], problem["entry_point"]))


def _check(name: str, source: str, failing: int | None, verdict: Verdict) -> str:
    """Compares one verdict with the oracle's; returns "killed", "hidden", "survived" or "slow"."""
    public = list(humaneval_item(name)["public"])
    if verdict.details["outcome"] == "cpu_time" and (
        failing is None or verdict.details["failed_test"] != failing
    ):
        return "slow"  # over the limit for all tests together; the oracle's clock is per test
    where = f"{name}: test {failing} fails, public {public}\n{source}\n{verdict}"
    if failing is None:
        assert verdict.success, where
        assert verdict.feedback == "", where
        return "survived"
    assert verdict.reward == 0.0, where
    if failing not in public:
        assert verdict.feedback == "All public tests pass, but a hidden test fails.", where
        return "hidden"
    assert verdict.details["failed_test"] == failing, where
    at = f"public test {public.index(failing) + 1} of {len(public)}."
    assert at in verdict.feedback.split("\n")[0], where
    return "killed"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mutants_get_the_right_verdict_twice(
    verifier: CodeVerifier, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"killed": 0, "hidden": 0, "survived": 0, "slow": 0}
    with ThreadPoolExecutor(2) as pool:
        for name, problem in humaneval().items():
            sources, item = _mutants(name), humaneval_item(name)
            split = split_asserts(problem["test"])
            failing = first_failing_test(
                problem["prompt"],
                problem["entry_point"],
                split.setup,
                split.tests,
                _order(item, split.tests),
                sources,
                MUTANT_CPU_S,
            )
            jobs = [source for source in sources for _ in range(2)]
            verdicts = list(pool.map(lambda source, item=item: verifier.verify(item, source), jobs))
            for at, source in enumerate(sources):
                first, second = verdicts[2 * at : 2 * at + 2]
                kinds = [_check(name, source, failing[at], v) for v in (first, second)]
                counts["slow" if "slow" in kinds else kinds[0]] += 1
                if "slow" not in kinds:  # else the clock decides which test is the last
                    assert (first.reward, first.feedback) == (second.reward, second.feedback), name
                for verdict in (first, second):
                    _assert_nothing_hidden(item, split.tests, verdict.feedback)
    total = sum(counts.values())
    with capsys.disabled():
        share = counts["survived"] / total
        print(f"\n{total} mutants: {counts}; {share:.1%} survive all tests")
    assert total > 1500
    assert counts["hidden"] > 10
    assert counts["slow"] < 10


def _order(item: dict[str, Any], tests: tuple[str, ...]) -> list[int]:
    """Public tests first: the order in which the verifier promises to judge."""
    public = list(item["public"])
    return [*public, *(index for index in range(len(tests)) if index not in public)]


def _assert_nothing_hidden(item: dict[str, Any], tests: tuple[str, ...], feedback: str) -> None:
    """No feedback quotes the arguments of a hidden test that no public test has."""
    public = set(item["public"])
    shown = "\n".join(tests[index] for index in public) + item["prompt"]
    for index in set(range(len(tests))) - public:
        arguments = tests[index].partition("candidate(")[2].partition(") ")[0]
        if len(arguments) > 12 and arguments not in shown:
            assert arguments not in feedback
