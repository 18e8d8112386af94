"""How fast things are done: of a kind of GPU by its data sheet, or measured by a run (calibration).

An engine decodes one token of every running request in an iteration, which takes

    iteration_s + running x sequence_s + tokens in the KV cache x context_s

On a GPU the first is reading the weights once, the third reading the cache; both at the memory's
speed, of which kernels reach a share. Prefill and the trainer's passes are bound by operations.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.hardware import Gpu
from sdpo_megatron.planning.rank_share import num_parameters
from sdpo_megatron.weights.spec import ModelSpec

_TRAIN_SHARE, _PREFILL_SHARE, _MEMORY_SHARE = 0.40, 0.50, 0.70
"""Of the data sheet's numbers, what Megatron reaches in training (MFU), and engines in prefill and
decode. Measured on other people's machines: a calibration replaces them."""
_LAUNCH_S = 0.004
"""Of an iteration: scheduling, sampling and launching kernels."""
_GB = 1e9
FAST = 1e18
"""A speed that does not show: of what was not measured."""


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What a rank, an engine, a core and the wires do in a second.

    Attributes:
        title: Of what, and whence known.
        train_flops: Operations/s of a trainer rank, forward and backward.
        score_flops: The same in forward-only passes.
        prefill_flops: Operations/s of an engine reading prompts.
        iteration_s, sequence_s, context_s: See the module.
        memory_bytes_s: Of a trainer rank's memory, for the optimiser and weight sets.
        link_bytes_s, network_bytes_s: A rank to its neighbours in the machine, and to others.
        host_bytes_s: A device to its host's memory.
        disk_bytes_s: One machine to its disk or to the shared file system, writing or reading.
        shared_bytes_s: The shared file system, all machines together.
        swap_s: Of a publish, whatever its size: pause, checksums, resume.
        judge_s: Seconds of a core for one verdict.
        sample_us, teach_us, store_us, plan_us, read_us: Python, microseconds a response token:
            requests and answers; teacher's prompts; writing groups; planning; a rank's reading.
        step_s: Seconds of a step that belong to none of the phases: reports and the like.
    """

    title: str
    train_flops: float
    score_flops: float
    prefill_flops: float
    iteration_s: float
    sequence_s: float
    context_s: float
    memory_bytes_s: float
    link_bytes_s: float
    network_bytes_s: float
    host_bytes_s: float
    disk_bytes_s: float
    shared_bytes_s: float
    swap_s: float = 0.5
    judge_s: float = 0.1
    sample_us: float = 2.2
    teach_us: float = 3.3
    store_us: float = 0.6
    plan_us: float = 0.01
    read_us: float = 0.02
    step_s: float = 0.0

    @classmethod
    def of_gpu(cls, gpu: Gpu, spec: ModelSpec, *, engine_tp: int, kv_bytes: float) -> Speeds:
        """By the data sheet.

        Args:
            engine_tp: GPUs of an engine.
            kv_bytes: Of one token in the KV cache, of the whole model.
        """
        memory = gpu.memory_tb_s * 1e12 * _MEMORY_SHARE * engine_tp
        flops = gpu.tflops * 1e12
        return cls(
            title=f"{gpu.title}, by the data sheet",
            train_flops=flops * _TRAIN_SHARE,
            score_flops=flops * _TRAIN_SHARE,
            prefill_flops=flops * _PREFILL_SHARE * engine_tp,
            iteration_s=_LAUNCH_S + 2 * num_parameters(spec) / memory,
            sequence_s=active_flops(spec) / (flops * _PREFILL_SHARE * engine_tp),
            context_s=kv_bytes / memory,
            memory_bytes_s=gpu.memory_tb_s * 1e12 * _MEMORY_SHARE,
            link_bytes_s=gpu.link_gb_s * _GB,
            network_bytes_s=gpu.network_gb_s * _GB,
            host_bytes_s=25 * _GB,
            disk_bytes_s=5 * _GB,
            shared_bytes_s=20 * _GB,
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Speeds:
        """The inverse of `write`.

        Raises:
            ConfigError: No such file, or another's.
        """
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"speeds={path}: not a file of speeds ({error}); "
                "sdpo plan calibrate=RUN speeds=FILE writes one"
            ) from error


def active_flops(spec: ModelSpec) -> float:
    """Operations for one token in decode, attention to the past apart."""
    from sdpo_megatron.weights.flops import forward_flops

    return forward_flops(spec, 1, 1)


def kv_bytes_per_token(spec: ModelSpec, number_bytes: int = 2) -> int:
    """Keys and values of all layers."""
    return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * number_bytes
