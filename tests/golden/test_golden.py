"""The first five steps of SDPO and GRPO on recorded attempts: the numbers of tests/golden/*.json.

A difference means that the numerics changed. Where that is meant: `make golden`, and say so in
CHANGELOG.md.
"""

from __future__ import annotations

import json

import pytest

from tests.actor.worlds import tiny_model
from tests.distributed import run_ranks
from tests.golden.replay import NUM_ATTEMPTS, OBJECTIVES, STEPS, golden_file, recorded, replay

TOLERANCE = 5e-5
"""Other vector instructions of one processor make up to 1e-5: float32 sums in another order."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradient_norms_are_the_recorded_ones(name: str, model: str) -> None:
    expected = json.loads(golden_file(name).read_text())
    (found,) = run_ranks(replay, 1, model, name)
    assert len(found) == len(expected) == STEPS
    for step, (got, want) in enumerate(zip(found, expected, strict=True)):
        assert got == pytest.approx(want, rel=TOLERANCE, abs=1e-7), (
            f"step {step}: the numerics changed; where that is meant, run `make golden` and say so "
            "in CHANGELOG.md"
        )


def test_the_recorded_batches_have_something_of_everything() -> None:
    for batch in recorded():
        assert len({sample.question_id for sample in batch}) * NUM_ATTEMPTS == len(batch)
        assert {sample.success for sample in batch} == {True, False}
        assert any(sample.teacher_prompt_ids is not None for sample in batch)
        assert any(sample.advantage for sample in batch)
