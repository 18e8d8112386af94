"""What the training loop calls: an attempt's text in, a Verdict out.

The Verdict comes from this machine or from verifier services.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from sdpo_megatron.judging.config import JudgeConfig
from sdpo_megatron.judging.local import LocalVerifiers, Verifies
from sdpo_megatron.judging.pool import PoolConfig
from sdpo_megatron.judging.retry import retried
from sdpo_megatron.nouns import Question, Verdict

if TYPE_CHECKING:
    from sdpo_megatron.sandbox import SandboxConfig
    from sdpo_megatron.tasks.task import Task


class Judge:
    """Judges attempts of one task. Call it: ``verdict = await judge(question, text)``."""

    def __init__(self, verifier: str, verifies: Verifies, workers: int) -> None:
        """Prepare.

        Args:
            verifier: Name or import path of the verifier of the task's questions.
            verifies: Who judges, retries included.
            workers: Verifications at once.
        """
        self._verifier, self._verifies = verifier, verifies
        self._slots = asyncio.Semaphore(workers)

    async def __call__(self, question: Question, response: str) -> Verdict:
        """The verdict on one response.

        Raises:
            VerifierUnavailable: Infrastructure failed in every try. Drop the attempt and count it;
                never reward 0.
            BadItem: The question's item is unusable: a mistake in the task.
            VerifierBroken: The verifier raised: a mistake in the verifier.
        """
        async with self._slots:
            return await self._verifies.verify(self._verifier, question.item, response)


class Retrying:
    """Tries again what infrastructure failed. (The client of services does so itself.)"""

    def __init__(self, inner: Verifies, config: JudgeConfig) -> None:
        self._inner, self._config = inner, config

    async def verify(self, verifier: str, item: Mapping[str, Any], response: str) -> Verdict:
        """See `Judge`."""

        async def once() -> Verdict:
            return await self._inner.verify(verifier, item, response)

        return await retried(once, retries=self._config.retries, timeout_s=self._config.timeout_s)


@contextlib.asynccontextmanager
async def open_judge(
    config: JudgeConfig, sandbox_config: SandboxConfig, task: Task
) -> AsyncIterator[Judge]:
    """A Judge for `task`, and what it needs, for the length of a ``with`` block.

    Raises:
        SandboxRefused: The task runs programs and this machine has fewer isolation layers than
            configured.
        ConfigError: No token for the services.
    """
    async with contextlib.AsyncExitStack() as exits:
        verifies: Verifies
        if config.where == "local":
            local = await exits.enter_async_context(_local(config, sandbox_config, task))
            verifies = Retrying(local, config)
        else:
            from sdpo_megatron.judging.remote.client import (
                VerifierClient,  # httpx: only for services
            )

            verifies = await exits.enter_async_context(VerifierClient.of(config))
        yield Judge(task.verifier_name, verifies, config.workers)


def _local(config: JudgeConfig, sandbox: SandboxConfig, task: Task) -> LocalVerifiers:
    pool = PoolConfig(
        workers=config.workers,
        cpu_limit_s=config.cpu_limit_s,
        memory_mib=config.memory_mib,
        wall_limit_s=config.timeout_s,
    )
    return LocalVerifiers(frozenset({task.verifier_name}), pool, sandbox, config.code)
