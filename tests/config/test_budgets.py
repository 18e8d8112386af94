"""Token budgets: what contradicts itself is refused, and what is legal can be packed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdpo_megatron import config
from sdpo_megatron.actor.batches.plan import StepPlanner
from sdpo_megatron.actor.batches.share import BatchPlan, contents
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.config.budgets import check_model_context
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.weights.spec import ModelSpec

SPEC = ModelSpec(
    model_type="llama", num_layers=1, hidden=2, ffn_hidden=3, num_heads=1, num_kv_heads=1,
    head_dim=2, vocab=5, max_position=16, norm_eps=1e-6, rope_theta=1e4,
)  # fmt: skip
EXPERIMENTS = sorted(path.stem for path in (config.CONF / "experiment").glob("*.yaml"))


def longest(loaded: config.TrainConfig) -> TrainSample:
    """The longest attempt that the settings allow, under every prompt as long as it may be."""
    sampling, taught = loaded.rollout.sampling, loaded.objective.distillation is not None
    teacher = (1,) * loaded.rollout.teacher_prompt.max_prompt_tokens if taught else None
    response = sampling.max_new_tokens
    return TrainSample(
        question_id="q",
        index=0,
        prompt_ids=(1,) * sampling.max_prompt_tokens,
        response_ids=(1,) * response,
        loss_mask=(True,) * response,
        log_probs=(0.0,) * response,
        teacher_prompt_ids=teacher,
        null_prompt_ids=teacher,
        advantage=0.0,
        distill_weight=1.0,
        policy_weight=0.0,
    )


def planned(loaded: config.TrainConfig, samples: list[TrainSample]) -> list[BatchPlan]:
    """By data-parallel rank, of two."""
    planner = StepPlanner(loaded, SPEC, num_ranks=2)
    return planner.plan(SampleTable.of_samples(samples), 0)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_longest_legal_attempt_of_every_experiment_can_be_packed(name: str) -> None:
    loaded = config.load([f"experiment={name}", "model.path=/m", "task.path=/t"])
    sample, budget = longest(loaded), loaded.batch.micro_batch_tokens
    plans = planned(loaded, [sample] * 3)
    assert sorted(place for plan in plans for _, place in contents(plan)) == [0, 1, 2]
    multiple = loaded.precision.sequence_multiple(loaded.parallel)
    for step in (step for plan in plans for step in plan):
        assert all(length < budget + multiple for length in step.lengths.values())


def test_the_bound_is_exact() -> None:
    """The settings refuse one token less than the longest attempt needs, and packing does too."""
    given = ["rollout.sampling.max_new_tokens=100", "rollout.teacher_prompt.max_prompt_tokens=3000"]
    enough = config.load([*given, "batch.micro_batch_tokens=3099"])
    planned(enough, [longest(enough)])
    longer = replace(longest(enough), teacher_prompt_ids=(1,) * 3001)
    with pytest.raises(ConfigError, match=r"q attempt 0: 3100 tokens do not fit .*=3099"):
        planned(enough, [longer])
    with pytest.raises(ConfigError) as caught:
        config.load([*given, "batch.micro_batch_tokens=3098"])
    assert str(caught.value) == (
        "batch.micro_batch_tokens=3098: must be at least 3099 for "
        "rollout.teacher_prompt.max_prompt_tokens=3000 and rollout.sampling.max_new_tokens=100; "
        "raise it, or lower one of these"
    )


@pytest.mark.parametrize(
    ("overrides", "begins"),
    [
        (
            ["rollout.sampling.max_prompt_tokens=3074", "objective=grpo"],
            "batch.micro_batch_tokens=4096: must be at least 4097 for "
            "rollout.sampling.max_prompt_tokens=3074",
        ),
        (
            ["rollout.engine.max_total_tokens=3000"],
            "rollout.engine.max_total_tokens=3000: must be at least 3072 for "
            "rollout.sampling.max_prompt_tokens=2048",
        ),
        (
            ["rollout.engine.max_total_tokens=4000", "run.diagnostics_every=1"],
            "rollout.engine.max_total_tokens=4000: must be at least 4096 for "
            "rollout.teacher_prompt.max_prompt_tokens=3072",
        ),
        (
            ["rollout.engine.extra_args=[--context-length,3000]"],
            "rollout.engine.extra_args=[--context-length,3000]: --context-length must be at least "
            "3072 for rollout.sampling.max_prompt_tokens=2048",
        ),
        (
            ["rollout.teacher_prompt.max_prompt_tokens=2047"],
            "rollout.teacher_prompt.max_prompt_tokens=2047: must not be below "
            "rollout.sampling.max_prompt_tokens=2048",
        ),
    ],
)
def test_budgets_that_contradict_each_other(overrides: list[str], begins: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(overrides)
    assert str(caught.value).startswith(begins)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective=grpo", "rollout.teacher_prompt.max_prompt_tokens=9999"],  # there is no teacher
        ["rollout.engine.max_total_tokens=4000"],  # the teacher's prompts do not go to the engine
        ["rollout.engine.max_total_tokens=0"],
        ["rollout.engine.extra_args=['--context-length=3072']"],
    ],
)
def test_a_limit_counts_only_where_it_is_used(overrides: list[str]) -> None:
    config.load(overrides)


def test_a_models_context_bounds_both_sequences() -> None:
    loaded = config.load(["rollout.sampling.max_new_tokens=100"])
    check_model_context(loaded, 3172)
    with pytest.raises(ConfigError) as caught:
        check_model_context(loaded, 2147)
    student, teacher = str(caught.value).splitlines()
    assert student == (
        "rollout.sampling.max_prompt_tokens=2048: with rollout.sampling.max_new_tokens=100 a "
        "sequence has up to 2148 tokens, but the model at model.path=models/smollm2-135m-instruct "
        "has max_position_embeddings 2147; lower one of these"
    )
    assert teacher.startswith("rollout.teacher_prompt.max_prompt_tokens=3072: ")
