"""Megatron's distributed AdamW and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sdpo_megatron.actor.config import OptimizerConfig
from sdpo_megatron.actor.weight_sets import ShardedWeights, WeightSet, distributed_optimizers


def learning_rate(config: OptimizerConfig, batch: int) -> float:
    """Learning rate of all optimiser steps of rollout batch `batch` (counted from 0): 0 for the
    first one of a warm-up, the peak after `warmup_steps` of them, `min_lr` after `decay_steps`.
    """
    if batch < config.warmup_steps:
        return config.lr * batch / config.warmup_steps
    if config.decay == "constant":
        return config.lr
    span = config.decay_steps - config.warmup_steps
    done = min(1.0, (batch - config.warmup_steps) / span)
    share = 1.0 - done if config.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.min_lr + (config.lr - config.min_lr) * share


def wrap_for_data_parallel(chunks: Sequence[Any], *, overlap: bool = False) -> list[Any]:
    """Megatron DDP with sharded gradients: fp32 reduction, summed (never averaged) over ranks.

    The loss already carries its denominators, so gradients are sums; `calculate_per_token_loss` in
    the model's config is what tells DDP not to average.

    Args:
        overlap: Reduce the gradients of a bucket of layers as soon as the last micro-batch's
            backward pass has left them, while it goes on with the layers before. See
            `head_gradient_notice`.
    """
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        check_for_nan_in_grad=False,
        overlap_grad_reduce=overlap,
    )
    wrapped = [DistributedDataParallel(chunk.config, config, chunk) for chunk in chunks]
    for chunk in wrapped:
        # How the schedule tells DDP which micro-batch is the last.
        chunk.config.no_sync_func = chunk.no_sync if overlap else None
    return wrapped


def head_gradient_notice(chunk: Any) -> Callable[[], None] | None:
    """What to call before the backward pass of a loss, so that DDP reduces the head's gradient with
    the others; None where nobody waits for that.

    The loss adds the head's gradient to DDP's buffer itself and gives autograd none, which DDP's
    hook refuses when it overlaps. So the hook finds an empty gradient, marked as added. A tied head
    on the first stage is also the embedding, whose own gradient comes last.
    """
    model = chunk.module
    if not chunk.ddp_config.overlap_grad_reduce or not model.post_process:
        return None
    if model.pre_process and model.share_embeddings_and_output_weights:
        return None
    weight = model.head_weight()

    def expect() -> None:
        weight.grad = torch.zeros((), dtype=weight.dtype, device=weight.device).expand(weight.shape)
        weight.grad_added_to_main_grad = True

    return expect


def build_optimizer(chunks: Sequence[Any], config: OptimizerConfig, dtype: torch.dtype) -> Any:
    """Distributed AdamW over DDP-wrapped chunks.

    The master weights are fp32 whatever `dtype` the model computes in. Weight decay is on all
    parameters, those of one dimension (norms, biases) included, as in the authors' runs: Megatron
    marks such parameters (`wd_mult`) for a scheduler of its own, which does not run here.
    """
    from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
    from megatron.core.optimizer import get_megatron_optimizer

    optimizer = get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=config.lr,
            weight_decay=config.weight_decay,
            adam_beta1=config.beta1,
            adam_beta2=config.beta2,
            adam_eps=config.eps,
            clip_grad=config.clip_grad,
            params_dtype=dtype,
            bf16=dtype == torch.bfloat16,
            use_distributed_optimizer=True,
        ),
        list(chunks),
    )
    for group in optimizer.param_groups:
        group["weight_decay"] = config.weight_decay
    return optimizer


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """For every parameter group, before the step that uses it."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def adam_state(optimizer: Any, weights: ShardedWeights) -> dict[str, WeightSet]:
    """Both moments, one fp32 tensor a shard; zeros before the first step."""
    states = _states(optimizer)
    return {
        name: [
            states[id(s.master)][name].detach()
            if states.get(id(s.master))
            else torch.zeros_like(s.master, dtype=torch.float32)
            for s in weights.shards
        ]
        for name in ("exp_avg", "exp_avg_sq")
    }


def restore_adam_state(
    optimizer: Any, weights: ShardedWeights, exp_avg: WeightSet, exp_avg_sq: WeightSet, steps: int
) -> None:
    """The inverse of `adam_state` after `steps` optimiser steps; torch counts them per parameter,
    Transformer Engine per group.
    """
    by_master = {
        id(s.master): {"exp_avg": first, "exp_avg_sq": second}
        for s, first, second in zip(weights.shards, exp_avg, exp_avg_sq, strict=True)
    }
    for part in distributed_optimizers(optimizer):
        inner = part.optimizer
        per_parameter = isinstance(inner, torch.optim.AdamW)
        for group in inner.param_groups:
            if not per_parameter:
                group["step"] = steps
            for master in group["params"]:
                step = {"step": torch.tensor(float(steps))} if per_parameter else {}
                inner.state[master] = step | by_master[id(master)]


def _states(optimizer: Any) -> dict[int, Any]:
    """Adam's state by the id of its master parameter."""
    return {
        id(master): part.optimizer.state.get(master)
        for part in distributed_optimizers(optimizer)
        for group in part.optimizer.param_groups
        for master in group["params"]
    }
