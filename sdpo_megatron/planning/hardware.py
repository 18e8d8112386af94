"""Kinds of GPU, and the machines that a run gets of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sdpo_megatron.errors import ConfigError

GpuName = Literal["a100", "h100", "h200", "b200"]

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind.

    Attributes:
        title: As its maker writes it.
        memory_mib: What nvidia-smi shows as total, MiB.
        tflops: Dense bf16, 10^12 operations/s, by the data sheet.
        memory_tb_s: Of its own memory, TB/s, by the data sheet.
        link_gb_s: To the other GPUs of a machine, GB/s in one direction.
        per_node: In the usual machine; tensor parallelism stays within it.
        network_gb_s: To other machines, GB/s a GPU in one direction (one adapter a GPU).
    """

    title: str
    memory_mib: int
    tflops: float
    memory_tb_s: float
    link_gb_s: float
    per_node: int = 8
    network_gb_s: float = 50.0

    @property
    def reserve_bytes(self) -> int:
        """Not to be planned with: CUDA contexts and NCCL's buffers (3 GiB), and 5 % that the
        allocator loses to fragments."""
        return 3 * GIB + self.memory_mib * MIB // 20


GPUS: Mapping[GpuName, Gpu] = {
    "a100": Gpu(
        title="A100 80 GB",
        memory_mib=81920,
        tflops=312,
        memory_tb_s=2.04,
        link_gb_s=300,
        network_gb_s=25,
    ),
    "h100": Gpu(title="H100 80 GB", memory_mib=81559, tflops=989, memory_tb_s=3.35, link_gb_s=450),
    "h200": Gpu(title="H200 141 GB", memory_mib=143771, tflops=989, memory_tb_s=4.8, link_gb_s=450),
    "b200": Gpu(
        title="B200 192 GB", memory_mib=183359, tflops=2250, memory_tb_s=8.0, link_gb_s=900
    ),
}


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The machines of a run, all of one kind and all of their GPUs.

    Attributes:
        gpu: Their kind of GPU.
        nodes: Machines of the trainer.
        engine_nodes: Machines of the engines; 0: engines share the trainer's only machine, GPU by
            GPU.
    """

    gpu: Gpu
    nodes: int = 1
    engine_nodes: int = 0

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.engine_nodes < 0:
            raise ConfigError(
                f"nodes={self.nodes}, engine_nodes={self.engine_nodes}: expected at least 1 and 0"
            )
        if self.nodes > 1 and not self.engine_nodes:
            raise ConfigError(
                f"nodes={self.nodes} needs engine_nodes: the run starts engines on its first "
                "machine alone, so beside a trainer of several they have machines of their own; "
                "set engine_nodes=1 or more"
            )

    @classmethod
    def of(cls, gpu: str, nodes: int = 1, engine_nodes: int = 0) -> Machines:
        """With the GPU by its name.

        Raises:
            ConfigError: There is no such kind, or the machines cannot serve a run.
        """
        kind = GPUS.get(gpu)  # type: ignore[call-overload]
        if kind is None:
            raise ConfigError(f"gpu={gpu}: there is no such kind; kinds: {', '.join(GPUS)}")
        return cls(gpu=kind, nodes=nodes, engine_nodes=engine_nodes)

    @property
    def ranks(self) -> int:
        """Trainer ranks, one a GPU."""
        return self.nodes * self.gpu.per_node

    @property
    def shared(self) -> bool:
        """Whether each GPU of the trainer carries an engine, too."""
        return not self.engine_nodes
