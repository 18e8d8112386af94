"""What the authors' runs set, fact by fact, beside the keys of ours: the source of
docs/recipes-and-the-paper.md, and what a test holds the recipes to.

Theirs are the values that their released configuration resolves to with the scripts that made the
paper's figures (github.com/lasgroup/SDPO, a fork of verl; autumn 2026), not the paper's tables where
the two differ. `test_time` has no released script: Table 13.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SDPO = ("science", "tool_use", "livecodebench")
GRPO = ("grpo", "grpo_on_policy", "livecodebench_grpo")
TEST_TIME = ("test_time",)
RECIPES = SDPO + GRPO + TEST_TIME


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One hyperparameter.

    Attributes:
        key: Ours, a path into the run's configuration.
        theirs: Their name of it.
        values: What theirs comes to, in our terms, by recipe; absent where theirs has no such thing.
        reason: Why ours differs in the recipes of `differs`.
        differs: Recipes that differ.
    """

    key: str
    theirs: str
    values: Mapping[str, Any]
    reason: str = ""
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Something that no single value holds. `reason` is empty where the two are the same."""

    name: str
    theirs: str
    ours: str
    reason: str = ""


def _all(value: Any, **other: Any) -> dict[str, Any]:
    return dict.fromkeys(RECIPES, value) | other


def _only(recipes: tuple[str, ...], value: Any, **other: Any) -> dict[str, Any]:
    return dict.fromkeys(recipes, value) | other


_ALPHA = {"livecodebench": "reverse_kl", "test_time": "reverse_kl"}
_DISTILLING = SDPO + TEST_TIME
_TRAINING = SDPO + GRPO  # a validation while one question is searched would say nothing

FACTS: tuple[Fact, ...] = (
    Fact(key="batch.questions", theirs="data.train_batch_size", values=_all(32, test_time=1)),
    Fact(
        key="rollout.sampling.num_attempts",
        theirs="actor_rollout_ref.rollout.n",
        values=_all(8, test_time=16),
    ),
    Fact(
        key="batch.questions_per_step",
        theirs="actor.ppo_mini_batch_size",
        values=_all(0, livecodebench=1, grpo=8, livecodebench_grpo=8),
    ),
    Fact(key="batch.composition", theirs="trainer.balance_batch", values=_all("shuffled")),
    Fact(
        key="objective.off_policy",
        theirs="mini-batches smaller than the batch",
        values=_all(False, livecodebench=True, grpo=True, livecodebench_grpo=True),
    ),
    Fact(
        key="objective.denominator",
        theirs="actor.loss_agg_mode token-mean at ppo_micro_batch_size_per_gpu 1",
        values=_all("seq_mean_token_mean"),
    ),
    Fact(
        key="objective.weighting.kind",
        theirs="actor.policy_loss.loss_mode",
        values=_all("sdpo", **_only(GRPO, "grpo")),
    ),
    Fact(
        key="objective.distillation.level",
        theirs="self_distillation.full_logit_distillation",
        values=_only(_DISTILLING, "logit"),
    ),
    Fact(
        key="objective.distillation.divergence",
        theirs="self_distillation.alpha 0.5 and 1",
        values=_only(_DISTILLING, "jsd", **_ALPHA),
    ),
    Fact(
        key="objective.distillation.alpha",
        theirs="self_distillation.alpha",
        values=_only(("science", "tool_use"), 0.5),
    ),
    Fact(
        key="objective.distillation.top_k",
        theirs="self_distillation.distillation_topk",
        values=_only(_DISTILLING, 100, livecodebench=20, test_time=20),
    ),
    Fact(
        key="objective.distillation.tail",
        theirs="self_distillation.distillation_add_tail",
        values=_only(_DISTILLING, True),
    ),
    Fact(
        key="objective.distillation.advantage_clip",
        theirs="Table 13",
        values=_only(_DISTILLING, None, test_time=5.0),
    ),
    Fact(
        key="objective.importance.is_clip",
        theirs="self_distillation.is_clip",
        values=_only(_DISTILLING, 2.0),
    ),
    Fact(
        key="objective.importance.mismatch_cap",
        theirs="algorithm.rollout_correction.rollout_is_threshold, rollout_is token",
        values=_all(2.0),
    ),
    Fact(
        key="objective.policy_gradient.clip_low",
        theirs="actor.clip_ratio_low",
        values=_only(GRPO, 0.2),
    ),
    Fact(
        key="objective.policy_gradient.clip_high",
        theirs="actor.clip_ratio_high",
        values=_only(GRPO, 0.28),
    ),
    Fact(
        key="objective.policy_gradient.dual_clip",
        theirs="actor.clip_ratio_c",
        values=_only(GRPO, 3.0),
    ),
    Fact(key="objective.anchor", theirs="actor.use_kl_loss", values=_all(None)),
    Fact(
        key="teacher.kind",
        theirs="self_distillation.teacher_regularization",
        values=_only(_DISTILLING, "ema"),
    ),
    Fact(
        key="teacher.rate",
        theirs="self_distillation.teacher_update_rate",
        values=_only(_DISTILLING, 0.05, livecodebench=0.01, test_time=0.01),
    ),
    Fact(
        key="teacher.cadence",
        theirs="the reference worker moves after update_actor",
        values=_only(_DISTILLING, "per_rollout_batch"),
    ),
    Fact(
        key="optimizer.lr",
        theirs="actor.optim.lr",
        values=_all(1e-6, science=1e-5, tool_use=1e-5, grpo_on_policy=1e-5),
    ),
    Fact(
        key="optimizer.warmup_steps",
        theirs="actor.optim.lr_warmup_steps, rollout batches",
        values=_all(10, livecodebench=0, livecodebench_grpo=0, test_time=0),
    ),
    Fact(key="optimizer.decay", theirs="constant schedule with warm-up", values=_all("constant")),
    Fact(key="optimizer.weight_decay", theirs="actor.optim.weight_decay", values=_all(0.01)),
    Fact(key="optimizer.beta1", theirs="actor.optim.betas", values=_all(0.9)),
    Fact(key="optimizer.beta2", theirs="actor.optim.betas", values=_all(0.999)),
    Fact(key="optimizer.eps", theirs="torch.optim.AdamW", values=_all(1e-8)),
    Fact(key="optimizer.clip_grad", theirs="actor.grad_clip", values=_all(1.0)),
    Fact(key="precision.dtype", theirs="fp32 masters, bf16 compute", values=_all("bf16")),
    Fact(
        key="rollout.sampling.temperature",
        theirs="actor_rollout_ref.rollout.temperature",
        values=_all(1.0),
    ),
    Fact(key="rollout.sampling.top_p", theirs="actor_rollout_ref.rollout.top_p", values=_all(1.0)),
    Fact(
        key="rollout.sampling.max_prompt_tokens",
        theirs="data.max_prompt_length, filter_overlong_prompts",
        values=_all(2048),
    ),
    Fact(
        key="rollout.sampling.max_new_tokens",
        theirs="data.max_response_length",
        values=_all(8192),
    ),
    Fact(
        key="rollout.sampling.thinking",
        theirs="data.apply_chat_template_kwargs.enable_thinking",
        values=_all(False),
    ),
    Fact(
        key="batch.micro_batch_tokens",
        theirs="max_model_len; 10240 for the baselines",
        values=_all(18944, **_only(GRPO, 10240)),
        reason="a budget of packing, not of the loss: the denominator does not move with it",
        differs=RECIPES,
    ),
    Fact(
        key="rollout.teacher_prompt.template",
        theirs="self_distillation.reprompt_template",
        values=_only(
            _DISTILLING,
            "{prompt}{solution}{feedback}\n\nCorrectly solve the original question.",
        ),
    ),
    Fact(
        key="rollout.teacher_prompt.solution_template",
        theirs="self_distillation.solution_template",
        values=_only(_DISTILLING, "\nCorrect solution:\n\n{successful_attempt}"),
    ),
    Fact(
        key="rollout.teacher_prompt.feedback_template",
        theirs="self_distillation.feedback_template",
        values=_only(
            _DISTILLING,
            "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}",
        ),
    ),
    Fact(
        key="rollout.teacher_prompt.use_own_success",
        theirs="not self_distillation.dont_reprompt_on_self_success",
        values=_only(_DISTILLING, False),
    ),
    Fact(
        key="rollout.teacher_prompt.feedback_when",
        theirs="include_environment_feedback, environment_feedback_only_without_solution",
        values=_only(_DISTILLING, "no_solution", science="never", tool_use="never"),
    ),
    Fact(
        key="rollout.teacher_prompt.remove_thinking",
        theirs="self_distillation.remove_thinking_from_demonstration",
        values=_only(_DISTILLING, True),
    ),
    Fact(
        key="rollout.teacher_prompt.max_prompt_tokens",
        theirs="self_distillation.max_reprompt_len",
        values=_only(_DISTILLING, 10240),
    ),
    Fact(key="run.epochs", theirs="trainer.total_epochs", values=_only(_TRAINING, 30)),
    Fact(key="run.steps", theirs="2750 attempts (Section 5)", values=_only(TEST_TIME, 172)),
    Fact(key="validation.every", theirs="trainer.test_freq", values=_only(_TRAINING, 5)),
    Fact(
        key="validation.before_training",
        theirs="trainer.val_before_train",
        values=_only(_TRAINING, True),
    ),
    Fact(
        key="validation.num_attempts",
        theirs="actor_rollout_ref.rollout.val_kwargs.n",
        values=_only(_TRAINING, 16, livecodebench=4, livecodebench_grpo=4),
    ),
    Fact(
        key="validation.temperature",
        theirs="actor_rollout_ref.rollout.val_kwargs.temperature",
        values=_only(_TRAINING, 0.6),
    ),
    Fact(
        key="validation.top_p",
        theirs="actor_rollout_ref.rollout.val_kwargs.top_p",
        values=_only(_TRAINING, 0.95),
    ),
    Fact(
        key="validation.split",
        theirs="data.val_files",
        values=_only(_TRAINING, "test", livecodebench=None, livecodebench_grpo=None),
    ),
    Fact(
        key="task.public_fraction",
        theirs="data/split_tests.py",
        values=_only(("livecodebench", "livecodebench_grpo", "test_time"), 0.5),
    ),
    Fact(
        key="task.hidden_tests",
        theirs="train.json holds the public half alone",
        values=_only(("livecodebench", "livecodebench_grpo"), False),
    ),
    Fact(
        key="task.prefill",
        theirs="the turn is the model's",
        values=_only(("livecodebench", "livecodebench_grpo", "test_time"), "none"),
    ),
)

OPTIONS: Mapping[str, str] = {
    "batch.logits_mib": "memory of the fused loss; no number depends on it beyond rounding",
    "precision.bf16_layers": "with precision.fp8 alone, which is off in the recipes",
    "precision.fp8_format": "with precision.fp8 alone, which is off in the recipes",
    "objective.distillation.entry_clip": "off; an option of a later paper",
    "objective.distillation.null_beta": "off; an option of ours",
    "objective.distillation": "null in the baselines",
    "objective.policy_gradient": "null where there is no GRPO term",
    "objective.weighting.question_weight": "off; an option of a later paper",
    "objective.norm_length": "of another denominator",
    "objective.diagnostics": "metrics only",
    "optimizer.decay_steps": "of a decay only",
    "optimizer.min_lr": "of a decay only",
    "teacher.keep_hidden_on_host": "memory only",
    "teacher.keep_weights_on_host": "memory only",
    "rollout.sampling.concurrency": "speed only",
    "rollout.sampling.retries": "after engine errors only",
    "rollout.sampling.seed": "the run's seed",
    "rollout.teacher_prompt.use_solutions": "on, as theirs always is",
    "rollout.teacher_prompt.solution_choice": "the first by index, as theirs",
    "validation.path": "where the held-out file lies elsewhere",
    "validation.limit": "off",
    "validation.ids": "all",
    "precision.fp8": "off",
}
"""Settings of the groups above without a counterpart, or not in use, and why they do not matter."""

RULES: tuple[Rule, ...] = (
    Rule(
        name="Denominator",
        theirs="Token mean of a micro-batch of one sample, averaged over all samples of the mini-batch: "
        "a sample without a teacher adds 0 and counts.",
        ours="`seq_mean_token_mean`: the same number under any packing and layout.",
    ),
    Rule(
        name="Untaught batch",
        theirs="A mini-batch without any teacher still takes an optimiser step: gradient 0, moments and "
        "weight decay act.",
        ours="No step is taken; it is counted (`train/skipped_steps`) and said.",
        reason="a step on nothing moves the weights by momentum alone, and hides that nothing was learnt",
    ),
    Rule(
        name="Composition of a step",
        theirs="`balance_batch` sorts attempts over ranks by length, then each rank cuts its share into "
        "mini-batches: a step of 8 attempts holds about 7 questions.",
        ours="`batch.composition=shuffled`: attempts sorted by length, neighbours dealt over the steps in "
        "an order drawn from seed and batch number; 7.27 questions on average.",
        reason="theirs depends on the number of ranks; the same law without that dependence",
    ),
    Rule(
        name="Learning rate",
        theirs="One rate for all optimiser steps of a rollout batch; batch n of a warm-up, from 0, trains "
        "at n / 10 of the peak, so the first one at 0.",
        ours="The same.",
    ),
    Rule(
        name="Weight decay",
        theirs="torch's AdamW over all parameters, norms included.",
        ours="The same: Megatron's exemption of one-dimensional parameters is not used.",
    ),
    Rule(
        name="Dual clip",
        theirs="Where the advantage is negative, the ratio is followed up to 3.",
        ours="The same (`policy_gradient.dual_clip`, on by default).",
    ),
    Rule(
        name="Advantage",
        theirs="Reward minus the group's mean, no standard deviation. A group of one gets its reward.",
        ours="Reward minus the group's mean. A group of one (its siblings lost to infrastructure) gets 0.",
        reason="alone an attempt was neither better nor worse than expected; a group of one cannot be asked "
        "for, it can only be left over",
    ),
    Rule(
        name="top_k above the vocabulary",
        theirs="An error of torch.topk in the middle of the run.",
        ours="An error before anything starts, which names both numbers; `null` is the full vocabulary.",
        reason="found earlier",
    ),
    Rule(
        name="EMA",
        theirs="theta' moves once a rollout batch, in the precision of the reference worker's parameters.",
        ours="Once a rollout batch, in fp32 from the fp32 master weights.",
        reason="in bf16 a rate of 0.01 is rounded away",
    ),
    Rule(
        name="Demonstration",
        theirs="The first successful sibling by index, its own attempt excluded, thoughts removed, white "
        "space kept.",
        ours="The same; a thought that never ends is removed as well, and one that leaves nothing is no "
        "demonstration.",
        reason="half a thought is no solution",
    ),
    Rule(
        name="Feedback",
        theirs="The environment's text for this attempt, if no sibling can be shown.",
        ours="The same. Blank text is no feedback; an attempt that succeeded is shown none.",
        reason="blank feedback makes a teacher of the bare template, and its wording is all that is distilled",
    ),
    Rule(
        name="A teacher prompt that is too long",
        theirs="Cut on the right, closing sentence and generation prompt included.",
        ours="First the feedback, then the solution is shortened; what was cut is counted.",
        reason="a teacher without its generation prompt scores another position",
    ),
    Rule(
        name="LiveCodeBench's prompt",
        theirs="An expert's role, correctness on all tests, a time limit of one second, an outline invited, "
        "the code last in one block; no prefill.",
        ours="The same demands in other words (`conf/task/livecodebench.yaml`).",
        reason="their wording is theirs: set `task.instruction` to it for the last token's sake",
    ),
    Rule(
        name="LiveCodeBench's tests",
        theirs="A random half of each question's tests gives training's reward and feedback; validation "
        "runs all of them, at the training questions.",
        ours="The same; the examples of the statement are public besides.",
        reason="the statement shows them anyway",
    ),
    Rule(
        name="Data",
        theirs="SciKnowEval train / test: chemistry 1890 / 210, biology 450 / 50, materials 841 / 94, physics "
        "720 / 80. Prompts above 2048 tokens are filtered.",
        ours="The same files, `task.path` required; left-out prompts are counted "
        "(`rollout/overlong_questions`).",
    ),
    Rule(
        name="Epoch",
        theirs="The last, incomplete batch of an epoch is dropped.",
        ours="A batch may span two epochs.",
        reason="every question is asked equally often",
    ),
    Rule(
        name="Validation",
        theirs="Before training, every 5 batches and after the last; avg@n.",
        ours="The same; best@n beside it, and the same seeds in every pass.",
        reason="what differs between two passes is then the policy alone",
    ),
    Rule(
        name="Support and tail",
        theirs="The student's top K and 1 - their mass.",
        ours="The same K; the tail is summed, not subtracted. Log-probs and loss are fp32.",
        reason="digits: docs/objective.md, Departures",
    ),
    Rule(
        name="Models",
        theirs="Qwen3-8B, Olmo-3-7B-Instruct.",
        ours="Both load, train, export and are served (`model.path`).",
    ),
)
