"""Groups from a real engine: order, seeds, text, versions, drops, retries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError, EngineError, VerifierBroken, VerifierUnavailable
from sdpo_megatron.nouns import Attempt, Group, PolicyVersion, Question, Verdict
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.sampler import Sampler, attempt_seed
from sdpo_megatron.verifiers.base import BadItem
from serving.config import EngineConfig
from serving.launch import EngineProcess
from serving.pool import EnginePool

VERSION = PolicyVersion(4)
QUESTIONS = tuple(
    Question(id=f"q{i}", task="t", messages=({"role": "user", "content": f"def add{i}(a, b):"},))
    for i in range(3)
)


async def judge(question: Question, text: str) -> Verdict:
    """Rewards short texts; what is judged is what the test can recompute."""
    reward = 1.0 if len(text) < 30 else 0.0
    return Verdict(
        reward=reward, success=reward == 1, format_ok=True, feedback=f"{question.id}:{text}"
    )


def sample(
    engine: EngineProcess,
    tokenizer: Any,
    questions: Sequence[Question] = QUESTIONS,
    judge: Any = judge,
    version: PolicyVersion = VERSION,
    step: int = 0,
    on_attempt: Any = None,
    **fields: Any,
) -> tuple[list[Group], Sampler]:
    """Sample from the session's engine, which is brought to version 4 first."""
    settings = {"num_attempts": 3, "max_new_tokens": 24, "concurrency": 4, **fields}
    config = EngineConfig(urls=(engine.url,), deterministic=True)

    async def main() -> tuple[list[Group], Sampler]:
        async with EnginePool(config, engine.model_dir, "unused") as pool:
            await pool.publish(engine.model_dir, VERSION)
            sampler = Sampler(pool, PromptBuilder(tokenizer), SamplingConfig(**settings))
            groups = await sampler.sample_groups(questions, judge, version, step, on_attempt)
            return groups, sampler

    return asyncio.run(main())


def all_attempts(groups: Sequence[Group]) -> list[Attempt]:
    return [attempt for group in groups for attempt in group.attempts]


@pytest.mark.slow
def test_groups_are_complete_and_in_order(tiny_engine: EngineProcess, tokenizer: Any) -> None:
    seen: list[tuple[str, int]] = []
    groups, sampler = sample(
        tiny_engine,
        tokenizer,
        on_attempt=lambda q, attempt, verdict: seen.append((q.id, attempt.index)),
    )
    assert [group.question for group in groups] == list(QUESTIONS)
    assert [(a.question_id, a.index) for a in all_attempts(groups)] == [
        (f"q{i}", j) for i in range(3) for j in range(3)
    ]
    assert sorted(seen) == [(f"q{i}", j) for i in range(3) for j in range(3)]
    assert (sampler.num_retries, sampler.num_dropped) == (0, 0)
    for group in groups:
        for attempt, verdict in zip(group.attempts, group.verdicts, strict=True):
            length = len(attempt.response_ids)
            assert attempt.prompt_ids == PromptBuilder(tokenizer).question_ids(group.question)
            assert 0 < length <= 24
            assert len(attempt.log_probs) == length
            assert all(log_prob <= 0 for log_prob in attempt.log_probs)
            assert attempt.loss_mask == (True,) * length
            assert [(s.start, s.end, s.version) for s in attempt.versions] == [(0, length, 4)]
            assert (attempt.finish_reason == "length") == (attempt.response_ids[-1] != 2)
            assert attempt.text == tokenizer.decode(attempt.response_ids, skip_special_tokens=True)
            assert verdict.feedback == f"{group.question.id}:{attempt.text}"


@pytest.mark.slow
def test_seeds_reproduce_a_step_and_differ_between_steps(
    tiny_engine: EngineProcess, tokenizer: Any
) -> None:
    """One request at a time: matrix products on a CPU depend on the batch in the last bits."""
    first, again, other = (
        all_attempts(sample(tiny_engine, tokenizer, step=step, concurrency=1)[0])
        for step in (7, 7, 8)
    )
    assert first == again
    assert len({attempt.response_ids for attempt in first + other}) == 18
    assert first[4].seed == attempt_seed(0, 7, "q1", 1)


@pytest.mark.slow
def test_text_ends_before_the_stop_string_and_ids_after_it(
    tiny_engine: EngineProcess, tokenizer: Any
) -> None:
    free = all_attempts(sample(tiny_engine, tokenizer, QUESTIONS[:1], concurrency=1)[0])
    stop = free[0].text[8:10]
    question = Question(id="q0", task="t", messages=QUESTIONS[0].messages, stop=(stop,))
    stopped = all_attempts(sample(tiny_engine, tokenizer, (question,), concurrency=1)[0])[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free[0].text.split(stop)[0]
    assert stopped.response_ids == free[0].response_ids[: len(stopped.response_ids)]
    assert stop in tokenizer.decode(stopped.response_ids)
    assert len(stopped.log_probs) == len(stopped.response_ids) < len(free[0].response_ids)


@pytest.mark.slow
def test_attempts_that_nobody_could_judge_are_dropped_and_counted(
    tiny_engine: EngineProcess, tokenizer: Any
) -> None:
    calls = 0

    async def failing(question: Question, text: str) -> Verdict:
        nonlocal calls
        calls += 1
        if question.id == "q1":
            raise (VerifierUnavailable, VerifierBroken, BadItem)[calls % 3]("whatever it is")
        return await judge(question, text)

    groups, sampler = sample(tiny_engine, tokenizer, judge=failing)
    assert [(len(group.attempts), group.dropped) for group in groups] == [(3, 0), (0, 3), (3, 0)]
    assert (calls, sampler.num_dropped) == (9, 3)


@pytest.mark.slow
def test_attempts_of_another_version_are_never_returned(
    tiny_engine: EngineProcess, tokenizer: Any
) -> None:
    with pytest.raises(
        EngineError, match=r"q0, attempt \d: sampled from policy version 4, expected 9"
    ):
        sample(tiny_engine, tokenizer, version=PolicyVersion(9))


@pytest.mark.slow
def test_prompt_longer_than_the_context_names_the_question(
    tiny_engine: EngineProcess, tokenizer: Any
) -> None:
    question = Question(id="long", task="t", messages=({"role": "user", "content": "x " * 2000},))
    with pytest.raises(EngineError, match=r"long, attempt \d: .*HTTP 400"):
        sample(tiny_engine, tokenizer, (question,))


def test_seeds_are_stable_and_distinct() -> None:
    """The number itself is pinned: another one would break the replay of recorded runs."""
    assert attempt_seed(0, 7, "HumanEval/28", 3) == 158881174065887383
    seeds = {
        attempt_seed(run, step, f"q{question}", index)
        for run in range(3)
        for step in range(5)
        for question in range(5)
        for index in range(8)
    }
    assert len(seeds) == 600
    assert max(seeds) < 2**62


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attempts": 0}, "num_attempts=0: must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0: must be above 0"),
        ({"temperature": -1.0}, "temperature=-1.0: must be at least 0"),
        ({"retries": -1}, "retries=-1: must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**fields)
