"""One rank's numbers against plain transformers in float64, and against hand-made facts.

The layouts are compared with one rank elsewhere (test_layouts.py, slow); what that one rank
computes is settled here. All actors live in one process, so that Megatron is imported once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sdpo_megatron.actor.config import BatchConfig, OptimizerConfig, TeacherConfig
from sdpo_megatron.fields.reading import build
from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.objectives import (
    GrpoWeighting,
    ImportanceConfig,
    ObjectiveConfig,
    PolicyGradientConfig,
)
from sdpo_megatron.weights.flops import forward_flops
from sdpo_megatron.weights.spec import ModelSpec
from tests.actor.reference import CAP, CLIP_HIGH, CLIP_LOW, Plan, Reference
from tests.actor.worlds import made_up_samples, make_actor, small_objective, tiny_model
from tests.distributed import run_ranks

BATCHES = 3
# Linearly from 1e-3 to 0 at batch 8; all steps of a batch have one rate.
SCHEDULE: dict[str, Any] = {"lr": 1e-3, "decay": "linear", "decay_steps": 8}
RATES = (1e-3, 0.875e-3, 0.75e-3)
RATES_OF_TWO = tuple(rate for rate in RATES for _ in range(2))

AVERAGE_BY_BATCH = "SDPO, the average moves with the batch"
PLANS: dict[str, Plan] = {
    "SDPO, the average moves with each of two steps": Plan(
        rates=RATES_OF_TWO,
        teacher={"kind": "ema", "rate": 0.2, "cadence": "per_optimizer_step"},
        questions_per_step=2,
    ),
    AVERAGE_BY_BATCH: Plan(
        rates=RATES_OF_TWO,
        teacher={"kind": "ema", "rate": 0.2, "cadence": "per_rollout_batch"},
        questions_per_step=2,
    ),
    "GRPO, two steps a batch": Plan(rates=RATES_OF_TWO, grpo=True, questions_per_step=2),
    "GRPO, one step a batch": Plan(rates=RATES, grpo=True),
}
Row = tuple[float, float]
MEASURED = ("time/", "memory/", "ranks/")


def objective(plan: Plan) -> ObjectiveConfig:
    """The plan's objective, every constant of the reference spelled out."""
    shared: dict[str, Any] = {
        "importance": ImportanceConfig(is_clip=CAP, mismatch_cap=CAP),
        "denominator": "global_token",
        "off_policy": plan.questions_per_step > 0,
    }
    if not plan.grpo:
        return replace(small_objective(divergence="jsd", alpha=0.5), **shared)
    return ObjectiveConfig(
        weighting=GrpoWeighting(),
        distillation=None,
        policy_gradient=PolicyGradientConfig(clip_low=CLIP_LOW, clip_high=CLIP_HIGH),
        **shared,
    )


def actor_of(folder: str, plan: Plan, report_attempts: int = 0) -> Any:
    return make_actor(
        folder,
        report_attempts=report_attempts,
        teacher=build(TeacherConfig, plan.teacher),
        objective=objective(plan),
        optimizer=OptimizerConfig(**SCHEDULE),
        batch=BatchConfig(
            questions=4,
            questions_per_step=plan.questions_per_step,
            micro_batch_tokens=80,
            logits_mib=0.012,
        ),
    )


def samples_of(batch: int) -> list[TrainSample]:
    return made_up_samples(batch, questions=4)


def run_all(rank: int, world: int, folder: str) -> dict[str, Any]:
    """What the tests below look at, by name."""
    from megatron.core import parallel_state

    found: dict[str, Any] = {}
    for name, plan in PLANS.items():
        actor = actor_of(folder, plan)
        found[name] = [actor.step(actor.share_of(samples_of(batch))) for batch in range(BATCHES)]
        parallel_state.destroy_model_parallel()
    found |= facts(folder)
    parallel_state.destroy_model_parallel()
    found["begun anew"] = begun_anew(folder)
    parallel_state.destroy_model_parallel()
    return found


def begun_anew(folder: str) -> list[dict[str, float]]:
    """An actor that has trained, and then trains again from where it began."""
    actor = actor_of(folder, PLANS[AVERAGE_BY_BATCH])
    first = actor.weights.snapshot()
    for batch in reversed(range(BATCHES)):
        actor.step(actor.share_of(samples_of(batch)))
    actor.begin_anew(first)
    return [actor.step(actor.share_of(samples_of(batch))) for batch in range(BATCHES)]


def facts(folder: str) -> dict[str, Any]:
    """A batch of which nothing is trained, one read by a teacher that knows no more, and one that
    is watched.
    """
    from megatron.core import parallel_state

    def weights() -> list[torch.Tensor]:
        live = [p.detach().clone() for chunk in actor.chunks for p in chunk.parameters()]
        return live + [t.clone() for t in actor.teacher.sets["ema"]]

    actor = actor_of(folder, replace(PLANS[AVERAGE_BY_BATCH], questions_per_step=0))
    before = weights()
    nothing = [replace(s, distill_weight=0.0, policy_weight=0.0) for s in samples_of(0)]
    skipped = actor.step(actor.share_of(nothing))
    after = weights()
    as_student = [replace(s, teacher_prompt_ids=s.prompt_ids) for s in samples_of(0)]
    agreeing = actor.step(actor.share_of(as_student))
    parallel_state.destroy_model_parallel()
    watched = actor_of(folder, PLANS[AVERAGE_BY_BATCH], report_attempts=5)
    metrics = watched.step(watched.share_of(samples_of(0)))
    return {
        "nothing": skipped,
        "untouched": all(torch.equal(a, b) for a, b in zip(before, after, strict=True)),
        "agreeing": agreeing,
        "watched": (metrics, watched.scored),
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model", tied=True))


@pytest.fixture(scope="module")
def found(model: str) -> dict[str, Any]:
    (one,) = run_ranks(run_all, 1, model)
    return one


@pytest.mark.parametrize("name", PLANS)
def test_every_batch_is_that_of_the_dense_reference(
    name: str, model: str, found: dict[str, Any]
) -> None:
    reference = Reference(model, PLANS[name])
    for batch, got in enumerate(found[name]):
        steps = reference.batch(samples_of(batch))
        losses, norms = zip(*steps, strict=True)
        count = len(steps)
        assert got["train/loss"] == pytest.approx(sum(losses) / count, rel=5e-4, abs=1e-5), batch
        assert got["train/grad_norm"] == pytest.approx(sum(norms) / count, rel=1e-3), batch
        assert got["train/skipped_steps"] == 0.0


def test_an_actor_that_begins_anew_is_as_a_new_one_to_the_last_digit(found: dict[str, Any]) -> None:
    def lasting(reports: list[dict[str, float]]) -> list[dict[str, float]]:
        return [
            {key: value for key, value in report.items() if not key.startswith(MEASURED)}
            for report in reports
        ]

    assert lasting(found["begun anew"]) == lasting(found[AVERAGE_BY_BATCH])


def test_a_batch_with_nothing_to_learn_moves_neither_weights_nor_teacher(
    found: dict[str, Any],
) -> None:
    assert found["nothing"]["train/skipped_steps"] == 1.0
    assert found["nothing"]["train/tokens"] == 0.0
    assert found["nothing"]["skipped/no_teacher"] == 1.0
    assert found["nothing"]["train/flops"] == 0.0
    assert found["untouched"]


def test_operations_are_those_of_the_passes(model: str, found: dict[str, Any]) -> None:
    spec = ModelSpec.from_folder(model)

    def one_pass(samples: list[TrainSample], teacher: bool = False) -> float:
        total = 0.0
        for s in samples:
            taught = teacher and s.teacher_prompt_ids is not None
            prompt = s.teacher_prompt_ids if taught else s.prompt_ids
            total += forward_flops(spec, len(prompt) + len(s.response_ids) - 1, len(s.response_ids))
        return total

    for batch in range(BATCHES):
        # A sample with any weight is read, whether or not this objective asks for that weight.
        read = [s for s in samples_of(batch) if s.distill_weight or s.policy_weight]
        got = found["GRPO, one step a batch"][batch]["train/flops"]
        assert got == pytest.approx(3 * one_pass(read))
        scored = one_pass(read)  # log pi_old, before the first of two steps
        got = found[AVERAGE_BY_BATCH][batch]["train/flops"]
        assert got == pytest.approx(3 * one_pass(read) + one_pass(read, teacher=True) + scored)


def test_a_teacher_that_reads_what_the_student_reads_agrees_with_it(found: dict[str, Any]) -> None:
    assert found["agreeing"]["train/loss"] == pytest.approx(0.0, abs=1e-7)
    assert found["agreeing"]["train/grad_norm"] == pytest.approx(0.0, abs=1e-5)
    assert found["agreeing"]["train/skipped_steps"] == 0.0


def test_tokens_are_scored_as_the_dense_reference_scores_them(
    model: str, found: dict[str, Any]
) -> None:
    """Two questions an optimiser step: the attempts at the last two are scored in the second."""
    _, scored = found["watched"]
    assert [(a.question_id, a.index) for a in scored] == [
        ("q0", 0), ("q0", 1), ("q1", 1), ("q2", 1), ("q3", 1),
    ]  # fmt: skip
    reference = Reference(model, PLANS[AVERAGE_BY_BATCH])
    samples = {(s.question_id, s.index): s for s in samples_of(0)}
    for attempt in (a for a in scored if a.question_id in ("q0", "q1")):
        sample = samples[attempt.question_id, attempt.index]
        student = reference._logits(reference.student, sample.prompt_ids, sample)
        teacher = reference._logits(reference.kept, sample.teacher_prompt_ids, sample)
        log_pi, log_q = (torch.log_softmax(x.detach(), -1) for x in (student, teacher))
        assert list(attempt.teacher_prompt_ids) == list(sample.teacher_prompt_ids)
        for place, token in enumerate(sample.response_ids):
            assert attempt.student[place] == pytest.approx(float(log_pi[place, token]), abs=2e-4)
            if not sample.loss_mask[place]:  # a tool's word: nobody is taught it
                assert (attempt.teacher[place], attempt.alternatives[place]) == (
                    attempt.student[place],
                    (),
                )
                continue
            assert attempt.teacher[place] == pytest.approx(float(log_q[place, token]), abs=2e-4)
            best = log_q[place].topk(4)
            wanted = [int(i) for i, q in zip(best.indices, best.values, strict=True) if q > -4.6]
            assert [t for t, _, _ in attempt.alternatives[place]] == wanted
            for other, q, pi in attempt.alternatives[place]:
                assert q == pytest.approx(float(log_q[place, other]), abs=2e-4)
                assert pi == pytest.approx(float(log_pi[place, other]), abs=2e-4)


def test_scoring_changes_nothing_of_the_step(found: dict[str, Any]) -> None:
    """Bit for bit."""
    watched, _ = found["watched"]
    plain = found[AVERAGE_BY_BATCH][0]
    keys = [key for key in plain if not key.startswith(("time/", "ranks/"))]
    assert {key: watched[key] for key in keys} == {key: plain[key] for key in keys}
