"""What the training loop calls: an attempt's text in, a Verdict out.

The Verdict comes from this machine or from verifier services.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Question, Verdict
from sdpo_megatron.verifiers.code import CodeVerifierConfig
from sdpo_megatron.verifiers.local import LocalVerifiers, Verifies
from sdpo_megatron.verifiers.pool import PoolConfig
from sdpo_megatron.verifiers.retry import retried

if TYPE_CHECKING:
    from sdpo_megatron.sandbox import SandboxConfig
    from sdpo_megatron.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Where attempts are judged, and how patiently."""

    where: Literal["local", "endpoints"] = "local"
    """Where attempts are judged.

    local: sandbox and child processes of this machine; endpoints: services started with `sdpo
    verify serve`.
    """

    endpoints: tuple[str, ...] = ()
    """URLs of services, e.g. http://10.0.0.7:9401. ``dns+http://verifiers:9401`` means every
    address of that name."""

    token_file: str | None = None
    """File with the services' bearer token. None: the environment variable SDPO_VERIFIER_TOKEN."""

    workers: int = 2
    """Verifications at once: child processes locally, open requests to services."""

    timeout_s: float = 120.0
    """Seconds for one try of one verdict, waiting in queues included."""

    retries: int = 3
    """Tries after the first when infrastructure failed; then the attempt is dropped and counted."""

    hedge_after_s: float = 10.0
    """Seconds after which a silent service is given up on for a second one, whichever answers
    first. Services only."""

    cpu_limit_s: int = 10
    """CPU seconds of one verification outside the sandbox. Local only.

    Beyond it the response is judged wrong.
    """

    memory_mib: int = 4096
    """Address space in MiB of one child process outside the sandbox. Local only."""

    code: CodeVerifierConfig = field(default_factory=CodeVerifierConfig)
    """Limits, reward and feedback of programs. Local only: a service has its own."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: A value, or a combination, cannot work.
        """
        object.__setattr__(self, "endpoints", tuple(self.endpoints))
        if self.where not in ("local", "endpoints"):
            raise ConfigError(f"judge.where: expected local or endpoints, got {self.where!r}")
        if self.where == "endpoints" and not self.endpoints:
            raise ConfigError(
                "judge.where is endpoints, but judge.endpoints is empty: give at least one URL"
            )
        if self.where == "local" and self.endpoints:
            raise ConfigError(
                "judge.endpoints is set, but judge.where is local: set judge.where=endpoints"
            )
        for name in ("workers", "timeout_s", "hedge_after_s", "cpu_limit_s", "memory_mib"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"judge.{name}: must be positive, got {getattr(self, name)}")
        if self.retries < 0:
            raise ConfigError(f"judge.retries: must not be negative, got {self.retries}")


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
            from sdpo_megatron.verifiers.client import VerifierClient  # httpx: only for services

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
