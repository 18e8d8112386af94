"""What the training loop calls: an attempt's text in, a Verdict out.

The Verdict comes from this machine or from verifier services.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sdpo_megatron.errors import NoVerdict, VerifierUnavailable
from sdpo_megatron.judging.backend import Backend
from sdpo_megatron.judging.bounds import CODE
from sdpo_megatron.judging.config import JudgeConfig
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.local import LocalVerifiers
from sdpo_megatron.judging.pool import PoolConfig
from sdpo_megatron.judging.retry import retried
from sdpo_megatron.nouns import Question, Verdict
from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.series import VERIFY_INFRASTRUCTURE_FAILURES

if TYPE_CHECKING:
    from sdpo_megatron.sandbox import SandboxConfig
    from sdpo_megatron.tasks.task import Task

Warn = Callable[[str], None]
_TOOL_ITEMS = {"python": Item({"kind": "python_tool"})}


class Judge:
    """Judges attempts of one task. Call it: ``verdict = await judge(question, text)``."""

    def __init__(self, verifier: str, backend: Backend, workers: int, warn: Warn) -> None:
        """Prepare.

        Args:
            verifier: Name or import path of the verifier of the task's questions.
            backend: Who judges, retries included.
            workers: Verifications at once.
            warn: Told of each question that cannot be judged by its own or the verifier's mistake.
        """
        self._verifier, self._backend, self._warn = verifier, backend, warn
        self._slots = asyncio.Semaphore(workers)
        self._items: dict[str, Item] = {}
        self._warned: set[tuple[str, type[NoVerdict]]] = set()

    async def __call__(self, question: Question, response: str) -> Verdict:
        """The verdict on one response.

        Raises:
            NoVerdict: Drop the attempt and count it; never reward 0. VerifierUnavailable when
                infrastructure failed in every try, BadItem when the question's item is unusable,
                VerifierBroken when the verifier raised. What one response did ends no run.
        """
        async with self._slots:
            try:
                return await self._backend.verify(self._verifier, self._item(question), response)
            except VerifierUnavailable:
                raise
            except NoVerdict as error:
                self._tell(question, error)
                raise

    async def run_tool(self, question: Question, code: str) -> str:
        """What comes back to the model when it calls the question's tool with `code`. The code runs
        where programs are judged and within their limits.

        Raises:
            NoVerdict: Infrastructure failed in every try.
        """
        async with self._slots:
            return (await self._backend.verify(CODE, _TOOL_ITEMS[question.tool], code)).feedback

    def _item(self, question: Question) -> Item:
        """The question's item, so that it is hashed once and not at every attempt."""
        known = self._items.get(question.id)
        if known is None or known.data is not question.item:
            known = self._items[question.id] = Item(question.item)
        return known

    def _tell(self, question: Question, error: NoVerdict) -> None:
        key = (question.id, type(error))
        if key not in self._warned:
            self._warned.add(key)
            self._warn(f"{question.id}: an attempt is dropped, it cannot be judged: {error}")


class Retrying:
    """Tries again what infrastructure failed. (The client of services does so itself.)"""

    def __init__(self, inner: Backend, retries: int, failed: Callable[[], None]) -> None:
        self._inner, self._retries, self._failed = inner, retries, failed

    async def verify(self, verifier: str, item: Item, response: str) -> Verdict:
        """See `Backend`."""
        return await retried(
            lambda: self._inner.verify(verifier, item, response),
            retries=self._retries,
            failed=self._failed,
        )


@contextlib.asynccontextmanager
async def open_judge(
    config: JudgeConfig, sandbox: SandboxConfig, task: Task, warn: Warn, board: Board | None = None
) -> AsyncIterator[Judge]:
    """A Judge for `task`, and what it needs, for the length of a ``with`` block. `board` shows what
    infrastructure failed, and requests to services.

    Raises:
        SandboxRefused: The task runs programs and this machine has fewer isolation layers than
            configured.
        ConfigError: No token for the services.
    """
    shown = board or Board()

    def failed() -> None:
        shown.add(VERIFY_INFRASTRUCTURE_FAILURES.name, where=config.where)

    async with contextlib.AsyncExitStack() as exits:
        backend: Backend
        if config.where == "local":
            local = await exits.enter_async_context(_local(config, sandbox, task))
            backend = Retrying(local, config.retries, failed)
        else:
            from sdpo_megatron.judging.remote.client import VerifierClient  # aiohttp

            backend = await exits.enter_async_context(VerifierClient.of(config, failed, shown))
        yield Judge(task.verifier_name, backend, config.num_workers, warn)


def _local(config: JudgeConfig, sandbox: SandboxConfig, task: Task) -> LocalVerifiers:
    pool = PoolConfig(
        workers=config.num_workers, cpu_limit_s=config.cpu_limit_s, memory_mib=config.memory_mib
    )
    if not sandbox.workers:
        sandbox = replace(sandbox, workers=config.num_workers)
    names = {task.verifier_name}
    if any(question.tool for question in task.questions):
        names.add(CODE)
    return LocalVerifiers(frozenset(names), pool, sandbox, config.code)
