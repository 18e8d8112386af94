"""Size: how many pods, and how large, the parallel layout of a run needs."""

from __future__ import annotations

from dataclasses import dataclass

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.rendering.cluster import Cluster


@dataclass(frozen=True)
class Size:
    """Attributes:
    trainer_gpus, engine_gpus: Whether ranks, and engines, have a GPU each, or run on CPUs.
    nodes: Trainer pods, each on a machine of its own where it takes all its GPUs.
    ranks_per_node: Trainer ranks in each of them.
    engines: Engine pods.
    engine_ranks: Tensor-parallel ranks in each of them.
    """

    trainer_gpus: bool
    engine_gpus: bool
    nodes: int
    ranks_per_node: int
    engines: int
    engine_ranks: int

    @classmethod
    def of(cls, config: TrainConfig, cluster: Cluster) -> Size:
        """From the layout: as few machines as hold whole tensor-parallel groups.

        Raises:
            ConfigError: A tensor-parallel group or an engine that is larger than a machine.
        """
        here, tensor, engine = cluster.gpus_per_node, config.parallel.tensor, config.rollout.engine
        for key, value in (("parallel.tensor", tensor), ("rollout.engine.tp", engine.tp)):
            if value > here:
                raise ConfigError(
                    f"{key}={value}: it must fit one machine, and --gpus-per-node is {here}"
                )
        world = config.parallel.model_ranks * config.run.data_parallel
        ranks = next(n for n in range(here, 0, -1) if world % n == 0 and n % tensor == 0)
        return cls(
            config.run.device != "cpu",
            engine.device != "cpu",
            world // ranks,
            ranks,
            engine.num_engines,
            engine.tp,
        )
