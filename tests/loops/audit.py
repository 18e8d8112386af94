"""What must be true of a run folder whatever happened to the run: read from its ledger, its records
and its metrics alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from sdpo_megatron.rollout.ledger.book import Book
from sdpo_megatron.rollout.ledger.ledger import Ledger
from sdpo_megatron.rollout.ledger.lines import decode
from sdpo_megatron.rollout.store import RolloutStore


def audit(folder: Path, *, per_step: int, eta: int) -> Book:
    """Nothing lost, nothing trained on twice, every token's version within the bound.

    Returns:
        The state of the ledger.
    """
    batches: dict[int, list[int]] = {}  # by step, in the history that the weights went through
    path = folder / "rollouts" / "ledger.jsonl"
    for record, _ in decode(path.read_bytes(), path):
        if record["event"] == "batch":
            batches[record["step"]] = record["positions"]
        elif record["event"] == "resume":
            batches = {step: batches[step] for step in batches if step <= record["step"]}
    reports = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [report["step"] for report in reports]
    assert steps == list(range(1, len(steps) + 1))
    assert set(steps) <= batches.keys()
    positions = [position for batch in batches.values() for position in batch]
    assert len(positions) == len(set(positions)) == per_step * len(batches)
    book = Ledger(folder / "rollouts").book
    sums = book.sums()
    assert sums["batched"] + sums["trained"] == len(positions)
    versions = [0, *(report["policy_version"] for report in reports)]
    store = RolloutStore(folder / "rollouts")
    for step in steps:
        record = store.read(step)
        assert record.version.number == versions[step - 1]
        assert len(record.groups) == per_step
        for group in record.groups:
            for attempt in group.attempts:
                spans = attempt.versions
                assert [s.start for s in spans] == [0, *(s.end for s in spans[:-1])]
                assert spans[-1].end == len(attempt.response_ids) == len(attempt.log_probs)
                found = [s.version for s in spans]
                assert found == sorted(found)
                assert versions[step - 1] - eta <= found[0] <= found[-1] <= versions[step - 1]
    return book
