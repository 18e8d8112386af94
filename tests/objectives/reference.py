"""The objective dense in float64, straight from its specification; no code shared with the package.

Everything of shape [T, V] exists here, autograd does the gradients, tokens are treated one by one
where that is plainer. Slow and obvious on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass
class Terms:
    """loss (0-dim, with a graph), and per-token numbers without one."""

    loss: torch.Tensor
    log_probs: torch.Tensor
    kl: torch.Tensor | None
    student_entropy: torch.Tensor
    teacher_entropy: torch.Tensor | None
    overlap: torch.Tensor | None


def lowest_id_topk(row: torch.Tensor, k: int) -> list[int]:
    """Ids of the k largest entries; among equals the lowest id."""
    return sorted(range(len(row)), key=lambda v: (-row[v].item(), v))[:k]


def two_kl(
    name: str, alpha: float, s: torch.Tensor, t: torch.Tensor, clip: float | None
) -> torch.Tensor:
    """The divergence of one token from log-probabilities s and t over the same entries."""
    p, q = s.exp(), t.exp()
    if name == "jsd" and 0 < alpha < 1:
        m = torch.logsumexp(torch.stack([s + math.log(1 - alpha), t + math.log(alpha)]), 0)
        entries = (1 - alpha) * p * (s - m) + alpha * q * (t - m)
    elif name == "reverse_kl" or (name == "jsd" and alpha == 1):
        entries = p * (s - t)
    else:
        entries = q * (t - s)
    if clip is not None:
        entries = torch.minimum(entries, torch.full_like(entries, clip))
    return entries.sum()


def bins(log_probs: torch.Tensor, ids: list[int], tail: bool) -> torch.Tensor:
    """log-probabilities at the ids and the tail, or renormalised."""
    chosen = log_probs[ids]
    mass = torch.logsumexp(chosen, 0)
    if not tail:
        return chosen - mass
    bounded = torch.clamp(mass, max=-1e-7)
    return torch.cat([chosen, torch.log(-torch.expm1(bounded))[None]])


def dense(hidden, weight, case, data) -> Terms:
    """hidden [T, H] and weight [V, H] float64 with requires_grad; case and data as in cases.py."""
    tau = case.temperature
    student = torch.log_softmax(hidden @ weight.t() / tau, -1)
    teacher = reference = None
    if data.teacher is not None:
        logits = sum(c * (h.double() @ w.double().t()) for h, w, c in data.teacher)
        if data.student_coefficient:
            logits = logits + data.student_coefficient * (hidden @ weight.t()).detach()
        teacher = torch.log_softmax(logits / tau, -1)
    if data.reference is not None:
        reference = torch.log_softmax(
            sum(c * (h.double() @ w.double().t()) for h, w, c in data.reference) / tau, -1
        )
    y, tokens = data.token_ids, range(len(data.token_ids))
    now = torch.stack([student[t, y[t]] for t in tokens]) if len(y) else student.new_zeros(0)
    old = now.detach() if data.old_log_probs is None else data.old_log_probs.double()
    mismatch = (old - data.rollout_log_probs.double()).clamp(-20, 20).exp()
    cfg, d = case.config, case.config.distillation
    rho = (
        mismatch.clamp(max=cfg.importance.mismatch_cap)
        if cfg.importance.mismatch_cap
        else torch.ones_like(mismatch)
    )
    loss = hidden.sum() * 0 + weight.sum() * 0
    kl = None
    if d is not None:
        kl, loss_d = distillation(student, teacher, now, old, rho, case, data)
        loss = loss + loss_d
    if cfg.policy_gradient is not None:
        step, low, high = (
            (now - old).clamp(-20, 20).exp(),
            cfg.policy_gradient.clip_low,
            cfg.policy_gradient.clip_high,
        )
        for t in tokens:
            a = data.advantage[t].double()
            surrogate = torch.minimum(step[t] * a, step[t].clamp(1 - low, 1 + high) * a)
            if cfg.policy_gradient.dual_clip is not None and a < 0:
                surrogate = torch.maximum(surrogate, cfg.policy_gradient.dual_clip * a)
            loss = loss - data.policy_weight[t].double() * rho[t] * surrogate
    if cfg.anchor is not None:
        for t in tokens:
            if cfg.anchor.estimator == "sampled":
                gap = (reference[t, y[t]] - now[t]).clamp(max=20)
                value = gap.exp() - gap - 1
            else:
                k = 100 if d is None else d.top_k
                if k is None:
                    s, r = student[t], reference[t]
                else:
                    ids = lowest_id_topk(student[t].detach(), k)
                    s, r = bins(student[t], ids, True), bins(reference[t], ids, True)
                value = two_kl("reverse_kl", 0, s, r, None)
            loss = loss + cfg.anchor.coefficient * data.policy_weight[t].double() * value
    overlap = None
    if d is not None and d.level == "logit" and d.top_k is not None:
        overlap = torch.tensor(
            [
                len(
                    set(lowest_id_topk(student[t].detach(), d.top_k))
                    & set(lowest_id_topk(teacher[t], d.top_k))
                )
                / d.top_k
                for t in tokens
            ],
            dtype=torch.float64,
        )
    entropy = lambda lp: -(lp.exp() * lp).nan_to_num(0.0).sum(-1)  # noqa: E731
    return Terms(
        loss,
        now.detach(),
        kl,
        entropy(student.detach()),
        None if teacher is None else entropy(teacher),
        overlap,
    )


def distillation(student, teacher, now, old, rho, case, data):
    """(unweighted divergence of each token, weighted sum)."""
    d, cfg = case.config.distillation, case.config
    y, tokens = data.token_ids, range(len(data.token_ids))
    off_policy = (now.detach() - old).clamp(-20, 20).exp()
    if cfg.importance.is_clip is not None:
        rho = rho * off_policy.clamp(max=cfg.importance.is_clip)
    target = torch.stack([teacher[t, y[t]] for t in tokens]) if len(y) else student.new_zeros(0)
    gap = (now - target).detach()
    if d.level == "sequence":
        means = {}
        for i in set(data.sequence_ids.tolist()):
            own = [gap[t] for t in tokens if data.sequence_ids[t] == i and data.loss_mask[t]]
            means[i] = sum(own) / len(own) if own else torch.tensor(0.0, dtype=torch.float64)
        used = torch.stack([means[int(i)] for i in data.sequence_ids]) if len(y) else gap
    else:
        used = gap
    values, loss = [], student.sum() * 0
    for t in tokens:
        if d.level != "logit":
            a = (
                used[t]
                if d.advantage_clip is None
                else used[t].clamp(-d.advantage_clip, d.advantage_clip)
            )
            value = a * now[t]
            values.append(gap[t])
        else:
            if d.top_k is None:
                s, q = student[t], teacher[t]
            else:
                ids = lowest_id_topk(student[t].detach(), d.top_k)
                s, q = bins(student[t], ids, d.tail), bins(teacher[t], ids, d.tail)
            if d.advantage_clip is not None:
                q = s.detach() + (q - s.detach()).clamp(-d.advantage_clip, d.advantage_clip)
            value = two_kl(d.divergence, d.alpha, s, q, d.entry_clip)
            values.append(value.detach())
        loss = loss + data.distill_weight[t].double() * rho[t].detach() * value
    kl = torch.stack(values) if values else student.new_zeros(0)
    assert not math.isnan(float(loss.detach()))
    return kl, loss
