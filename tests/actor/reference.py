"""A rollout batch trained with plain transformers in float64, written from the specification.

One sequence at a time, dense logits, autograd, torch's AdamW: no code is shared with the package.
SDPO is the Jensen-Shannon divergence at a = 0.5 on the student's top 20 and the tail; GRPO the
clipped policy gradient. Sums over trained tokens are divided by their number in the optimiser step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sdpo_megatron.nouns import TrainSample

TOP_K = 20
CLIP_LOW, CLIP_HIGH = 0.2, 0.28
DUAL_CLIP = 3.0
CAP = 2.0  # of pi_old / pi_rollout, and of pi_now / pi_old on the distillation loss


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained.

    Attributes:
        rates: Learning rate of each optimiser step; the last one goes on.
        teacher: kind, rate, cadence, restart_every as in TeacherConfig.
        null_beta: Of the null-corrected teacher; None is off.
        grpo: GRPO in the place of SDPO.
        questions_per_step: Questions of an optimiser step; 0 for all.
    """

    rates: Sequence[float]
    teacher: dict[str, Any] = field(default_factory=lambda: {"kind": "frozen"})
    null_beta: float | None = None
    grpo: bool = False
    questions_per_step: int = 0


class Reference:
    """The policy, its optimiser and its teacher."""

    def __init__(self, folder: str, plan: Plan) -> None:
        from transformers import AutoModelForCausalLM

        self.student = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        self.initial = copy.deepcopy(self.student)
        self.kept = copy.deepcopy(self.student)
        self.plan = plan
        decayed = [p for p in self.student.parameters() if p.ndim > 1]
        plain = [p for p in self.student.parameters() if p.ndim == 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)
        self.steps = 0

    def batch(self, samples: Sequence[TrainSample]) -> list[tuple[float, float]]:
        """(loss, gradient norm) of each optimiser step on these samples."""
        questions = list(dict.fromkeys(s.question_id for s in samples))
        size = self.plan.questions_per_step or len(questions)
        with torch.no_grad():
            old = {(s.question_id, s.index): self._sampled(s) for s in samples}
        found = []
        for start in range(0, len(questions), size):
            chosen = questions[start : start + size]
            found.append(self._step([s for s in samples if s.question_id in chosen], old))
        if self.plan.teacher.get("cadence") == "per_rollout_batch":
            self._move_average()
        return found

    def _step(self, samples: Sequence[TrainSample], old: Any) -> tuple[float, float]:
        name = "policy_weight" if self.plan.grpo else "distill_weight"
        used = [s for s in samples if getattr(s, name)]
        total = sum(sum(s.loss_mask) for s in used)
        loss = torch.zeros((), dtype=torch.float64)
        for sample in used:
            before = old[sample.question_id, sample.index]
            term = self._grpo if self.plan.grpo else self._sdpo
            loss = loss + getattr(sample, name) * term(sample, before) / total
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rates[min(self.steps, len(self.plan.rates) - 1)]
        self.optimizer.step()
        self.steps += 1
        self._move()
        return float(loss.detach()), float(norm)

    def _grpo(self, sample: TrainSample, old: torch.Tensor) -> torch.Tensor:
        ratio = (self._sampled(sample) - old).exp()
        bounded = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
        surrogate = torch.minimum(ratio * sample.advantage, bounded * sample.advantage)
        if sample.advantage < 0:
            surrogate = surrogate.clamp(min=DUAL_CLIP * sample.advantage)
        return -(self._rollout_weight(sample, old) * surrogate).sum()

    def _sdpo(self, sample: TrainSample, old: torch.Tensor) -> torch.Tensor:
        student = self._logits(self.student, sample.prompt_ids, sample)
        log_s = torch.log_softmax(student, -1)
        log_t = torch.log_softmax(self._teacher(sample, student), -1)
        ids = log_s.topk(TOP_K).indices
        s, t = (_with_tail(log.gather(-1, ids)) for log in (log_s, log_t))
        m = torch.log(0.5 * s.exp() + 0.5 * t.exp())
        per_token = 0.5 * (s.exp() * (s - m)).sum(-1) + 0.5 * (t.exp() * (t - m)).sum(-1)
        with torch.no_grad():
            since = (_at(log_s, sample) - old).exp().clamp(max=CAP)
        return (self._rollout_weight(sample, old) * since * per_token).sum()

    def _rollout_weight(self, sample: TrainSample, old: torch.Tensor) -> torch.Tensor:
        """[R]: min(pi_old / pi_rollout, cap), 0 where the token is not trained."""
        gap = (old - torch.tensor(sample.log_probs, dtype=torch.float64)).clamp(-20, 20)
        return gap.exp().clamp(max=CAP) * torch.tensor(sample.loss_mask)

    def _teacher(self, sample: TrainSample, student: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            prompt, kind = sample.teacher_prompt_ids, self.plan.teacher["kind"]
            if kind == "trust_region":
                old, new = (self._logits(m, prompt, sample) for m in (self.initial, self.student))
                return torch.lerp(old, new, self.plan.teacher["rate"])
            model = self.student if kind == "live" else self.kept
            content = self._logits(model, prompt, sample)
            if self.plan.null_beta is None:
                return content
            null = self._logits(model, sample.null_prompt_ids, sample)
            return student.detach() + self.plan.null_beta * (content - null)

    def _sampled(self, sample: TrainSample) -> torch.Tensor:
        """[R]: the student's log-probability of each response token."""
        logits = self._logits(self.student, sample.prompt_ids, sample)
        return _at(torch.log_softmax(logits, -1), sample)

    def _logits(self, model: Any, prompt: Any, sample: TrainSample) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *sample.response_ids]])
        logits: torch.Tensor = model(ids).logits[0, len(prompt) - 1 : -1]
        return logits

    def _move(self) -> None:
        teacher = self.plan.teacher
        per_step = teacher.get("cadence", "per_optimizer_step") == "per_optimizer_step"
        if teacher["kind"] == "ema" and per_step:
            self._move_average()
        if teacher["kind"] == "restart_freeze" and self.steps % teacher["restart_every"] == 0:
            self.kept = copy.deepcopy(self.student)

    @torch.no_grad()
    def _move_average(self) -> None:
        pairs = zip(self.kept.parameters(), self.student.parameters(), strict=True)
        for old, new in pairs:
            old.lerp_(new, self.plan.teacher["rate"])


def _at(log_probs: torch.Tensor, sample: TrainSample) -> torch.Tensor:
    return log_probs.gather(-1, torch.tensor(sample.response_ids, dtype=torch.int64)[:, None])[:, 0]


def _with_tail(log_probs: torch.Tensor) -> torch.Tensor:
    mass = torch.logsumexp(log_probs, -1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([log_probs, torch.log(-torch.expm1(mass))], -1)
