"""Which GPU belongs to whom on this machine, settled before any process starts.

    disaggregated   engines have GPUs of their own: those after the ranks', or `rollout.engine.gpus`
    colocated       `rollout.engine.gpus` names GPUs of ranks: both must fit, so the engine's share
                    is `rollout.engine.mem_fraction`, given and below 1/2; or below 0.9 where they
                    take turns (`rollout.engine.release_memory`): the trainer then keeps its
                    parameters and optimiser beside an engine that works, and no engine beside it

GPUs are counted among those that this process may see, from 0; what CUDA_VISIBLE_DEVICES says of
them is kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from serving.config import EngineConfig

COLOCATED_FRACTION = 0.5
IN_TURN_FRACTION = 0.9


@dataclass(frozen=True)
class Placement:
    """Attributes:
    ranks: GPU of each trainer rank of this machine; empty when it trains on the CPU.
    engines: GPUs of each engine that is started here; empty when they run on the CPU, or
        elsewhere.
    in_turn: Engines give their memory back while ranks of the same GPU work.
    """

    ranks: tuple[int, ...] = ()
    engines: tuple[tuple[int, ...], ...] = ()
    in_turn: bool = False

    @property
    def shares_gpus(self) -> bool:
        """Whether an engine sits on a rank's GPU."""
        return any(gpu in self.ranks for engine in self.engines for gpu in engine)

    def lines(self) -> list[str]:
        """Who owns which GPU, one GPU a line; nothing without GPUs."""
        owners: dict[int, list[str]] = {gpu: [f"rank {gpu}"] for gpu in self.ranks}
        for index, gpus in enumerate(self.engines):
            for gpu in gpus:
                owners.setdefault(gpu, []).append(f"engine {index}")
        turns = " (in turn)" if self.in_turn else ""
        return [
            f"GPU {gpu}: {', '.join(names)}{turns if len(names) > 1 else ''}"
            for gpu, names in sorted(owners.items())
        ]

    def engine_config(self, config: EngineConfig) -> EngineConfig:
        """The engines' configuration with their GPUs in it."""
        return replace(config, gpus=tuple(gpu for engine in self.engines for gpu in engine))


def placement_here(config: TrainConfig) -> Placement:
    """`assign` in rank 0's process, whose machine starts the engines.

    Raises:
        ConfigError: As `assign`.
    """
    from sdpo_megatron.actor.runtime import visible_gpus

    return assign(config, visible_gpus(), _local_ranks(config))


def all_ranks_here(config: TrainConfig) -> bool:
    """Whether the run has no trainer rank on another machine than this process's."""
    return _local_ranks(config) == _world(config)


def _world(config: TrainConfig) -> int:
    return config.parallel.model_ranks * config.run.data_parallel


def _local_ranks(config: TrainConfig) -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", _world(config)))


def assign(
    config: TrainConfig, num_gpus: int, local_ranks: int, *, engines: bool = True
) -> Placement:
    """Settle it.

    Args:
        config: Of the run.
        num_gpus: That this process may see.
        local_ranks: Trainer ranks on this machine.
        engines: Whether this machine starts the engines, as rank 0's does.

    Raises:
        ConfigError: More ranks or engines than GPUs, a GPU that is not there or given twice, or a
            GPU that ranks and engines share without saying how.
    """
    on_gpus = config.run.device == "cuda" or (config.run.device == "auto" and num_gpus > 0)
    if on_gpus and local_ranks > num_gpus:
        raise ConfigError(
            f"{local_ranks} trainer ranks (parallel.* x run.data_parallel) need a GPU each, and "
            f"{num_gpus} are visible here; start fewer ranks, or set run.device=cpu"
        )
    ranks = tuple(range(local_ranks)) if on_gpus else ()
    engine = config.rollout.engine
    if config.run.device == "cpu" and engine.device == "cuda" and not engine.urls:
        raise ConfigError(
            "rollout.engine.device=cuda with run.device=cpu: the process that trains on the CPU, "
            "and starts the engines, sees no GPU; set rollout.engine.device=cpu, or start the "
            "engines by themselves and give rollout.engine.urls"
        )
    if not engines:
        return Placement(ranks)
    placed = _engines(engine, 0 if config.run.device == "cpu" else num_gpus, ranks)
    shared = {gpu for gpus in placed for gpu in gpus} & set(ranks)
    if engine.release_memory and not shared:
        raise ConfigError(
            "rollout.engine.release_memory=true: no engine shares a GPU with a trainer rank, so "
            "nobody would use what it gives back; set it to false, or name ranks' GPUs in "
            "rollout.engine.gpus"
        )
    return Placement(ranks, placed, engine.release_memory)


def _engines(
    engine: EngineConfig, num_gpus: int, ranks: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    if engine.urls:
        return ()
    if engine.device == "cpu" or (engine.device == "auto" and not num_gpus):
        if engine.gpus:
            raise ConfigError(
                f"rollout.engine.gpus={list(engine.gpus)}: the engines run on the CPU; set "
                "rollout.engine.gpus=[]"
            )
        return ()
    needed = engine.num_engines * engine.tp
    wanted = f"{engine.num_engines} engines of rollout.engine.tp={engine.tp} need {needed} GPUs"
    free = [gpu for gpu in range(num_gpus) if gpu not in ranks]
    if not engine.gpus and len(free) < needed:
        raise ConfigError(
            f"{wanted}, and of {num_gpus} visible here {len(free)} are left beside {len(ranks)} "
            "trainer ranks; use fewer of either, or share: rollout.engine.gpus=[0,...] with a "
            f"rollout.engine.mem_fraction below {COLOCATED_FRACTION:g}"
        )
    chosen = engine.gpus or tuple(free[:needed])
    if len(chosen) != needed or len(set(chosen)) != needed:
        raise ConfigError(f"rollout.engine.gpus={list(chosen)}: {wanted}, each named once")
    if absent := [gpu for gpu in chosen if gpu >= num_gpus]:
        raise ConfigError(
            f"rollout.engine.gpus={list(chosen)}: {absent} are not there; {num_gpus} GPUs are "
            "visible here, counted from 0"
        )
    shared = sorted(set(chosen) & set(ranks))
    most = IN_TURN_FRACTION if engine.release_memory else COLOCATED_FRACTION
    if shared and not 0 < engine.mem_fraction < most:
        turns = "" if engine.release_memory else ", or set rollout.engine.release_memory=true"
        raise ConfigError(
            f"rollout.engine.gpus={list(chosen)} shares {shared} with trainer ranks, and "
            f"rollout.engine.mem_fraction={engine.mem_fraction:g} leaves them too little (0 is "
            f"SGLang's default, over 0.8): give one below {most:g}{turns}"
        )
    return tuple(chosen[start : start + engine.tp] for start in range(0, needed, engine.tp))
