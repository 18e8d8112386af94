"""Settings of the model's parallel layout and precision, and whether they fit a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields import Count, PositiveInt, refuse, settings

if TYPE_CHECKING:
    import torch

    from sdpo_megatron.weights.spec import ModelSpec


RecomputePart = Literal["attention", "feed_forward"]


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
    overlap_grad_reduce: bool = True
    """Reduce gradients over data-parallel ranks while the backward pass goes on, bucket by bucket.
    """
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations computed anew in the backward pass: none, those of `recompute_parts`, or all of a
    layer but its input."""
    recompute_parts: Annotated[tuple[RecomputePart, ...], Field(strict=False, min_length=1)] = (
        "attention",
    )
    """With selective: of attention its inner product (Transformer Engine's never keeps it), of the
    feed-forward layer, or of a mixture's experts, all but the input."""
    recompute_layers: Count = 0
    """With full: the first so many layers of each pipeline stage. 0: all."""

    def __post_init__(self) -> None:
        problems = []
        if self.sequence_parallel and self.tensor == 1:
            problems.append(("sequence_parallel", "needs {tensor:key} > 1; set one or the other"))
        if self.recompute_parts != ("attention",) and self.recompute != "selective":
            problems.append(("recompute_parts", "does nothing without {recompute:key}=selective"))
        if self.recompute_layers and self.recompute != "full":
            problems.append(("recompute_layers", "does nothing without {recompute:key}=full"))
        refuse(self, problems)

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one copy of the model (dense part)."""
        return self.tensor * self.pipeline * self.context

    @property
    def sequence_multiple(self) -> int:
        """The length of a packed micro-batch must be a multiple of this."""
        return self.sequence_cut * (self.tensor if self.sequence_parallel else 1)

    @property
    def sequence_cut(self) -> int:
        """The length of each sequence in it must be a multiple of this."""
        return 2 * self.context if self.context > 1 else 1

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
        if self.recompute_layers > spec.num_layers // self.pipeline:
            raise ConfigError(
                f"parallel.recompute_layers={self.recompute_layers}: a pipeline stage has "
                f"{spec.num_layers // self.pipeline} layers; set it to 0 for all of them"
            )
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
    """In what the model computes. Master weights and gradients are fp32 whatever it is, and so are
    logits, log-probabilities and the loss: the LM head belongs to the loss and is never in FP8.

    Parameters stay in `dtype` under FP8, too: the teacher's weights are swapped through them.
    """

    dtype: Literal["fp32", "bf16"] = "bf16"
    """Of parameters and activations."""
    fp8: Literal["tensorwise", "blockwise", "mxfp8"] | None = None
    """FP8 recipe of Transformer Engine. null: none. Its delayed scaling is not offered: the scales
    are a history that the teacher's pass would move and that no checkpoint holds."""
    fp8_format: Literal["hybrid", "e4m3"] = "hybrid"
    """Of FP8 numbers: e4m3 forward and e5m2 for gradients, or e4m3 throughout."""
    bf16_layers: Count = 0
    """Layers at each end of the model that stay in bf16 under `fp8`; 0 without."""

    def __post_init__(self) -> None:
        problems = []
        if self.fp8 is not None and self.dtype != "bf16":
            problems.append(("fp8", "works on bf16 parameters: set {dtype:key}=bf16"))
        if self.fp8 is None and self.bf16_layers:
            problems.append(("bf16_layers", "does nothing without {fp8:key}: leave it 0"))
        refuse(self, problems)

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return torch.float32 if self.dtype == "fp32" else torch.bfloat16

    def sequence_multiple(self, parallel: ParallelConfig) -> int:
        """The length of a packed micro-batch must be a multiple of this.

        Transformer Engine's FP8 products want whole tiles of the tokens that a rank holds, in the
        backward pass along the tokens as well: 16, 32 under mxfp8, 128 under blockwise. The
        largest serves all.
        """
        if self.fp8 is None:
            return parallel.sequence_multiple
        shares = parallel.context * (parallel.tensor if parallel.sequence_parallel else 1)
        return FP8_TOKENS * shares

    def check_device(self, capability: tuple[int, int] | None, name: str) -> None:
        """Whether the card can multiply so.

        Args:
            capability: CUDA compute capability, None for a CPU.
            name: Of the card, for the message.

        Raises:
            ConfigError: It cannot; the message says what can.
        """
        if self.fp8 is None:
            return
        if capability is None:
            raise ConfigError(f"precision.fp8={self.fp8} needs a GPU; set precision.fp8=null")
        least, most = _CAPABILITIES[self.fp8]
        if least <= capability < most:
            return
        can = [recipe for recipe, (low, high) in _CAPABILITIES.items() if low <= capability < high]
        raise ConfigError(
            f"precision.fp8={self.fp8}: {name} has compute capability "
            f"{capability[0]}.{capability[1]}, and {self.fp8} needs {_between(least, most)}; "
            f"possible here: {', '.join(can) or 'precision.fp8=null only'}"
        )

    def check_model(self, spec: ModelSpec, parallel: ParallelConfig) -> None:
        """Whether every rank's share of every matrix is made of whole tiles.

        Raises:
            ConfigError: It is not; the message names the width.
        """
        if self.fp8 is None:
            return
        per_stage = spec.num_layers // parallel.pipeline
        if self.bf16_layers > per_stage:
            raise ConfigError(
                f"precision.bf16_layers={self.bf16_layers} does not fit the {per_stage} layers of "
                f"the first and the last of {parallel.pipeline} pipeline stages"
            )
        widths = {
            "hidden_size": spec.hidden,
            "num_attention_heads x head_dim / tensor": spec.num_heads
            * spec.head_dim
            // parallel.tensor,
            "num_key_value_heads x head_dim / tensor": spec.num_kv_heads
            * spec.head_dim
            // parallel.tensor,
        }
        if spec.moe is None:
            widths["intermediate_size / tensor"] = spec.ffn_hidden // parallel.tensor
        else:
            width = spec.moe.ffn_hidden // parallel.expert_tensor
            widths["moe_intermediate_size / expert_tensor"] = width
        tile = _TILES[self.fp8]
        for width_name, width in widths.items():
            if width % tile:
                raise ConfigError(
                    f"precision.fp8={self.fp8}: {width_name} is {width}, and its products need a "
                    f"multiple of {tile}; use another layout or recipe, or precision.fp8=null"
                )


FP8_TOKENS = 128
_TILES = {"tensorwise": 16, "blockwise": 128, "mxfp8": 32}
_ANY = (99, 0)
_CAPABILITIES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "tensorwise": ((8, 9), _ANY),
    "blockwise": ((9, 0), (10, 0)),
    "mxfp8": ((10, 0), _ANY),
}
"""From this compute capability, and below that one (Transformer Engine 2.11: blockwise scaling is
Hopper's, micro-scaling Blackwell's)."""


def _between(least: tuple[int, int], most: tuple[int, int]) -> str:
    low = f"{least[0]}.{least[1]}"
    return f"{low} or more" if most == _ANY else f"{low} or more and below {most[0]}.{most[1]}"
