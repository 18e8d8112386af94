"""The judge on this machine: verdicts, retries, and what is never a reward of 0."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.cores import usable_cores
from sdpo_megatron.errors import ConfigError, SandboxRefused, VerifierBroken, VerifierUnavailable
from sdpo_megatron.judging.config import JudgeConfig
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.judge import Judge, open_judge
from sdpo_megatron.nouns import Question, Verdict
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.tasks import Task, TaskConfig, load_task
from sdpo_megatron.verifiers.base import BadItem

OBEYS = "tests.judging.own_verifiers:Obeys"


def own_task(response_free_item: dict[str, Any] | None = None) -> Task:
    question = Question(id="q", task="own", messages=(), item=response_free_item or {})
    return Task(name="own", questions=(question,), verifier_name=OBEYS, path=Path("own.jsonl"))


def judge_all(task: Task, texts: list[str], **config: Any) -> list[Verdict]:
    async def run() -> list[Verdict]:
        async with open_judge(JudgeConfig(**config), SandboxConfig(), task, warn=print) as judge:
            pairs = zip(task.questions, texts, strict=False)
            return await asyncio.gather(*(judge(question, text) for question, text in pairs))

    return asyncio.run(run())


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_attempts_are_judged_at_once_than_there_are_workers(workers: int) -> None:
    """The backend holds each until nothing more arrives; as many as are allowed do arrive."""
    held: list[asyncio.Event] = []
    most = 0

    class Holding:
        async def verify(self, verifier: str, item: Item, response: str) -> Verdict:
            nonlocal most
            held.append(done := asyncio.Event())
            most = max(most, len(held))
            await done.wait()
            return Verdict(reward=1.0, success=True, format_ok=True, feedback="")

    async def run() -> list[Verdict]:
        judge = Judge(OBEYS, Holding(), workers, print)
        question = own_task().questions[0]
        jobs = [asyncio.create_task(judge(question, str(n))) for n in range(7)]
        while not all(job.done() for job in jobs):
            for _ in range(10):  # turns of the loop: whoever may begin has begun
                await asyncio.sleep(0)
            while held:
                held.pop().set()
        return await asyncio.gather(*jobs)

    assert len(asyncio.run(run())) == 7
    assert most == workers


def test_the_packaged_science_set_is_judged_on_this_machine() -> None:
    task = load_task(TaskConfig(name="sciknoweval", subset="biology", limit=8))
    right = [f"<answer>{question.item['answer']}</answer>" for question in task.questions]
    assert [v.reward for v in judge_all(task, right)] == [1.0] * 8
    wrong = ["<answer>E</answer>"] * 8
    assert [(v.reward, v.format_ok) for v in judge_all(task, wrong)] == [(0.0, False)] * 8


def test_the_other_packaged_sets_are_judged_in_bounded_children() -> None:
    """With the default limits: every library that a verifier imports fits into its memory."""
    gsm8k = load_task(TaskConfig(name="gsm8k", limit=2))
    answers = [f"\\boxed{{\\frac{{{q.item['answer']}}}{{1}}}}" for q in gsm8k.questions]
    assert [v.success for v in judge_all(gsm8k, answers)] == [True] * 2
    tools = load_task(TaskConfig(name="toolalpaca", ids=("4",)))
    call = "Action: getOpeningHours\nAction Input: {}"
    assert [v.success for v in judge_all(tools, [call])] == [True]
    ifeval = load_task(TaskConfig(name="ifeval", ids=("5",)))
    assert [v.success for v in judge_all(ifeval, ['{"capital": "Paris"}'])] == [True]


def test_programs_are_judged_in_the_sandbox_with_public_feedback_only() -> None:
    task = load_task(TaskConfig(ids=("28", "53")))
    bodies = ["    return ''.join(strings)", "    return x - y"]
    right, wrong = judge_all(task, bodies)
    assert (right.success, right.reward, right.feedback) == (True, 1.0, "")
    assert (wrong.success, wrong.reward, wrong.format_ok) == (False, 0.0, True)
    assert "Wrong answer on public test" in wrong.feedback
    assert {"pid", "net", "seccomp"} <= set(wrong.layers)


def test_a_prompt_without_a_docstring_is_no_trap(tmp_path: Path) -> None:
    line = {
        "task_id": "Own/0",
        "prompt": "def add(x, y):\n",
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
    }
    (tmp_path / "own.jsonl").write_text(json.dumps(line))
    config = TaskConfig(path=str(tmp_path / "own.jsonl"), prefill="signature")
    task = load_task(config)
    assert task.questions[0].prefill == "```python\ndef add(x, y):"
    texts = ["\n    return x + y", "def add(x, y):\n    return x + y", "\n    return x * y"]
    verdicts = [judge_all(task, [text])[0] for text in texts]
    assert [v.success for v in verdicts] == [True, True, False]


def test_the_packaged_livecodebench_questions_are_judged() -> None:
    task = load_task(TaskConfig(name="livecodebench"))
    right = [
        "input()\nprint(sum(x for x in map(int, input().split()) if x % 2 == 0))",
        "from itertools import groupby\nprint(len(list(groupby(input()))))",
        "class Solution:\n    def secondLargest(self, nums):\n"
        "        return ([-1] + sorted(set(nums)))[-2] if len(set(nums)) > 1 else -1",
        "class Solution:\n    def repeatText(self, s, k):\n        return s * k",
    ]
    assert [v.success for v in judge_all(task, right)] == [True] * 4
    assert [v.success for v in judge_all(task, [right[1], right[0], right[3], right[2]])] == [
        False
    ] * 4


def test_an_item_that_the_code_verifier_cannot_use_is_the_tasks_mistake() -> None:
    question = Question(id="q", task="t", messages=(), item={"kind": "haskell"})
    task = Task(name="own", questions=(question,), verifier_name="code", path=Path("own.jsonl"))
    with pytest.raises(BadItem, match="a code item of kind 'haskell'"):
        judge_all(task, ["x"])


def test_too_little_isolation_is_refused_before_anything_runs() -> None:
    task = load_task(TaskConfig(limit=1))
    lacking = SandboxConfig(minimum_layers=("net",), disable_layers=("net",))

    async def run() -> None:
        async with open_judge(JudgeConfig(), lacking, task, warn=print):
            raise AssertionError("it must not open")

    with pytest.raises(SandboxRefused, match="isolation below the configured minimum"):
        asyncio.run(run())


def test_a_child_that_dies_once_is_retried_and_the_verdict_is_right(tmp_path: Path) -> None:
    (verdict,) = judge_all(own_task(), [f"die-once {tmp_path / 'died'}"], retries=1)
    assert verdict.success
    assert (tmp_path / "died").exists()


def test_infrastructure_that_keeps_failing_is_an_exception_never_a_reward() -> None:
    with pytest.raises(VerifierUnavailable, match="gave up after 3 attempts"):
        judge_all(own_task(), ["die"], retries=2)


def test_what_cannot_be_judged_is_told_once_a_question_and_ends_nothing() -> None:
    told: list[str] = []

    async def run() -> list[BaseException | Verdict]:
        task = own_task()
        async with open_judge(JudgeConfig(), SandboxConfig(), task, warn=told.append) as judge:
            (question,) = task.questions
            unusable = replace(question, id="unusable", item={"set": {1, 2}})
            asked = [(question, "raise"), (question, "raise"), (question, "x"), (unusable, "x")]
            return await asyncio.gather(*(judge(*a) for a in asked), return_exceptions=True)

    first, second, third, fourth = asyncio.run(run())
    assert isinstance(first, VerifierBroken)
    assert isinstance(second, VerifierBroken)
    assert isinstance(third, Verdict)
    assert third.success
    assert isinstance(fourth, BadItem)
    assert len(told) == 2
    assert "q: an attempt is dropped, it cannot be judged: verifier" in told[0]
    assert "unusable: an attempt is dropped" in told[1]


def test_an_item_that_was_changed_is_hashed_anew() -> None:
    """The judge remembers items by question; another item of the same id must not be taken for
    it."""

    async def run() -> tuple[Verdict, Verdict]:
        task = own_task({"answer": "one"})
        async with open_judge(JudgeConfig(), SandboxConfig(), task, warn=print) as judge:
            (question,) = task.questions
            other = replace(question, item={"answer": "two"})
            return await judge(question, "one"), await judge(other, "one")

    one, two = asyncio.run(run())
    assert (one.success, two.success) == (True, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": "endpoints"}, r"endpoints=\[\]: with where=endpoints at least one URL"),
        ({"endpoints": ("http://localhost:1",)}, "does nothing with where=local"),
        ({"where": "somewhere"}, "where=somewhere: expected one of local, endpoints"),
        ({"workers": 0}, "workers=0: must be at least 1"),
        ({"retries": -1}, "retries=-1: must be at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        JudgeConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "workers"),
    [
        ({}, usable_cores()),
        ({"workers": 7}, 7),
        ({"where": "endpoints", "endpoints": ["http://a", "http://b"]}, 128),
        ({"where": "endpoints", "endpoints": ["http://a"], "workers": 5}, 5),
    ],
    ids=["cores", "asked", "two services", "asked of a service"],
)
def test_verdicts_at_once_follow_from_the_capacity(settings: dict[str, Any], workers: int) -> None:
    assert JudgeConfig(**settings).num_workers == workers
