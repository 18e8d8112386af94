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


class RetryLater(VerifierUnavailable):
    """The service is there but full, and says how many seconds to wait."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


def delay_s(attempt: int, error: BaseException) -> float:
    """Seconds before retry number `attempt` (from 1): drawn evenly up to a bound that doubles."""
    bound = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(attempt, 20))
    asked = min(error.after_s, MAX_DELAY_S) if isinstance(error, RetryLater) else 0.0
    return asked + random.uniform(
        0.0, bound
    )  # jitter: callers that failed together must not return together


async def retried(
    call: Callable[[], Awaitable[Result]], *, retries: int, timeout_s: float
) -> Result:
    """`call()`, again after each `VerifierUnavailable` or time-out, at most `retries` times more.

    Raises:
        VerifierUnavailable: The last attempt failed too; the message says how often it was tried.
        SandboxRefused: At once: waiting does not add an isolation layer.
    """
    for attempt in range(1, retries + 2):
        try:
            return await asyncio.wait_for(call(), timeout_s)
        except SandboxRefused:
            raise
        except (VerifierUnavailable, TimeoutError) as error:
            if attempt > retries:
                why = str(error) or f"no verdict within {timeout_s:.0f} s"
                raise VerifierUnavailable(f"gave up after {attempt} attempts: {why}") from error
            await asyncio.sleep(delay_s(attempt, error))
    raise AssertionError("unreachable: the last attempt returns or raises")
