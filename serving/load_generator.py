"""What an engine gives when nothing but requests is done: the yardstick for the rollout code.

It shares no code with `client` or the sampler: one POST for each request, a fixed number in flight,
the answer's token count read and thrown away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True)
class Throughput:
    """Tokens sampled, and the wall time of it.

    Attributes:
        num_tokens: Sampled tokens of all responses.
        seconds: From the first request to the last answer.
    """

    num_tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Sampled tokens a second."""
        return self.num_tokens / self.seconds


async def bare_load(
    url: str, prompts: Sequence[Sequence[int]], *, concurrency: int, max_new_tokens: int
) -> Throughput:
    """Send every prompt once, `concurrency` at a time, log-probs asked for as in a rollout."""
    waiting = list(reversed(prompts))
    num_tokens = 0

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal num_tokens
        while waiting:
            body = {
                "input_ids": list(waiting.pop()),
                "sampling_params": {"max_new_tokens": max_new_tokens, "ignore_eos": True},
                "return_logprob": True,
            }
            async with session.post(f"{url}/generate", json=body) as response:
                response.raise_for_status()
                num_tokens += len((await response.json())["output_ids"])

    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        started = time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(concurrency)))
        return Throughput(num_tokens, time.perf_counter() - started)
