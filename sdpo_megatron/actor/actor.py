"""The actor: the policy's Megatron model with its optimiser and its self-teacher, on this rank.

One `step` is the right half of the picture in docs/a-step.md: teacher forward (no gradient),
student forward and backward, optimiser step. All ranks construct it and call every method together,
each with its data-parallel rank's share of the samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpo_megatron.actor.agree import first_problem, from_rank_0, sum_over_data_parallel
from sdpo_megatron.actor.batches.batch_loss import BatchLoss
from sdpo_megatron.actor.batches.counts import StepCounts
from sdpo_megatron.actor.batches.minibatch import Minibatch
from sdpo_megatron.actor.batches.plan import StepPlanner
from sdpo_megatron.actor.batches.share import BatchShare, contents, filled
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.actor.checkpoint import CheckpointWriter, Saved, load, whole_checkpoints
from sdpo_megatron.actor.config import ActorConfig
from sdpo_megatron.actor.drift import DriftGate, fp8_gap
from sdpo_megatron.actor.fault import first_bad_layer
from sdpo_megatron.actor.model.pipeline import Pipeline
from sdpo_megatron.actor.optimizer import (
    adam_state,
    build_optimizer,
    head_gradient_notice,
    learning_rate,
    restore_adam_state,
    set_learning_rate,
    wrap_for_data_parallel,
)
from sdpo_megatron.actor.runtime import Runtime
from sdpo_megatron.actor.teacher import Targets, Teacher, head_weight
from sdpo_megatron.actor.token_scores import TokenScoring
from sdpo_megatron.actor.weight_sets import ShardedWeights, WeightSet
from sdpo_megatron.actor.work import over_ranks
from sdpo_megatron.errors import NumericsError
from sdpo_megatron.nouns import ScoredAttempt, TrainSample
from sdpo_megatron.objectives import HeadOptions, build_objective, chunk_within, head_log_probs
from sdpo_megatron.objectives.health import summarise
from sdpo_megatron.weights.spec import ModelSpec

OldLogProbs = list[torch.Tensor]
"""log pi_old [R] of each micro-batch's response tokens; an empty list before the last stage."""


class Actor:
    """Model, optimiser and teacher of this rank.

    Attributes:
        on_phase: Called when a step comes to its teacher, student or optimizer part, and with
            "other" when that is over.
        scored: On rank 0, up to `report_attempts` attempts of the last batch as student and teacher
            saw them.
        gate: Is told of log-probabilities that drift apart before an optimiser step is taken.
    """

    on_phase: Callable[[str], object] = staticmethod(lambda phase: None)

    def __init__(
        self,
        config: ActorConfig,
        spec: ModelSpec,
        model_folder: str | Path,
        runtime: Runtime,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        report_attempts: int = 0,
    ) -> None:
        """Build the model and load the Hugging Face checkpoint of `model_folder` into it.

        Needs an initialised torch.distributed world.

        Args:
            config: The actor's groups of the run's configuration.
            spec: Of the model in `model_folder`.
            model_folder: config.json and safetensors.
            runtime: Of this process.
            temperature: Of the rollouts: all distributions of the loss are taken at it.
            seed: Of Megatron's random states and of the composition of optimiser steps.
            report_attempts: Attempts of a batch whose tokens are scored for a reader.

        Raises:
            ConfigError: The layout or the objective does not fit the model.
            ModelFileError: The folder's files are not those of the model.
        """
        from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
        from sdpo_megatron.weights.load import load_hf_weights

        self.config, self.spec, self.runtime = config, spec, runtime
        self.objective = build_objective(config.objective)
        self.objective.check(spec.vocab)
        init_model_parallel(config.parallel, seed=seed)
        models = build_model(spec, config.parallel, config.precision)
        load_hf_weights(models, spec, Path(model_folder))
        for model in models:
            model.config.finalize_model_grads_func = self._reduce_gradients
        self.chunks = wrap_for_data_parallel(models, overlap=config.parallel.overlap_grad_reduce)
        self.optimizer = build_optimizer(
            self.chunks, config.optimizer, config.precision.torch_dtype
        )
        self.pipeline = Pipeline(self.chunks)
        self.weights = ShardedWeights(
            self.chunks, self.optimizer, sets_on_host=config.teacher.keep_weights_on_host
        )
        self._checkpoints = CheckpointWriter(self.weights, self.chunks)
        self.teacher = Teacher(config.teacher, self.objective, self.weights, self.pipeline)
        self.gate = DriftGate(config.drift, ["trainer"] if config.precision.fp8 else [])
        self.optimizer_steps = 0
        self.rollout_batches = 0
        self.scored: list[ScoredAttempt] = []
        self._seed, self._report_attempts = seed, report_attempts
        self._options = _head_options(config, spec, temperature)
        self._reduction_began = 0.0

    # --- one rollout batch ------------------------------------------------------------------------

    def share_of(self, samples: Sequence[TrainSample]) -> BatchShare:
        """This rank's share of the next rollout batch, for callers that hold all of its samples in
        memory (tests, benchmarks); a run plans on receipts and reads its own share from files.
        """
        from megatron.core import parallel_state

        planner = StepPlanner(
            self.config,
            self.spec,
            num_ranks=parallel_state.get_data_parallel_world_size(),
            seed=self._seed,
        )
        plans = planner.plan(SampleTable.of_samples(samples), self.rollout_batches)
        mine = plans[parallel_state.get_data_parallel_rank()]
        return filled(mine, [samples[place] for _, place in contents(mine)])

    def step(self, share: BatchShare) -> dict[str, float]:
        """Train on a rollout batch: one optimiser step, or several (`batch.questions_per_step`), at
        one learning rate.

        Returns:
            Metrics of the batch (keys of `observability.metrics`), the same on every rank; those of
            several optimiser steps are averaged.

        Raises:
            NumericsError: NaN or infinity; the optimiser step was not taken.
            DriftError: As `DriftGate`; the optimiser step was not taken.
        """
        minibatches = [Minibatch(self.config, self.runtime, part) for part in share]
        drift = self._fp8_drift(minibatches)
        self.rollout_batches += 1
        start = time.monotonic()
        old = [self._old_log_probs(minibatch) for minibatch in minibatches]
        scoring_s = time.monotonic() - start
        scoring = self._token_scoring(share)
        reports = [
            self._optimizer_step(minibatch, scored, scoring)
            for minibatch, scored in zip(minibatches, old, strict=True)
        ]
        self.scored = scoring.gathered() if scoring else []
        taken = [report for report in reports if report]
        if taken:
            self.teacher.after_rollout_batch()
        metrics = (
            {key: sum(report[key] for report in taken) / len(taken) for key in taken[0]}
            if taken
            else {}
        )
        for phase in ("teacher", "student", "optimizer"):
            key = f"time/{phase}_s"
            metrics[key] = sum(report.get(key, 0.0) for report in taken)
        metrics["time/student_s"] += scoring_s
        metrics["train/tokens"] = sum(report["train/tokens"] for report in taken)
        metrics["train/flops"] = sum(report["train/flops"] for report in taken)
        metrics["train/skipped_steps"] = float(len(reports) - len(taken))
        for minibatch, report in zip(minibatches, reports, strict=True):
            if not report:
                key = f"skipped/{self._why_skipped(minibatch.share.counts)}"
                metrics[key] = metrics.get(key, 0.0) + 1.0
        student_s = sum(report["student_s"] for report in taken)
        metrics.pop("student_s", None)
        if taken:
            held = sum(sample.nbytes for sample in contents(share))
            metrics |= over_ranks(
                {
                    "student_s": student_s,
                    "memory_bytes": float(self.runtime.peak_memory_bytes()),
                    "sample_bytes": float(held),
                }
            )
        return metrics | drift | self._distance()

    def _fp8_drift(self, minibatches: Sequence[Minibatch]) -> dict[str, float]:
        """FP8 against bf16 on a micro-batch a rank, where that is due before this batch."""
        every = self.config.drift.fp8_every
        if "trainer" not in self.gate.in_fp8 or not every or self.rollout_batches % every:
            return {}
        batch = next((b for b in minibatches if b.share.counts.trained_tokens), None)
        if batch is None:
            return {}
        gap = fp8_gap(
            self.pipeline,
            batch.packed({"student"})["student"][:1],
            lambda number, hidden: self._log_probs(hidden, batch.mine[number]),
        )
        self.gate.fp8_gap(gap)
        return {"drift/fp8_gap": gap}

    def _token_scoring(self, share: BatchShare) -> TokenScoring | None:
        """None where nobody asked, or nobody teaches: then no rank scores or sends anything."""
        if not self._report_attempts or not self.objective.needs_teacher:
            return None
        return TokenScoring(contents(share), self._report_attempts)

    def _why_skipped(self, counts: StepCounts) -> str:
        """The reason why nothing could be learnt from these samples, as a metric names it."""
        if not counts.distill.samples:
            return "no_attempts"
        distils = self.objective.config.distillation is not None
        reinforces = self.objective.config.policy_gradient is not None
        if distils and reinforces:
            return "no_signal"
        return "no_teacher" if distils else "no_advantage"

    def begin_anew(self, weights: WeightSet) -> None:
        """Weights, optimiser, teacher and schedule as of an actor that was just built on `weights`
        (a `ShardedWeights.snapshot`); collective.
        """
        self.optimizer_steps = self.rollout_batches = 0
        self.weights.restore(weights)
        zeros = [torch.zeros_like(one) for one in weights]
        again = [torch.zeros_like(one) for one in weights]
        restore_adam_state(self.optimizer, self.weights, zeros, again, 0)
        self.teacher.begin_anew()

    def null_teacher_kl(self, share: BatchShare) -> float:
        """Mean divergence between the student and a teacher that saw the template without content.

        In nats per token. What of the distillation signal is the wording of the prompt alone
        (docs/metrics.md). NaN where a distilled sample has no null prompt, or none is distilled.
        No gradients; two forward passes.
        """
        parts = [part for part in share if part.counts.distill.tokens]
        if not parts or not all("null" in part.lengths for part in parts):
            return float("nan")
        kl, tokens = 0.0, 0.0
        for part in parts:
            batch = Minibatch(self.config, self.runtime, part)
            targets = self.teacher.score_null(batch.packed({"null"})["null"])
            states = self.pipeline.hidden_states(batch.packed({"student"})["student"])
            loss = self._loss(batch, targets)
            with torch.no_grad():
                reports = [loss(number, hidden)[1] for number, hidden in enumerate(states)]
            self._fail_together(loss.fault, batch)
            sums = sum_over_data_parallel(_total(reports))
            kl, tokens = kl + sums["kl"], tokens + sums["distill_tokens"]
        return kl / tokens

    def _optimizer_step(
        self, batch: Minibatch, old: OldLogProbs | None, scoring: TokenScoring | None
    ) -> dict[str, float]:
        """One step on these samples; an empty dict when nothing in them can be learnt from."""
        counts = batch.share.counts
        if counts.trained_tokens == 0:
            return {}
        clock = _Clock(self.runtime)
        self.on_phase("teacher")
        targets = self.teacher.score(batch.packed(self.teacher.roles))
        clock.lap("teacher")
        self.on_phase("student")
        loss = self._loss(batch, targets, old, scoring)
        student_started = time.monotonic()
        reports = self.pipeline.forward_backward(batch.packed({"student"})["student"], loss)
        self._fail_together(loss.fault, batch)
        clock.lap("student")
        sums = sum_over_data_parallel(_total(reports))
        health = summarise(sums, self.objective)
        self.gate.engine_gap(health["importance/log_prob_gap"])
        self.on_phase("optimizer")
        norm, rate = self._update(batch)
        clock.lap("optimizer")
        self.on_phase("other")
        return {
            **health,
            "train/loss": sums["loss"],
            "train/grad_norm": norm,
            "train/learning_rate": rate,
            "train/tokens": float(counts.trained_tokens),
            "train/num_micro_batches": float(len(batch.mine)),
            "train/flops": batch.share.flops,
            "student_s": self._reduction_began - student_started,
            **clock.laps,
        }

    def _reduce_gradients(self, chunks: list[Any], _num_tokens: Any = None, **named: Any) -> None:
        """Megatron's gradient reduction, not divided by tokens: the loss carries its denominators.

        It waits for the data-parallel peers, so what a rank itself worked ends here.
        """
        from megatron.core.distributed import finalize_model_grads

        self.runtime.synchronize()
        self._reduction_began = time.monotonic()
        finalize_model_grads(chunks, None, **named)

    def _loss(
        self,
        batch: Minibatch,
        targets: Sequence[Targets],
        old: OldLogProbs | None = None,
        scoring: TokenScoring | None = None,
    ) -> BatchLoss:
        return BatchLoss(
            self.objective,
            head_weight(self.chunks),
            self._options,
            batch.mine,
            batch.packed({"student"})["student"],
            batch.share.counts,
            targets,
            old,
            scoring,
            before_backward=head_gradient_notice(self.chunks[-1]),
        )

    def _update(self, batch: Minibatch) -> tuple[float, float]:
        """Clip and step; returns (gradient norm before clipping, learning rate)."""
        self.optimizer.prepare_grads()
        norm = float(self.optimizer.get_grad_norm())
        # NaN compares false as well.
        bad = None if norm < float("inf") else f"the gradient norm is {norm}"
        self._fail_together(bad, batch)
        rate = learning_rate(self.config.optimizer, self.rollout_batches - 1)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.optimizer_steps += 1
        self.teacher.after_optimizer_step(self.optimizer_steps)
        return norm, rate

    def _fail_together(self, fault: str | None, batch: Minibatch) -> None:
        """NumericsError on every rank when any saw a fault; it names rank, layer and sample."""
        mine = None if fault is None else f"rank {torch.distributed.get_rank()}: {fault}"
        if (problem := first_problem(mine)) is None:
            return
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        where = first_bad_layer(self.pipeline, batch.packed({"student"})["student"])
        raise NumericsError(
            f"optimiser step {self.optimizer_steps + 1} was not taken: {problem}; {where}. The "
            "last checkpoint is good; lower "
            "optimizer.lr, or look at the named sample in the run's rollouts"
        )

    def _old_log_probs(self, batch: Minibatch) -> OldLogProbs | None:
        """log pi_old of a minibatch, before the first optimiser step on the rollout batch; None
        where the objective does not ask. Scored in the micro-batches that it will be trained in, so
        it stays where it is needed.
        """
        if not self.objective.needs_old_log_probs or not batch.share.counts.trained_tokens:
            return None
        states = self.pipeline.hidden_states(batch.packed({"student"})["student"])
        return [
            self._log_probs(hidden, chosen)
            for hidden, chosen in zip(states, batch.mine, strict=False)
        ]

    def _log_probs(self, hidden: torch.Tensor, samples: Sequence[TrainSample]) -> torch.Tensor:
        """log pi [R] of the samples' responses, of their hidden states [R, H] on the last stage."""
        weight = head_weight(self.chunks)
        assert weight is not None
        ids = np.concatenate([np.zeros(0, np.int64), *(s.response_ids for s in samples)])
        return head_log_probs(
            hidden, weight.detach(), torch.from_numpy(ids).to(hidden.device), self._options
        )

    def _distance(self) -> dict[str, float]:
        """|live - ema| / |live|, over all shards of all ranks."""
        if "ema" not in self.teacher.sets:
            return {}
        squares = self.weights.distance_squared(self.teacher.sets["ema"])
        torch.distributed.all_reduce(squares)
        return {"teacher/ema_distance": float((squares[0] / squares[1]).sqrt())}

    # --- checkpoints ------------------------------------------------------------------------------

    def save(
        self,
        root: Path,
        step: int,
        common: Mapping[str, Any],
        *,
        keep: int,
        may_commit: Callable[[], None] = lambda: None,
    ) -> Saved:
        """Write a checkpoint of everything that the next step depends on, with `common` beside it;
        `step` is the number of rollout batches trained on.

        `may_commit` as in `CheckpointWriter.begin`.

        Raises:
            CheckpointError: Disk full or not writable; earlier checkpoints are untouched.
        """
        self.begin_save(root, step, common, keep=keep, may_commit=may_commit, background=False)
        saved = self.finish_save(wait=True)
        assert saved is not None
        return saved

    def begin_save(
        self,
        root: Path,
        step: int,
        common: Mapping[str, Any],
        *,
        keep: int,
        may_commit: Callable[[], None] = lambda: None,
        background: bool = True,
    ) -> None:
        """As `save`, but it is written while training goes on, and `finish_save` says how it went:
        it must have done so before the next begins.
        """
        moments = adam_state(self.optimizer, self.weights)
        sets = {"master": [s.master for s in self.weights.shards], **moments}
        sets |= {f"teacher_{name}": values for name, values in self.teacher.sets.items()}
        extra = {
            "optimizer_steps": self.optimizer_steps,
            "rng": torch.get_rng_state(),
            **common,
        }
        self._checkpoints.begin(
            root, step, sets, extra, keep=keep, may_commit=may_commit, background=background
        )

    def finish_save(self, *, wait: bool) -> Saved | None:
        """`CheckpointWriter.finish`."""
        return self._checkpoints.finish(wait=wait)

    def load_newest(self, root: Path) -> dict[str, Any] | None:
        """Go on from the newest whole checkpoint below `root`; returns its common part, or None
        when there is none.

        Raises:
            CheckpointError: It is of another model or teacher.
        """
        first = torch.distributed.get_rank() == 0
        newest = from_rank_0(whole_checkpoints(root)[-1:] if first else [])
        if not newest:
            return None
        teacher = [f"teacher_{name}" for name in self.teacher.sets]
        names = ["master", "exp_avg", "exp_avg_sq", *teacher]
        sets, common = load(newest[0][1], self.weights, self._checkpoints.parts, names)
        self.optimizer_steps = common["optimizer_steps"]
        self.rollout_batches = newest[0][0]
        torch.set_rng_state(common["rng"])
        restore_adam_state(
            self.optimizer, self.weights, sets["exp_avg"], sets["exp_avg_sq"], self.optimizer_steps
        )
        self.weights.restore(sets["master"])
        for name in self.teacher.sets:
            self.teacher.sets[name] = self.weights.kept(sets[f"teacher_{name}"])
        return common


class _Clock:
    """Seconds between laps, the device's work included."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        self._runtime.synchronize()
        now = time.monotonic()
        self.laps[f"time/{phase}_s"] = now - self._last
        self._last = now


def _head_options(config: ActorConfig, spec: ModelSpec, temperature: float) -> HeadOptions:
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    rows = spec.padded_vocab(config.parallel.tensor) // config.parallel.tensor
    return HeadOptions(
        temperature=temperature,
        chunk_tokens=chunk_within(config.batch.logits_mib, rows),
        tp_group=group if group.size() > 1 else None,
        vocab_size=spec.vocab,
    )


def _total(reports: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Sums over micro-batches; [] before the last stage."""
    return (
        {key: torch.stack([r[key].double() for r in reports]).sum(0) for key in reports[0]}
        if reports
        else {}
    )
