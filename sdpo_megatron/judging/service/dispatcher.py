"""Accepts items up to a bound, judges them on a few workers, and keeps their deadlines."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sdpo_megatron.errors import ConfigError, SdpoError, VerifierUnavailable
from sdpo_megatron.judging.local import Verifies
from sdpo_megatron.judging.retry import retried
from sdpo_megatron.judging.service.metrics import ServiceMetrics
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import BadItem

Reason = Literal["unavailable", "deadline", "bad_item", "broken"]
RETRYABLE: frozenset[str] = frozenset(
    {"unavailable", "deadline"}
)  # the others fail the same way again
RETRIES = 1  # of what infrastructure failed, here; the client has more, at other endpoints
FIRST_GUESS_S = 0.1  # seconds an item takes, before any was measured
MAX_RETRY_AFTER_S = 60


@dataclass(frozen=True)
class Job:
    """One item to judge."""

    id: str
    verifier: str
    item: Mapping[str, Any]
    response: str


@dataclass(frozen=True)
class Outcome:
    """A verdict, or why there is none. A missing verdict says nothing about the response."""

    id: str
    verdict: Verdict | None = None
    reason: Reason | None = None
    message: str = ""


class QueueFull(Exception):
    """The batch would pass the bound; `retry_after_s` is when a place is likely."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Dispatcher:
    """Judges batches with at most `workers` items at once and `queue_size` items accepted."""

    def __init__(
        self, verifies: Verifies, *, workers: int, queue_size: int, metrics: ServiceMetrics
    ) -> None:
        self._verifies = verifies
        self._workers = workers
        self._queue_size = queue_size
        self._metrics = metrics
        self._slots = asyncio.Semaphore(workers)
        self._accepted = 0
        self._mean_s = FIRST_GUESS_S  # moving average of the seconds of one item
        metrics.queue_size.set(queue_size)

    @property
    def full(self) -> bool:
        """Whether not one more item would be accepted."""
        return self._accepted >= self._queue_size

    async def judge(self, jobs: Sequence[Job], deadline_s: float) -> list[Outcome]:
        """Outcomes in the order of `jobs`, all of them within about `deadline_s` seconds.

        Raises:
            QueueFull: Nothing was accepted.
        """
        if self._accepted + len(jobs) > self._queue_size:
            raise QueueFull(self._retry_after_s())
        self._count(len(jobs))
        end = time.monotonic() + deadline_s
        return list(await asyncio.gather(*(self._one(job, end) for job in jobs)))

    def _retry_after_s(self) -> int:
        seconds = math.ceil(self._accepted * self._mean_s / self._workers)
        return max(1, min(seconds, MAX_RETRY_AFTER_S))

    def _count(self, change: int) -> None:
        self._accepted += change
        self._metrics.queued.set(self._accepted)

    async def _one(self, job: Job, end: float) -> Outcome:
        try:
            outcome = await self._within_deadline(job, end)
        finally:
            self._count(-1)
        if outcome.verdict is None:
            self._metrics.failures.labels(job.verifier, outcome.reason).inc()
        else:
            self._metrics.verdicts.labels(job.verifier, _label(outcome.verdict)).inc()
        return outcome

    async def _within_deadline(self, job: Job, end: float) -> Outcome:
        waiting_since = time.monotonic()
        try:
            await asyncio.wait_for(self._slots.acquire(), max(0.0, end - waiting_since))
        except TimeoutError:
            return Outcome(job.id, None, "deadline", "the deadline passed before a worker was free")
        try:
            started = time.monotonic()
            self._metrics.wait_seconds.observe(started - waiting_since)
            outcome = await self._judged(job, max(0.01, end - started))
            seconds = time.monotonic() - started
            self._mean_s += 0.05 * (seconds - self._mean_s)
            self._metrics.seconds.labels(job.verifier).observe(seconds)
            return outcome
        finally:
            self._slots.release()

    async def _judged(self, job: Job, seconds: float) -> Outcome:
        async def once() -> Verdict:
            return await self._verifies.verify(job.verifier, job.item, job.response)

        try:  # the deadline is the outer bound, so the inner one must not come first
            verdict = await asyncio.wait_for(
                retried(once, retries=RETRIES, timeout_s=2 * seconds), seconds
            )
        except TimeoutError:
            return Outcome(job.id, None, "deadline", "the deadline passed during the verification")
        except VerifierUnavailable as error:
            return Outcome(job.id, None, "unavailable", str(error))
        except (BadItem, ConfigError, RecursionError) as error:
            return Outcome(job.id, None, "bad_item", str(error))
        except SdpoError as error:
            return Outcome(job.id, None, "broken", str(error))
        return Outcome(job.id, verdict)


def _label(verdict: Verdict) -> str:
    if verdict.success:
        return "success"
    return "wrong" if verdict.format_ok else "unreadable"
