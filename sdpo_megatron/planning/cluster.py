"""How many of what a run has: ranks, engines and their slots, verifiers, rollout workers."""

from __future__ import annotations

from dataclasses import dataclass

from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.planning.hardware import MIB, Machines
from sdpo_megatron.planning.rank_share import num_parameters
from sdpo_megatron.planning.speeds import kv_bytes_per_token
from sdpo_megatron.planning.workload import Workload
from sdpo_megatron.weights.spec import ModelSpec

_ENGINES_PER_CELL = 64
"""Engines that one rollout worker serves on a cluster."""
_KV_SHARE = 0.85
"""Of an engine's GPUs, weights and KV cache together."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines of a run as its parts see them.

    Attributes:
        parallel, data_parallel: The trainer's layout.
        nodes: The trainer's machines.
        ranks_per_node: Of the trainer.
        engines, engine_tp, slots: Engines, GPUs of each, requests that one decodes at once.
        engine_nodes: Machines that engines are on.
        judges: Verdicts at once.
        cells: Rollout workers, each a process.
    """

    parallel: ParallelConfig
    data_parallel: int
    nodes: int
    ranks_per_node: int
    engines: int
    engine_tp: int
    slots: int
    engine_nodes: int
    judges: int
    cells: int

    @property
    def ranks(self) -> int:
        return self.parallel.model_ranks * self.data_parallel

    @classmethod
    def here(cls, config: TrainConfig, work: Workload) -> Cluster:
        """This machine, with the engines that the configuration starts."""
        engine = config.rollout.engine
        engines = len(engine.urls) or engine.num_engines
        tokens = work.prompt + work.lengths.expected()
        fitting = int(engine.max_total_tokens // tokens) if engine.max_total_tokens else 256
        return cls(
            parallel=config.parallel,
            data_parallel=config.run.data_parallel,
            nodes=1,
            ranks_per_node=config.parallel.model_ranks * config.run.data_parallel,
            engines=engines,
            engine_tp=engine.tp,
            slots=max(1, engine.max_running_requests or fitting),
            engine_nodes=1,
            judges=config.judge.num_workers,
            cells=1,
        )

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        spec: ModelSpec,
        machines: Machines,
        work: Workload,
        *,
        parallel: ParallelConfig,
        data_parallel: int,
        judges: int = 0,
    ) -> Cluster:
        """Machines of GPUs; every GPU that no rank has belongs to an engine.

        Args:
            judges: Verdicts at once; 0: a core for each GPU of the engines' machines.
        """
        gpu, tp = machines.gpu, config.rollout.engine.tp
        nodes = machines.engine_nodes or machines.nodes
        engines = max(1, nodes * gpu.per_node // tp)
        free = gpu.memory_mib * MIB * _KV_SHARE * tp - 2 * num_parameters(spec)
        if machines.shared:
            free = gpu.memory_mib * MIB * (config.rollout.engine.mem_fraction or 0.4) * tp
            free -= 2 * num_parameters(spec)
        tokens = work.prompt + work.lengths.expected()
        fitting = max(1, int(free / (kv_bytes_per_token(spec) * tokens)))
        return cls(
            parallel=parallel,
            data_parallel=data_parallel,
            nodes=machines.nodes,
            ranks_per_node=gpu.per_node,
            engines=engines,
            engine_tp=tp,
            slots=min(fitting, config.rollout.engine.max_running_requests or 256),
            engine_nodes=nodes,
            judges=judges or nodes * gpu.per_node,
            cells=max(1, -(-engines // _ENGINES_PER_CELL)),
        )
