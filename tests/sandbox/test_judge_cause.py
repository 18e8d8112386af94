"""What a run's result says of a judge that did not live to report: the cause is told, not lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sdpo_megatron.sandbox import Judge, Program, RunLimits, RunResult, Sandbox, SandboxConfig
from sdpo_megatron.sandbox.inside.fence.confine import OUT_OF_MEMORY


@pytest.fixture(scope="module")
def one_worker() -> Iterator[Sandbox]:
    with Sandbox(SandboxConfig(workers=1), RunLimits(memory_mib=192, cpu_s=1.0)) as sandbox:
        yield sandbox


def _judged(sandbox: Sandbox, test: str) -> RunResult:
    judge = Judge(setup=(), tests=((0, test),))
    source = "def answer():\n    return 1\n"
    return sandbox.run(Program(readings=(source,), mode="serve", entry="answer", judge=judge))


@pytest.mark.parametrize(
    ("test", "cause"),
    [
        ("assert candidate() == 1", ""),
        ("candidate()\nwhile True: pass", "cpu_time"),
        (f"candidate()\nimport os; os._exit({OUT_OF_MEMORY})", "memory"),
        ("candidate()\nimport os; os.kill(os.getpid(), 9) or os.abort()", "died"),
        ("candidate()\nimport os; os._exit(3)", "died"),
    ],
)
def test_the_end_of_a_judge_has_a_cause(one_worker: Sandbox, test: str, cause: str) -> None:
    result = _judged(one_worker, test)
    assert (result.judge_cause, result.cause) == (cause, "")
    assert result.judgement is not None
    assert result.judgement.is_done == (not cause)
