"""Each kind of teacher against the same student in plain transformers, in float64.

Written from the specification.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from sdpo_megatron.actor.config import OptimizerConfig, TeacherConfig
from sdpo_megatron.fields.reading import build
from tests.actor.worlds import made_up_samples, make_actor, small_objective, tiny_model
from tests.distributed import run_ranks

KINDS: dict[str, tuple[dict[str, Any], float | None]] = {
    "live": ({"kind": "live"}, None),
    "frozen": ({"kind": "frozen"}, None),
    "ema": ({"kind": "ema", "rate": 0.2}, None),
    "trust_region": ({"kind": "trust_region", "rate": 0.3}, None),
    "restart_freeze": ({"kind": "restart_freeze", "restart_every": 2}, None),
    "null_corrected": ({"kind": "ema", "rate": 0.2}, 0.7),
}
STEPS = 3
LR = 1e-3


def run_kinds(rank: int, world: int, folder: str) -> dict[str, list[tuple[float, float]]]:
    """(loss, gradient norm) of each step by kind, all in one process."""
    from megatron.core import parallel_state

    found = {}
    for name, (config, beta) in KINDS.items():
        actor = make_actor(
            folder,
            teacher=build(TeacherConfig, config),
            objective=small_objective(null_beta=beta),
            optimizer=OptimizerConfig(lr=LR),
        )
        steps = [actor.step(made_up_samples(0)) for _ in range(STEPS)]
        found[name] = [(one["train/loss"], one["train/grad_norm"]) for one in steps]
        parallel_state.destroy_model_parallel()
    return found


class Reference:
    """SDPO with transformers: one sequence at a time, dense logits, torch's AdamW."""

    def __init__(self, folder: str, config: dict[str, Any], beta: float | None) -> None:
        from transformers import AutoModelForCausalLM

        self.student = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        self.initial = copy.deepcopy(self.student)
        self.kept = copy.deepcopy(self.student)
        self.config, self.beta = config, beta
        decayed = [p for p in self.student.parameters() if p.ndim > 1]
        plain = [p for p in self.student.parameters() if p.ndim == 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.999), eps=1e-8)
        self.steps = 0

    def step(self, samples: list[Any]) -> tuple[float, float]:
        total = sum(sum(s.loss_mask) for s in samples if s.distill_weight)
        loss = torch.zeros((), dtype=torch.float64)
        for sample in samples:
            if sample.distill_weight:
                loss = loss + self._attempt(sample) / total
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        self._move()
        return float(loss.detach()), float(norm)

    def _logits(self, model: Any, prompt: Any, sample: Any) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *sample.response_ids]])
        return model(ids).logits[0, len(prompt) - 1 : -1]

    def _teacher(self, sample: Any, student: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            prompt = sample.teacher_prompt_ids
            if self.config["kind"] == "trust_region":
                rate = self.config["rate"]
                old, new = (self._logits(m, prompt, sample) for m in (self.initial, self.student))
                return torch.lerp(old, new, rate)
            model = self.student if self.config["kind"] == "live" else self.kept
            content = self._logits(model, prompt, sample)
            if self.beta is None:
                return content
            null = self._logits(model, sample.null_prompt_ids, sample)
            return student.detach() + self.beta * (content - null)

    def _attempt(self, sample: Any) -> torch.Tensor:
        """Jensen-Shannon, a = 0.5, on the top 20 and the tail, summed over masked tokens."""
        student = self._logits(self.student, sample.prompt_ids, sample)
        log_s = torch.log_softmax(student, -1)
        log_t = torch.log_softmax(self._teacher(sample, student), -1)
        ids = log_s.topk(20).indices
        s, t = (_with_tail(log.gather(-1, ids)) for log in (log_s, log_t))
        m = torch.log(0.5 * s.exp() + 0.5 * t.exp())
        per_token = 0.5 * (s.exp() * (s - m)).sum(-1) + 0.5 * (t.exp() * (t - m)).sum(-1)
        # One step a batch: only the weight of training against rollout engine is left, capped at 2.
        sampled = log_s.detach().gather(-1, torch.tensor(sample.response_ids)[:, None])[:, 0]
        gap = (sampled - torch.tensor(sample.log_probs, dtype=torch.float64)).clamp(-20, 20)
        weight = gap.exp().clamp(max=2.0) * torch.tensor(sample.loss_mask)
        return (weight * per_token).sum()

    @torch.no_grad()
    def _move(self) -> None:
        kind = self.config["kind"]
        if kind == "ema":
            pairs = zip(self.kept.parameters(), self.student.parameters(), strict=True)
            for old, new in pairs:
                old.lerp_(new, self.config["rate"])
        if kind == "restart_freeze" and self.steps % self.config["restart_every"] == 0:
            self.kept = copy.deepcopy(self.student)


def _with_tail(log_probs: torch.Tensor) -> torch.Tensor:
    mass = torch.logsumexp(log_probs, -1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([log_probs, torch.log(-torch.expm1(mass))], -1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model", tied=True))


@pytest.fixture(scope="module")
def ours(model: str) -> dict[str, list[tuple[float, float]]]:
    return run_ranks(run_kinds, 1, model)[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_norm_follow_the_dense_reference(
    kind: str, model: str, ours: dict[str, list[tuple[float, float]]]
) -> None:
    reference = Reference(model, *KINDS[kind])
    for step, got in enumerate(ours[kind]):
        expected = reference.step(made_up_samples(0))
        assert got == pytest.approx(expected, rel=2e-4), f"step {step}"
