"""Wait for many engines at once without waiting for the slowest for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from sdpo_megatron.errors import EngineDiedError, EngineError
from serving.transports.transport import Patience

K = TypeVar("K")
T = TypeVar("T")


async def settle(
    work: Mapping[K, Coroutine[Any, Any, T]], patience: Patience, what: str
) -> tuple[dict[K, T], dict[K, EngineError]]:
    """Run all of it side by side; (results, failures).

    Once `patience.quorum` have succeeded the rest get `late_after_s` more, and nobody gets more
    than the deadline: those are cancelled, and fail as late.

    Args:
        what: What they do, for the message, e.g. "took a bucket".

    Raises:
        Exception: Any that is no EngineError, after cancelling the rest.
    """
    tasks = {asyncio.ensure_future(coroutine): key for key, coroutine in work.items()}
    pending = set(tasks)
    results: dict[K, T] = {}
    failures: dict[K, EngineError] = {}
    until = patience.deadline
    try:
        while pending:
            timeout = max(0.0, until - time.monotonic())
            done, pending = await asyncio.wait(
                pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                try:
                    results[tasks[task]] = task.result()
                except EngineError as error:
                    failures[tasks[task]] = error
            if len(results) >= patience.quorum:
                until = min(until, time.monotonic() + patience.late_after_s)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    for task in pending:
        why = "its deadline passed" if until >= patience.deadline else "it is late"
        failures[tasks[task]] = EngineDiedError(
            f"{why}: {len(results)} of {len(tasks)} engines {what}, and it did not within "
            f"{patience.late_after_s:g} s of them"
        )
    return results, failures
