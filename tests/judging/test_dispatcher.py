"""Each item's failure is its own: whatever happens to one, the others of its batch have verdicts.

The backend here is a stand-in that does what its responses say, for the real ones are made not to.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError, SandboxRefused, VerifierBroken, VerifierUnavailable
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.service import metrics as series
from sdpo_megatron.judging.service.admission import Admission
from sdpo_megatron.judging.service.dispatcher import Dispatcher, Job
from sdpo_megatron.judging.service.metrics import ServiceMetrics
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import BadItem, graded

RAISED: dict[str, tuple[BaseException, str]] = {
    "value": (ValueError("Exceeds the limit (4300 digits)"), "broken"),
    "type": (TypeError("unhashable"), "broken"),
    "recursion": (RecursionError(), "broken"),
    "memory": (MemoryError(), "broken"),
    "pipe": (BrokenPipeError("gone"), "broken"),
    "unicode": (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "broken"),
    "a time-out that is not the deadline's": (TimeoutError("of its own"), "broken"),
    "broken": (VerifierBroken("it raised"), "broken"),
    "item": (BadItem("no key"), "bad_item"),
    "config": (ConfigError("no such verifier"), "bad_item"),
    "unavailable": (VerifierUnavailable("the sandbox is gone"), "unavailable"),
    "refused": (SandboxRefused("no net layer"), "unavailable"),
}
NO_JSON: dict[str, Verdict] = {
    "NaN": graded(False, value=float("nan")),
    "an object": graded(False, value=object()),
    "a set": graded(False, value={1}),
}


class Backend:
    """Raises or returns what the response names; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def verify(self, verifier: str, item: Item, response: str) -> Verdict:
        self.calls += 1
        if response == "sleep":
            await asyncio.sleep(600)
        if response in RAISED:
            raise RAISED[response][0]
        return NO_JSON.get(response) or graded(response == "right")


def judge(*responses: str, deadline_s: float | None = None, **known: bool) -> list[dict[str, Any]]:
    backend, admission = Backend(), Admission(workers=4, queue_size=99)
    dispatcher = Dispatcher(backend, admission, workers=4, metrics=ServiceMetrics())
    jobs = [Job(text, "v", Item({}) if known.get(text, True) else None, text) for text in responses]
    lines = asyncio.run(dispatcher.judge(jobs, deadline_s))
    assert admission.num_accepted == 0  # whatever happened, every place is free again
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("what", [*RAISED, *NO_JSON])
def test_one_items_failure_is_its_own(what: str) -> None:
    before, failed, after = judge("right", what, "wrong")
    assert (before["verdict"]["reward"], after["verdict"]["reward"]) == (1.0, 0.0)
    assert failed["verdict"] is None
    assert failed["failure"]["reason"] == RAISED.get(what, (None, "broken"))[1]
    assert failed["failure"]["message"]
    assert failed["id"] == what


def test_an_item_that_passes_its_deadline_leaves_the_others_alone() -> None:
    done, late = judge("right", "sleep", deadline_s=0.2)
    assert done["verdict"]["success"]
    assert late["failure"]["reason"] == "deadline"


def test_an_unknown_item_takes_no_place() -> None:
    lines = judge("right", "unknown", unknown=False)
    assert [line["failure"] and line["failure"]["reason"] for line in lines] == [
        None,
        "unknown_item",
    ]
    (alone,) = judge("unknown", unknown=False, deadline_s=0.001)
    assert alone["failure"]["reason"] == "unknown_item"


def test_the_metrics_say_what_became_of_items_and_that_all_workers_are_free_again() -> None:
    metrics = ServiceMetrics()
    dispatcher = Dispatcher(
        Backend(), Admission(workers=4, queue_size=99), workers=4, metrics=metrics
    )
    seen: list[float] = []

    async def run() -> None:
        jobs = [Job(text, "v", Item({}), text) for text in ("right", "refused", "broken", "sleep")]
        judging = asyncio.create_task(dispatcher.judge(jobs, 0.5))
        await asyncio.sleep(0.2)
        seen.append(metrics.value(series.WORKERS_BUSY.name))
        await judging

    asyncio.run(run())
    assert seen == [1.0]  # the one that sleeps
    assert metrics.value(series.WORKERS_BUSY.name) == 0.0
    assert metrics.value(series.VERDICTS.name, verifier="v", outcome="success") == 1.0
    failures = {
        reason: metrics.value(series.FAILURES.name, verifier="v", reason=reason)
        for reason in ("unavailable", "broken", "deadline")
    }
    assert failures == {"unavailable": 1.0, "broken": 1.0, "deadline": 1.0}
    assert metrics.value(series.SANDBOX_REFUSALS.name) == 1.0
