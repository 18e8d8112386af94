"""Real runs whose generation is ahead of their training, and kills at random."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.loops import runs
from tests.loops.audit import audit
from tests.loops.chaos import ETA, run_under_kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PER_STEP = 2  # questions; see runs.overrides
KILLS, SEED = int(os.environ.get("KILLS", "3")), int(os.environ.get("SEED", "0"))


def test_a_run_ahead_of_its_training_is_killed_and_goes_on(
    tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    more = ("rollout.max_staleness=1", "rollout.sampling.concurrency=8", "run.steps=6")
    process = runs.start(runs.overrides(tiny_llama, folder, *more))
    runs.wait_until(lambda: (folder / "checkpoints/step-000002/complete.json").exists(), process)
    runs.kill(process)
    output = runs.finish(runs.start(["--resume", str(folder)]))
    assert "resumed after step" in output
    audit(folder, per_step=PER_STEP, eta=1)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(row["rollout/staleness_max"] for row in rows) == 1
    assert all(row["train/grad_norm"] > 0 for row in rows)
    assert any(row["importance/log_prob_gap"] > 0 for row in rows if row["rollout/staleness_max"])


@pytest.mark.timeout(900 + 90 * KILLS)
def test_random_kills_lose_nothing_and_double_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    """KILLS says how many (make test-chaos: 200), SEED which."""
    killed = run_under_kills(tiny_llama, tmp_path / "run", KILLS, SEED)
    assert killed.total() == KILLS
    book = audit(tmp_path / "run", per_step=PER_STEP, eta=ETA)
    print(f"killed {dict(killed)}; {book.sums()}, begun anew {dict(book.returned)}")
