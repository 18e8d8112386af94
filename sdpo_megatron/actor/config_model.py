"""Settings of the model's parallel layout and precision, and whether they fit a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields import PositiveInt, refuse, settings

if TYPE_CHECKING:
    import torch

    from sdpo_megatron.weights.spec import ModelSpec


@settings
class ParallelConfig:
    """How the model is split over ranks; data parallelism is what remains of the world size."""

    tensor: PositiveInt = 1
    """Ranks that share each matrix; must divide heads, key-value heads and feed-forward width."""
    pipeline: PositiveInt = 1
    """Pipeline stages; must divide the number of layers."""
    context: PositiveInt = 1
    """Ranks that share each sequence (Transformer Engine's attention only)."""
    expert: PositiveInt = 1
    """Ranks over which a mixture's experts are spread; must divide their number."""
    expert_tensor: PositiveInt = 1
    """Ranks that share each expert's matrices."""
    sequence_parallel: bool = False
    """Split activations between the matrices along the sequence, too; needs tensor > 1."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations computed anew in the backward pass: none, those of attention, or all."""

    def __post_init__(self) -> None:
        if self.sequence_parallel and self.tensor == 1:
            refuse(self, [("sequence_parallel", "needs {tensor:key} > 1; set one or the other")])

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one copy of the model (dense part)."""
        return self.tensor * self.pipeline * self.context

    @property
    def sequence_multiple(self) -> int:
        """The length of a packed micro-batch must be a multiple of this."""
        split = self.tensor if self.sequence_parallel else 1
        return split * (2 * self.context if self.context > 1 else 1)

    def check_world(self, world_size: int) -> None:
        """Whether `world_size` ranks can be laid out so.

        Raises:
            ConfigError: They cannot; the message gives the products.
        """
        if world_size % self.model_ranks:
            raise ConfigError(
                f"{world_size} ranks cannot hold tensor {self.tensor} x pipeline {self.pipeline} "
                f"x context {self.context}: start a multiple of {self.model_ranks} ranks"
            )
        experts = self.expert * self.expert_tensor * self.pipeline
        if world_size % experts:
            raise ConfigError(
                f"{world_size} ranks cannot hold expert {self.expert} x expert_tensor "
                f"{self.expert_tensor} x pipeline {self.pipeline}: "
                f"start a multiple of {experts} ranks"
            )

    def check_model(self, spec: ModelSpec) -> None:
        """Whether the model can be split so.

        Raises:
            ConfigError: It cannot; the message says which sizes are possible.
        """
        widths = {"num_attention_heads": spec.num_heads, "num_key_value_heads": spec.num_kv_heads}
        if spec.moe is None:
            widths["intermediate_size"] = spec.ffn_hidden
        _must_divide("tensor", self.tensor, widths)
        _must_divide("pipeline", self.pipeline, {"num_hidden_layers": spec.num_layers})
        if spec.moe is None:
            if self.expert > 1 or self.expert_tensor > 1:
                raise ConfigError(
                    f"parallel.expert={self.expert}, expert_tensor={self.expert_tensor}: "
                    f"{spec.model_type} has no experts; set both to 1"
                )
            return
        _must_divide("expert", self.expert, {"num_experts": spec.moe.num_experts})
        _must_divide(
            "expert_tensor", self.expert_tensor, {"moe_intermediate_size": spec.moe.ffn_hidden}
        )
        if self.tensor > 1 and not self.sequence_parallel:
            # Megatron refuses to train it: every tensor-parallel rank would send the same tokens to
            # the experts.
            raise ConfigError(
                f"parallel.tensor={self.tensor} with experts ({spec.model_type}) needs "
                "parallel.sequence_parallel=true"
            )
        if self.expert == 1 and self.expert_tensor != self.tensor:
            # megatron-core 0.16.1 reduces expert gradients over their own group only where experts
            # are spread (allreduce flag of ColumnParallelLinear); otherwise they would stay partial
            # sums.
            raise ConfigError(
                f"parallel.expert_tensor={self.expert_tensor} with parallel.expert=1 and "
                f"tensor={self.tensor}: set expert_tensor={self.tensor}, or spread the experts "
                "(expert > 1)"
            )


def _must_divide(name: str, size: int, widths: dict[str, int]) -> None:
    if all(width % size == 0 for width in widths.values()):
        return
    got = " and ".join(f"{field} {width}" for field, width in widths.items())
    possible = ", ".join(str(n) for n in _common_divisors(widths.values()))
    raise ConfigError(f"parallel.{name}={size} does not divide {got}; possible here: {possible}")


def _common_divisors(widths: Iterable[int]) -> list[int]:
    values = list(widths)
    return [n for n in range(1, min(values) + 1) if all(value % n == 0 for value in values)]


@settings
class PrecisionConfig:
    """In what the model computes; master weights and gradients are fp32 whatever it is."""

    dtype: Literal["fp32", "bf16"] = "bf16"
    """Of parameters and activations."""
    fp8: Literal["tensorwise", "delayed", "mxfp8", "blockwise"] | None = None
    """FP8 recipe; needs Transformer Engine. null: none."""

    def __post_init__(self) -> None:
        if self.fp8 is not None and self.dtype != "bf16":
            refuse(self, [("fp8", "works on bf16 parameters: set {dtype:key}=bf16")])

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return torch.float32 if self.dtype == "fp32" else torch.bfloat16
