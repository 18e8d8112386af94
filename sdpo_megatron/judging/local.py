"""Judging on this machine: programs in the sandbox, all else in the pool of bounded children."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from sdpo_megatron.errors import SdpoError, VerifierBroken
from sdpo_megatron.judging.bounds import CODE
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.pool import PoolConfig, VerifierPool
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.sandbox import Sandbox, SandboxConfig
from sdpo_megatron.verifiers.code import CodeVerifier, CodeVerifierConfig


class LocalVerifiers:
    """A `Backend`. An async context manager; the sandbox starts at the door when `code` is among
    `names`.

    Attributes:
        layers: Isolation layers of the sandbox; None where there is none.
    """

    def __init__(
        self,
        names: frozenset[str],
        pool: PoolConfig,
        sandbox: SandboxConfig,
        code: CodeVerifierConfig,
    ) -> None:
        self._names = names
        self._pool = VerifierPool(pool)
        self._sandbox_config = sandbox
        self._code_config = code
        self._code: CodeVerifier | None = None
        self.layers: tuple[str, ...] | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._exits.enter_async_context(self._pool)
            if CODE in self._names:
                await self._open_sandbox()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def _open_sandbox(self) -> None:
        sandbox = Sandbox(self._sandbox_config)
        self._exits.callback(sandbox.close)
        await asyncio.to_thread(sandbox.start)
        self._threads = ThreadPoolExecutor(sandbox.config.workers, "sdpo-sandbox")
        self._exits.callback(self._threads.shutdown, wait=False, cancel_futures=True)
        self._code = CodeVerifier(sandbox, self._code_config)
        self.layers = sandbox.layers

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def verify(self, verifier: str, item: Item, response: str) -> Verdict:
        """See `Backend`. A program is bounded by its own limits, any other verifier by the pool."""
        if verifier != CODE or self._code is None:
            return await self._pool.verify(verifier, item, response)
        loop = asyncio.get_running_loop()
        judge = self._code.verify
        try:
            return await loop.run_in_executor(self._threads, judge, item.data, response)
        except SdpoError:
            raise
        except Exception as error:  # as in the pool: a verifier's mistake, told by its name
            raise VerifierBroken(f"verifier code: {type(error).__name__}: {error}") from error
