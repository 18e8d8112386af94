"""Judging on this machine: programs in the sandbox, every other verifier in the pool of bounded
children."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.pool import PoolConfig, VerifierPool

if TYPE_CHECKING:
    from sdpo_megatron.sandbox import SandboxConfig
    from sdpo_megatron.verifiers.code import CodeVerifier

CODE = "code"  # the one verifier that runs the response, so it needs the sandbox and not the pool


class Verifies(Protocol):
    """Anything that judges by verifier name: this machine, or a client of a service."""

    async def verify(self, verifier: str, item: Mapping[str, Any], response: str) -> Verdict:
        """Judge one response.

        Raises:
            VerifierUnavailable: Infrastructure failed; says nothing about the response.
        """
        ...


class LocalVerifiers:
    """Judges by verifier name. An async context manager; the sandbox starts at the door when `code`
    is among `names`."""

    def __init__(self, names: frozenset[str], pool: PoolConfig, sandbox: SandboxConfig) -> None:
        self._names = names
        self._pool = VerifierPool(pool)
        self._sandbox_config = sandbox
        self._code: CodeVerifier | None = None
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._exits.enter_async_context(self._pool)
        if CODE in self._names:  # imported here: a task that runs no programs needs no sandbox
            from sdpo_megatron.sandbox import Sandbox
            from sdpo_megatron.verifiers.code import CodeVerifier

            sandbox = await self._exits.enter_async_context(Sandbox(self._sandbox_config))
            self._code = CodeVerifier(sandbox)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._exits.aclose()

    async def verify(self, verifier: str, item: Mapping[str, Any], response: str) -> Verdict:
        """Judge one response.

        Raises:
            BadItem, ConfigError, VerifierBroken, VerifierUnavailable: See `pool`.
        """
        if verifier == CODE and self._code is not None:
            return await asyncio.to_thread(self._code.verify, item, response)
        return await self._pool.verify(verifier, item, response)
