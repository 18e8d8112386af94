"""How many engines the machines of a run carry, and how large each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.config.budgets import sequence_tokens
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.hardware import GIB, MIB, Machines
from sdpo_megatron.planning.rank_share import num_parameters
from sdpo_megatron.weights.spec import ModelSpec

SHARED_FRACTION = 0.4
"""Of a GPU, for an engine that shares it with a trainer rank."""
OWN_FRACTION = 0.85
"""What SGLang takes of a GPU by itself, about."""
_SEQUENCES = 16
"""Sequences of the longest kind that the KV cache must hold, so that decoding is batched at all."""


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Attributes:
    number: Engines of the run.
    tp: GPUs of each.
    mem_fraction: Of each GPU; 0: SGLang decides.
    gpus: GPUs of trainer ranks that they share; empty where they have machines of their own.
    """

    number: int
    tp: int
    mem_fraction: float
    gpus: tuple[int, ...]

    def overrides(self) -> list[str]:
        """As settings of a run."""
        return [
            f"rollout.engine.num_engines={self.number}",
            f"rollout.engine.tp={self.tp}",
            f"rollout.engine.mem_fraction={self.mem_fraction:g}",
            f"rollout.engine.gpus={list(self.gpus)}",
        ]

    def within(self, config: TrainConfig, overrides: Sequence[str] = ()) -> TrainConfig:
        """`config` with these engines, but for a `mem_fraction` that `overrides` set."""
        engine = config.rollout.engine
        asked = any(one.startswith("rollout.engine.mem_fraction=") for one in overrides)
        mine = replace(
            engine,
            num_engines=self.number,
            tp=self.tp,
            mem_fraction=engine.mem_fraction if asked else self.mem_fraction,
            gpus=self.gpus,
        )
        return replace(config, rollout=replace(config.rollout, engine=mine))


def engines_for(
    config: TrainConfig, spec: ModelSpec, machines: Machines, sizes: Sequence[int] = (1, 2, 4, 8)
) -> Engines:
    """The smallest engines whose weights and KV cache fit: more of them serve more requests.

    Args:
        config: Of the run; its engines are not looked at.
        sizes: GPUs of an engine that may be tried, smallest first.

    Raises:
        ConfigError: Not even one engine a machine holds the model; the message shows the sum.
    """
    gpu = machines.gpu
    fraction = SHARED_FRACTION if machines.shared else OWN_FRACTION
    room = fraction * gpu.memory_mib * MIB
    longest = max(sequence_tokens(config).values())
    for tp in sizes:
        needed = engine_bytes(spec, tp, _SEQUENCES * longest)
        if tp <= gpu.per_node and spec.num_heads % tp == 0 and needed <= room:
            hosts = machines.engine_nodes or machines.nodes
            return Engines(
                number=hosts * gpu.per_node // tp,
                tp=tp,
                mem_fraction=SHARED_FRACTION if machines.shared else 0.0,
                gpus=tuple(range(gpu.per_node)) if machines.shared else (),
            )
    raise ConfigError(
        f"an engine of {tp} GPUs needs {needed / GIB:.1f} GiB on each (weights of "
        f"{num_parameters(spec) / 1e9:.1f} B parameters in bf16, a KV cache of {_SEQUENCES} "
        f"sequences of {longest:,} tokens), and {fraction:g} of a {gpu.title} are "
        f"{room / GIB:.1f} GiB; use larger GPUs, or engine_nodes"
    )


def engine_bytes(spec: ModelSpec, tp: int, cached_tokens: int) -> int:
    """Bytes on each GPU of an engine: bf16 weights, and keys and values of `cached_tokens`.

    Key-value heads are repeated where there are fewer than GPUs.
    """
    heads = max(1, spec.num_kv_heads // tp)
    cache = 2 * 2 * spec.num_layers * heads * spec.head_dim * cached_tokens
    return 2 * num_parameters(spec) // tp + cache
