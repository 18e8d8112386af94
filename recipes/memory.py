"""The memory sheet: what one trainer rank holds on its GPU, line by line, with the arithmetic.

Counted is the worst moment of an optimiser step in the pipeline stage that holds most, for the
longest micro-batch and for responses as long as they may be. Letters: t tensor, p pipeline, c
context, d data parallel, T tokens of a micro-batch on one rank (micro_batch_tokens / c), H hidden
size, L layers of a stage.

Kept between and during steps (bytes a parameter of the rank):

    weights     2 (bf16), 4 (fp32)
    gradients   4, whole on every data-parallel rank: Megatron shards the optimiser, not them
    master      4 / (d c); none beside fp32 weights, which are their own
    moments     8 / (d c)
    weight set  4 / (d c) each: the teacher's, and the initial one of a KL anchor

Activations of a layer a token, bf16, flash attention, nothing recomputed: what the backward pass
reads, which is the inputs of both norms and their outputs (4 H), q, k, v before and after their
norms, the attention's output and its fp32 log-sum-exp, gate, up and their product (3 F; for a
mixture, of the chosen experts, with their inputs and outputs). Matrices' outputs are divided by t; the H-wide
ones too under sequence parallelism. A pipeline's first stage has p micro-batches in flight. With
full recomputation a layer keeps its input alone, and one layer at a time is whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recipes.hardware import GIB, MIB, Machines
from sdpo_megatron.actor.config_model import ParallelConfig
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.weights.mapping import EMBED, FINAL_NORM, HEAD, hf_shapes
from sdpo_megatron.weights.spec import ModelSpec

_BF16, _FP32 = 2, 4


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a sheet.

    Attributes:
        name: What is held.
        sum: How the number comes about.
        bytes: The number.
    """

    name: str
    sum: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What one rank holds, and whether that fits.

    Attributes:
        title: Model, GPU and layout.
        lines: The rows.
        capacity: Bytes of the GPU.
    """

    title: str
    lines: tuple[Line, ...]
    capacity: int

    @property
    def total(self) -> int:
        """Bytes of all rows."""
        return sum(line.bytes for line in self.lines)

    @property
    def fits(self) -> bool:
        """Whether the GPU holds them."""
        return self.total <= self.capacity

    def __str__(self) -> str:
        rows = [(line.name, line.sum, f"{line.bytes / GIB:.2f}") for line in self.lines]
        rows.append(("total", "", f"{self.total / GIB:.2f}"))
        rows.append(("of the GPU", "", f"{self.capacity / GIB:.2f}"))
        left, middle, right = (max(len(row[i]) for row in rows) for i in range(3))
        table = [f"  {a:<{left}}  {b:<{middle}}  {c:>{right}} GiB" for a, b, c in rows]
        return "\n".join([self.title, *table])


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters that one rank of a pipeline stage holds.

    Attributes:
        dense: Split by tensor parallelism, or whole on each rank of it.
        expert: Of experts, which have data-parallel groups of their own.
        head: Of the LM head, or its tied copy; a part of `dense`.
    """

    dense: int
    expert: int
    head: int


def parameters_on(spec: ModelSpec, parallel: ParallelConfig, stage: int) -> Parameters:
    """Of pipeline stage `stage`, from the checkpoint's own shapes; biases are counted as if whole
    on each rank (they are negligible)."""
    first, last = stage == 0, stage == parallel.pipeline - 1
    per_stage = spec.num_layers // parallel.pipeline
    experts = parallel.expert * parallel.expert_tensor
    vocab = spec.padded_vocab(parallel.tensor) // parallel.tensor * spec.hidden
    dense = expert = 0
    for name, shape in hf_shapes(spec).items():
        if name in (EMBED, HEAD, FINAL_NORM) or int(name.split(".")[2]) >= per_stage:
            continue  # all stages have equally many layers, alike
        size = math.prod(shape)
        if ".experts." in name:
            expert += size
        elif len(shape) == 1 or name.endswith("mlp.gate.weight"):
            dense += size
        else:
            dense += size // parallel.tensor
    dense += vocab if first else 0
    dense += spec.hidden if last else 0
    head = vocab if last else 0
    if last and not (spec.tied and first):
        dense += vocab
    return Parameters(dense=dense, expert=expert // experts, head=head)


def num_parameters(spec: ModelSpec) -> int:
    """Of the whole model."""
    return sum(math.prod(shape) for shape in hf_shapes(spec).values())


def layer_activation_bytes(spec: ModelSpec, parallel: ParallelConfig) -> int:
    """Bytes a token that one layer keeps for its backward pass, on one rank."""
    t = parallel.tensor
    hidden = spec.hidden // (t if parallel.sequence_parallel else 1)
    query, key_value = spec.num_heads * spec.head_dim, 2 * spec.num_kv_heads * spec.head_dim
    qkv = (query + key_value) * (2 if spec.qk_norm else 1)
    numbers = 4 * hidden + (qkv + query) // t
    if spec.moe is None:
        numbers += 3 * spec.ffn_hidden // t
    else:  # routed evenly, so that a rank gets as many tokens as it sends
        both_ends = 2 * spec.hidden * parallel.expert_tensor
        numbers += spec.moe.top_k * (both_ends + 3 * spec.moe.ffn_hidden) // t
    return _BF16 * numbers + _FP32 * spec.num_heads // t


def memory_sheet(
    config: TrainConfig,
    spec: ModelSpec,
    machines: Machines,
    *,
    title: str = "",
    data_parallel: int | None = None,
    parallel: ParallelConfig | None = None,
) -> Sheet:
    """The sheet of the stage that holds most.

    Args:
        config: Of the run; layout and data-parallel size are its own unless given.
        spec: The model's shape.
        machines: What the ranks run on, and whether engines share it.
    """
    parallel = parallel or config.parallel
    copies = data_parallel or config.run.data_parallel
    stages = sorted({0, parallel.pipeline - 1})
    sheets = [
        Sheet(
            title=f"{title}{layout_text(parallel, copies)}, stage {stage}",
            lines=tuple(_lines(config, spec, machines, parallel, copies, stage)),
            capacity=machines.gpu.memory_mib * MIB,
        )
        for stage in stages
    ]
    return max(sheets, key=lambda sheet: sheet.total)


def layout_text(parallel: ParallelConfig, data_parallel: int) -> str:
    """A layout in words, without what is 1."""
    sizes = {
        "tensor": parallel.tensor,
        "pipeline": parallel.pipeline,
        "context": parallel.context,
        "expert": parallel.expert,
        "data": data_parallel,
    }
    words = [f"{name} {size}" for name, size in sizes.items() if size > 1] or ["one rank"]
    if parallel.recompute != "none":
        words.append(f"{parallel.recompute} recomputation")
    return ", ".join(words)


def weight_sets(config: TrainConfig) -> list[str]:
    """The weight sets beside the live one; `actor.teacher.weight_set_names` without torch."""
    names = []
    if config.objective.distillation is not None:
        own = {"ema": "ema", "restart_freeze": "restarted", "live": None}
        names.append(own.get(config.teacher.kind, "initial"))
    if config.objective.anchor is not None:
        names.append("initial")
    return list(dict.fromkeys(name for name in names if name))


def _passes(config: TrainConfig) -> int:
    """Forward passes whose hidden states are kept until the loss; see `actor.teacher`."""
    distillation = config.objective.distillation
    passes = 0
    if distillation is not None:
        passes = 2 if config.teacher.kind == "trust_region" else 1
        passes *= 1 if distillation.null_beta is None else 2
    return passes + (config.objective.anchor is not None)


def _lines(
    config: TrainConfig,
    spec: ModelSpec,
    machines: Machines,
    parallel: ParallelConfig,
    data_parallel: int,
    stage: int,
) -> Sequence[Line]:
    held = parameters_on(spec, parallel, stage)
    number = held.dense + held.expert
    shards = data_parallel * parallel.context
    ranks = parallel.tensor * shards
    expert_shards = max(1, ranks // (parallel.expert * parallel.expert_tensor))
    owned = math.ceil(held.dense / shards) + math.ceil(held.expert / expert_shards)
    width = _BF16 if config.precision.dtype == "bf16" else _FP32
    mega, mega_owned = f"{number / 1e6:,.0f} M", f"{owned / 1e6:,.0f} M"
    sets = weight_sets(config)
    lines = [
        Line(name=f"{config.precision.dtype} weights", sum=f"{width} B x {mega}", bytes=width * number),
        Line(name="fp32 gradients", sum=f"4 B x {mega}", bytes=_FP32 * number),
        Line(
            name="master weights",
            sum=f"4 B x {mega_owned} owned" if width == _BF16 else "the weights themselves",
            bytes=_FP32 * owned if width == _BF16 else 0,
        ),
        Line(name="moments", sum=f"8 B x {mega_owned} owned", bytes=2 * _FP32 * owned),
        Line(
            name="weight sets",
            sum=f"{' and '.join(sets) or 'none'}: {4 * len(sets)} B x {mega_owned} owned",
            bytes=_FP32 * len(sets) * owned,
        ),
        *_activation_lines(config, spec, parallel),
        *(_head_lines(config, spec, parallel, data_parallel, held.head) if held.head else ()),
        _engine_line(config, machines),
        Line(name="CUDA, NCCL, fragments", sum="3 GiB + 5 %", bytes=machines.gpu.reserve_bytes),
    ]
    return lines


def _activation_lines(
    config: TrainConfig, spec: ModelSpec, parallel: ParallelConfig
) -> Sequence[Line]:
    tokens = math.ceil(config.batch.micro_batch_tokens / parallel.context)
    layers = spec.num_layers // parallel.pipeline
    layer = layer_activation_bytes(spec, parallel)
    split = parallel.tensor if parallel.sequence_parallel else 1
    if parallel.recompute == "full":
        entry = _BF16 * spec.hidden // split
        return [
            Line(
                name="activations",
                sum=f"{layers} layers x {entry:,} B x {tokens:,} tokens x {parallel.pipeline} in flight",
                bytes=layers * entry * tokens * parallel.pipeline,
            ),
            Line(
                name="one layer recomputed",
                sum=f"{layer:,} B x {tokens:,} tokens",
                bytes=layer * tokens,
            ),
        ]
    return [
        Line(
            name="activations",
            sum=f"{layers} layers x {layer:,} B x {tokens:,} tokens x {parallel.pipeline} in flight",
            bytes=layers * layer * tokens * parallel.pipeline,
        )
    ]


def _head_lines(
    config: TrainConfig,
    spec: ModelSpec,
    parallel: ParallelConfig,
    data_parallel: int,
    head: int,
) -> Sequence[Line]:
    """What the last stage holds for the loss."""
    batch, sampling = config.batch, config.rollout.sampling
    attempts = (batch.questions_per_step or batch.questions) * sampling.num_attempts
    mine = math.ceil(attempts / data_parallel)
    passes = _passes(config)
    kept = passes * mine * sampling.max_new_tokens * _BF16 * spec.hidden
    on_host = config.teacher.keep_hidden_on_host
    response = min(batch.micro_batch_tokens, mine * sampling.max_new_tokens)
    rows = spec.padded_vocab(parallel.tensor) // parallel.tensor
    where = "in host memory" if on_host else f"{passes} x {mine} attempts x {sampling.max_new_tokens:,} tokens x {_BF16 * spec.hidden:,} B"
    return [
        Line(name="teacher's hidden states", sum=where, bytes=0 if on_host else kept),
        Line(
            name="hidden states of the loss",
            sum=f"{response:,} tokens x {spec.hidden:,} x (2 + 4) B",
            bytes=response * spec.hidden * (_BF16 + _FP32),
        ),
        Line(
            name="heads of other weight sets",
            sum=f"{passes} x 2 B x {head / 1e6:,.0f} M",
            bytes=passes * _BF16 * head,
        ),
        Line(
            name="gradient of the head",
            sum=f"4 B x {head / 1e6:,.0f} M",
            bytes=_FP32 * head,
        ),
        Line(
            name="logits of a chunk",
            sum=f"2 x {batch.chunk_tokens:,} tokens x {rows:,} rows x 4 B",
            bytes=2 * batch.chunk_tokens * rows * _FP32,
        ),
    ]


def _engine_line(config: TrainConfig, machines: Machines) -> Line:
    if not machines.shared or config.rollout.engine.urls:
        return Line(name="engine", sum="on GPUs of its own", bytes=0)
    share = config.rollout.engine.mem_fraction
    if not share:
        raise ConfigError(
            "rollout.engine.mem_fraction=0 lets SGLang take most of a GPU, and here each is shared "
            "with a trainer rank; set it, as in rollout.engine.mem_fraction=0.4, or give the "
            "engines nodes of their own (engine_nodes)"
        )
    return Line(
        name="engine",
        sum=f"{share:g} of the GPU (rollout.engine.mem_fraction)",
        bytes=round(share * machines.gpu.memory_mib * MIB),
    )
