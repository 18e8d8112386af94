"""Judges batches on a few workers and keeps their deadlines; each item's failure is its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sdpo_megatron.errors import ConfigError, SandboxRefused, VerifierUnavailable
from sdpo_megatron.judging.backend import Backend
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.retry import retried
from sdpo_megatron.judging.service import metrics as series
from sdpo_megatron.judging.service.admission import Admission
from sdpo_megatron.judging.service.metrics import ServiceMetrics
from sdpo_megatron.judging.wire import verdict_to_json
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import BadItem

Reason = Literal["unavailable", "deadline", "unknown_item", "bad_item", "broken"]
RETRIES = 1  # of what infrastructure failed, here; the client has more, at other endpoints


@dataclass(frozen=True)
class Job:
    """One item to judge; `item` is None when the service lacks it."""

    id: str
    verifier: str
    item: Item | None
    response: str


@dataclass(frozen=True)
class Failure:
    """Why an item has no verdict; says nothing about the response."""

    reason: Reason
    message: str


class Dispatcher:
    """Judges at most `workers` items at once."""

    def __init__(
        self, backend: Backend, admission: Admission, *, workers: int, metrics: ServiceMetrics
    ) -> None:
        self._backend, self._admission, self._metrics = backend, admission, metrics
        self._slots = asyncio.Semaphore(workers)
        self._num_busy = 0

    async def judge(self, jobs: Sequence[Job], deadline_s: float | None) -> list[str]:
        """One JSON object for each job, in order: its id, and its verdict or its failure.

        Raises:
            Refused: Nothing was accepted.
        """
        known = [job.verifier for job in jobs if job.item is not None]
        if known:
            self._admission.admit(known, deadline_s)
            self._metrics.set(series.QUEUE_ITEMS.name, self._admission.num_accepted)
        end = None if deadline_s is None else time.monotonic() + deadline_s
        return list(await asyncio.gather(*(self._one(job, end) for job in jobs)))

    async def _one(self, job: Job, end: float | None) -> str:
        if job.item is None:
            return _written(job, Failure("unknown_item", "send the item to /v1/items first"))
        try:
            outcome = await self._within_deadline(job.verifier, job.item, job.response, end)
        finally:
            self._admission.leave(job.verifier)
            self._metrics.set(series.QUEUE_ITEMS.name, self._admission.num_accepted)
        try:
            line = _written(job, outcome)
        except (ValueError, TypeError, RecursionError) as error:  # what a verifier put into details
            outcome = Failure("broken", f"its verdict is not JSON: {error}")
            line = _written(job, outcome)
        self._count(job.verifier, outcome)
        return line

    async def _within_deadline(
        self, verifier: str, item: Item, response: str, end: float | None
    ) -> Verdict | Failure:
        waiting_since = time.monotonic()
        try:
            async with asyncio.timeout_at(_loop_time(end)):
                await self._slots.acquire()
        except TimeoutError:
            return Failure("deadline", "the deadline passed before a worker was free")
        ticket = self._admission.begin(verifier)
        self._busy(1)
        try:
            waited_s = time.monotonic() - waiting_since
            self._metrics.observe(series.WAIT_SECONDS.name, waited_s)
            async with asyncio.timeout_at(_loop_time(end)):
                return await self._judged(verifier, item, response)
        except TimeoutError:
            return Failure("deadline", "the deadline passed during the verification")
        finally:
            seconds = self._admission.end(ticket)
            self._metrics.observe(series.SECONDS.name, seconds, verifier=verifier)
            self._busy(-1)
            self._slots.release()

    async def _judged(self, verifier: str, item: Item, response: str) -> Verdict | Failure:
        try:
            return await retried(
                lambda: self._backend.verify(verifier, item, response), retries=RETRIES
            )
        except SandboxRefused as error:
            self._metrics.add(series.SANDBOX_REFUSALS.name)
            return Failure("unavailable", str(error))
        except VerifierUnavailable as error:
            return Failure("unavailable", str(error))
        except (BadItem, ConfigError) as error:
            return Failure("bad_item", str(error))
        except Exception as error:  # of one item: the others of its batch have their verdicts
            return Failure("broken", str(error) or type(error).__name__)

    def _count(self, verifier: str, outcome: Verdict | Failure) -> None:
        if isinstance(outcome, Failure):
            self._metrics.add(series.FAILURES.name, verifier=verifier, reason=outcome.reason)
        else:
            self._metrics.count(verifier, outcome)

    def _busy(self, change: int) -> None:
        self._num_busy += change
        self._metrics.set(series.WORKERS_BUSY.name, self._num_busy)


def _loop_time(end: float | None) -> float | None:
    """asyncio's clock is time.monotonic, but does not promise to be."""
    if end is None:
        return None
    return asyncio.get_running_loop().time() + max(0.0, end - time.monotonic())


def _written(job: Job, outcome: Verdict | Failure) -> str:
    result: dict[str, Any] = {"id": job.id, "verdict": None, "failure": None}
    if isinstance(outcome, Failure):
        result["failure"] = {"reason": outcome.reason, "message": outcome.message}
    else:
        result["verdict"] = verdict_to_json(outcome)
    return json.dumps(result, allow_nan=False)
