"""The engines of an evaluation, and what they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.evaluation.harness import harness_command, run_harness
from sdpo_megatron.evaluation.records import Evaluation, JudgedQuestion
from sdpo_megatron.nouns import PolicyVersion, Question
from sdpo_megatron.observability.display import Display, Phase
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.validation import validation_sampling
from sdpo_megatron.tasks import Task
from serving.pool import EnginePool

_AT_ONCE = 256
"""Attempts that are asked for before the next questions are: what a kill loses at most."""


@dataclass(frozen=True)
class Job:
    """One task, and the configuration that it is asked under."""

    config: TrainConfig
    task: Task


class Session:
    """Engines for the length of one evaluation."""

    def __init__(
        self, evaluation: Evaluation, jobs: Sequence[Job], config: TrainConfig, display: Display
    ) -> None:
        self._evaluation, self._jobs, self._config = evaluation, jobs, config
        self._display = display

    async def run(self, benchmarks: Sequence[str], harness_args: str) -> None:
        """Ask what is not judged yet, then the benchmarks."""
        done = {(q.task, q.question) for q in self._evaluation.questions()}
        left = [
            (job, [q for q in job.task.questions if (job.task.name, q.id) not in done])
            for job in self._jobs
        ]
        left = [(job, questions) for job, questions in left if questions]
        if not left and not benchmarks:
            return
        async with self._engines() as pool:
            version = await _served(pool)
            for job, questions in left:
                await self._ask(pool, version, job, questions)
            if benchmarks:
                folder = self._evaluation.folder
                model = Path(self._config.model.path).name
                concurrency = self._config.rollout.sampling.concurrency
                url = pool.ready[0].client.url
                command = harness_command(
                    url, model, benchmarks, folder / "harness", concurrency, harness_args
                )
                say = self._display.message
                await asyncio.to_thread(run_harness, command, folder / "harness.log", say)

    @asynccontextmanager
    async def _engines(self) -> AsyncIterator[EnginePool]:
        from sdpo_megatron.actor.runtime import visible_gpus
        from sdpo_megatron.loops.launching.placement import assign

        config = self._config
        engine = assign(config, visible_gpus(), 0).engine_config(config.rollout.engine)
        logs = self._evaluation.folder / "logs"
        logs.mkdir(exist_ok=True)
        say = self._display.message
        pool = EnginePool(engine, Path(config.model.path), logs, seed=config.run.seed, progress=say)
        async with AsyncExitStack() as stack:
            with self._display.phase("waiting for the engine"):
                await stack.enter_async_context(pool)
            yield pool

    async def _ask(
        self, pool: EnginePool, version: PolicyVersion, job: Job, questions: Sequence[Question]
    ) -> None:
        from sdpo_megatron.judging.judge import open_judge
        from sdpo_megatron.rollout.overlong import within_limits
        from sdpo_megatron.rollout.sampler import Sampler
        from sdpo_megatron.rollout.tokenizer import load_tokenizer

        config = job.config
        sampling: SamplingConfig = validation_sampling(config.validation, config.rollout.sampling)
        prompts = PromptBuilder(load_tokenizer(config.model.path), thinking=sampling.thinking)
        asked = within_limits(questions, prompts, sampling.max_prompt_tokens, None)
        if len(asked) < len(questions):
            self._display.warn(
                f"{len(questions) - len(asked)} questions of {job.task.name} are left out: their "
                f"prompts are longer than {sampling.max_prompt_tokens} tokens"
            )
        at_once = max(1, _AT_ONCE // sampling.num_attempts)
        total = len(asked) * sampling.num_attempts
        warn = self._display.warn
        async with open_judge(config.judge, config.sandbox, job.task, warn) as judge:
            sampler = Sampler(pool, prompts, sampling, judge.run_tool)
            with self._display.phase(f"asking {job.task.name}", total=total) as phase:
                for start in range(0, len(asked), at_once):
                    some = asked[start : start + at_once]
                    groups = await sampler.sample_groups(
                        some, judge, version, 0, lambda *_: _advance(phase)
                    )
                    hard = job.task.difficulties
                    judged = [
                        JudgedQuestion.of(job.task.name, group, hard.get(group.question.id, ""))
                        for group in groups
                    ]
                    self._evaluation.append(judged)
                    self._tell(job.task.name, start + len(some), len(asked), judged)

    def _tell(self, task: str, done: int, of: int, judged: Sequence[JudgedQuestion]) -> None:
        """A line for those who have no terminal."""
        successes = [attempt.success for question in judged for attempt in question.attempts]
        rate = sum(successes) / len(successes) if successes else 0.0
        self._display.message(
            f"{task}: {done} of {of} questions; success {rate:.3f} on the last {len(judged)}"
        )


async def _served(pool: EnginePool) -> PolicyVersion:
    """What the engines serve: 0 where they were just started here.

    Raises:
        ConfigError: Engines given by URL serve different weights.
    """
    versions = {engine.name: await engine.client.version() for engine in pool.ready}
    if len(set(versions.values())) > 1:
        raise ConfigError(
            f"rollout.engine.urls: the engines serve different policy versions ({versions}); "
            "which model would be evaluated?"
        )
    return PolicyVersion(next(iter(versions.values())))


def _advance(phase: Phase) -> None:
    phase.advance()
