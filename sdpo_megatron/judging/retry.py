"""Retries of what infrastructure failed, with exponential back-off and full jitter."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sdpo_megatron.errors import SandboxRefused, VerifierUnavailable

Result = TypeVar("Result")

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 10.0


def delay_s(attempt: int) -> float:
    """Seconds before retry number `attempt` (from 1): drawn evenly up to a bound that doubles.

    Drawn, because callers that failed together must not return together.
    """
    return random.uniform(0.0, min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(attempt, 20)))


async def retried(
    call: Callable[[], Awaitable[Result]],
    *,
    retries: int,
    failed: Callable[[], None] = lambda: None,
) -> Result:
    """`call()`, again after each `VerifierUnavailable`, at most `retries` times more;
    `failed` is called after each.

    Each call is bounded by what it calls: there is no second clock here.

    Raises:
        VerifierUnavailable: The last try failed too; the message says how often it was tried.
        SandboxRefused: At once: waiting does not add an isolation layer.
    """
    for attempt in range(1, retries + 2):
        try:
            return await call()
        except SandboxRefused:
            raise
        except VerifierUnavailable as error:
            failed()
            if attempt > retries:
                raise VerifierUnavailable(f"gave up after {attempt} attempts: {error}") from error
            await asyncio.sleep(delay_s(attempt))
    raise AssertionError("unreachable: the last attempt returns or raises")
