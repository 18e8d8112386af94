"""Parallel layouts: the smallest that fits a kind of GPU, by the memory sheet.

Fewer ranks a copy mean fewer collectives and more data parallelism, so layouts are tried from the
fewest model-parallel ranks on, tensor parallelism (within a machine) before pipeline stages, first
without recomputation, which costs a third forward pass, then with all activations recomputed. A
mixture's experts are spread as far as one machine allows. What fits in no layout is refused with
the sheet of the one that came closest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.hardware import Gpu, Machines
from sdpo_megatron.planning.memory import memory_sheet
from sdpo_megatron.planning.sheet import Sheet
from sdpo_megatron.weights.spec import ModelSpec

WAYS_OUT = (
    "Use more nodes, larger GPUs, or engines on nodes of their own (engine_nodes); or lower "
    "rollout.sampling.max_new_tokens together with batch.micro_batch_tokens."
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the ranks of a run are laid out.

    Attributes:
        parallel: Of one copy of the model.
        data_parallel: Copies.
        sheet: What the fullest rank holds.
    """

    parallel: ParallelConfig
    data_parallel: int
    sheet: Sheet

    def overrides(self) -> list[str]:
        """As settings of a run."""
        parallel = self.parallel
        return [
            f"parallel.tensor={parallel.tensor}",
            f"parallel.pipeline={parallel.pipeline}",
            f"parallel.context={parallel.context}",
            f"parallel.expert={parallel.expert}",
            f"parallel.expert_tensor={parallel.expert_tensor}",
            f"parallel.sequence_parallel={str(parallel.sequence_parallel).lower()}",
            f"parallel.recompute={parallel.recompute}",
            f"run.data_parallel={self.data_parallel}",
        ]


def choose(config: TrainConfig, spec: ModelSpec, machines: Machines, title: str = "") -> Layout:
    """The first layout that fits the trainer's machines.

    Args:
        config: Of the run; its own layout is not looked at.
        title: Begins the sheet, and the message.

    Raises:
        ConfigError: None fits; the message ends with the sheet of the one that came closest.
    """
    sheets = []
    for parallel in candidates(spec, machines):
        copies = machines.ranks // parallel.model_ranks
        sheet = memory_sheet(
            config, spec, machines, title=title, data_parallel=copies, parallel=parallel
        )
        if sheet.fits:
            return Layout(parallel=parallel, data_parallel=copies, sheet=sheet)
        sheets.append(sheet)
    closest = min(sheets, key=lambda sheet: sheet.total)  # one rank a copy is always a layout
    raise ConfigError(
        f"{title}no layout fits {machines.nodes} x {machines.gpu.per_node} GPUs. {WAYS_OUT} The "
        f"layout that came closest:\n{closest}"
    )


def candidates(spec: ModelSpec, machines: Machines) -> Iterator[ParallelConfig]:
    """The layouts of whole machines that the model allows, in the order of preference."""
    gpu, world = machines.gpu, machines.ranks
    sizes = [
        (tensor, pipeline)
        for tensor in (1, 2, 4, 8)
        for pipeline in (1, 2, 4, 8, 16)
        if tensor <= gpu.per_node and world % (tensor * pipeline) == 0
    ]
    for recompute in ("none", "full"):
        for tensor, pipeline in sorted(sizes, key=lambda size: (size[0] * size[1], size[1])):
            parallel = _parallel(spec, gpu, world, tensor, pipeline, recompute)
            try:
                parallel.check_model(spec)
                parallel.check_world(world)
            except ConfigError:
                continue
            yield parallel


def _parallel(
    spec: ModelSpec, gpu: Gpu, world: int, tensor: int, pipeline: int, recompute: str
) -> ParallelConfig:
    expert = 1
    if spec.moe is not None:
        within = min(gpu.per_node, world // pipeline)
        expert = max(n for n in range(1, within + 1) if spec.moe.num_experts % n == 0)
    return ParallelConfig(
        tensor=tensor,
        pipeline=pipeline,
        expert=expert,
        expert_tensor=tensor if spec.moe is not None and expert == 1 else 1,
        sequence_parallel=tensor > 1,
        recompute=recompute,  # type: ignore[arg-type]
    )
