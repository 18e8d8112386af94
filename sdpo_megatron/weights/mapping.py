"""The one mapping between Hugging Face and Megatron tensors, as data.

Load, gather, export, hot swap and tests read it. A Megatron parameter on one rank is a patchwork of
slices of Hugging Face tensors, all cut along one axis:

    Piece(hf, axis, hf_start, hf_stop, start)
    local[start : start + n]  <->  hf[hf_start : hf_stop],  n = hf_stop - hf_start

That covers everything: replicated tensors (one piece), tensor-parallel rows and columns, gate above
up in fc1, q, k and v interleaved group by group, and padded vocabularies (rows that no piece covers
are zero).

Megatron's names here are those of its local layers; `local_name` translates the names that
Transformer Engine uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sdpo_megatron.weights.spec import ModelSpec

Shape = tuple[int, ...]

EMBED = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a rank stands in the model-parallel layout; sizes of 1 mean not split.

    Attributes:
        tp, tp_size: Tensor parallel.
        pp, pp_size: Pipeline stage.
        ep, ep_size: Expert parallel: which experts the rank holds.
        etp, etp_size: Tensor parallel inside one expert.
    """

    tp: int = 0
    tp_size: int = 1
    pp: int = 0
    pp_size: int = 1
    ep: int = 0
    ep_size: int = 1
    etp: int = 0
    etp_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.pp == 0

    @property
    def is_last(self) -> bool:
        return self.pp == self.pp_size - 1

    def at_stage(self, stage: int) -> Position:
        """The same place in another pipeline stage."""
        return replace(self, pp=stage)

    def layers(self, spec: ModelSpec) -> range:
        """Global numbers of the layers of this stage, from 0."""
        per_stage = spec.num_layers // self.pp_size
        return range(self.pp * per_stage, (self.pp + 1) * per_stage)


@dataclass(frozen=True)
class Piece:
    """Rows (axis 0) or columns (axis 1) [hf_start, hf_stop) of `hf`, at `start` locally."""

    hf: str
    axis: int
    hf_start: int
    hf_stop: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.hf_stop - self.hf_start


@dataclass(frozen=True)
class Param:
    """One Megatron parameter on one rank.

    Attributes:
        name: Megatron's name in the local layer spec, layer numbers local to the stage.
        shape: Its shape on this rank.
        pieces: Where its values stand in Hugging Face tensors.
        bucket: Number of the bucket it travels in: 0 embedding, 1 + layer, 1 + num_layers for final
            norm and head.
        is_expert: Split by expert parallelism instead of tensor parallelism.
        is_copy: Held elsewhere too (the head of tied embeddings on the last stage; whole tensors on
            tensor-parallel ranks after the first): loaded, never gathered.
    """

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]
    bucket: int
    is_expert: bool = False
    is_copy: bool = False


def hf_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Every tensor of the Hugging Face checkpoint and its shape, in the order of the buckets."""
    shapes: dict[str, Shape] = {EMBED: (spec.vocab, spec.hidden)}
    for layer in range(spec.num_layers):
        shapes.update(_layer_shapes(spec, f"model.layers.{layer}."))
    shapes[FINAL_NORM] = (spec.hidden,)
    if not spec.tied:
        shapes[HEAD] = (spec.vocab, spec.hidden)
    return shapes


def _layer_shapes(spec: ModelSpec, layer: str) -> Iterator[tuple[str, Shape]]:
    hidden, q, kv = spec.hidden, spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    if not spec.post_norm:
        yield f"{layer}input_layernorm.weight", (hidden,)
    for name, rows in (("q", q), ("k", kv), ("v", kv)):
        yield f"{layer}self_attn.{name}_proj.weight", (rows, hidden)
        if spec.qkv_bias:
            yield f"{layer}self_attn.{name}_proj.bias", (rows,)
    if spec.qk_norm:
        across = spec.qk_norm_across_heads
        yield f"{layer}self_attn.q_norm.weight", (q if across else spec.head_dim,)
        yield f"{layer}self_attn.k_norm.weight", (kv if across else spec.head_dim,)
    yield f"{layer}self_attn.o_proj.weight", (hidden, q)
    yield f"{layer}post_attention_layernorm.weight", (hidden,)
    if spec.post_norm:
        yield f"{layer}post_feedforward_layernorm.weight", (hidden,)
    if spec.moe is None:
        yield from _ffn_shapes(f"{layer}mlp.", hidden, spec.ffn_hidden)
        return
    yield f"{layer}mlp.gate.weight", (spec.moe.num_experts, hidden)
    for expert in range(spec.moe.num_experts):
        yield from _ffn_shapes(f"{layer}mlp.experts.{expert}.", hidden, spec.moe.ffn_hidden)


def _ffn_shapes(prefix: str, hidden: int, ffn: int) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}gate_proj.weight", (ffn, hidden)
    yield f"{prefix}up_proj.weight", (ffn, hidden)
    yield f"{prefix}down_proj.weight", (hidden, ffn)


def params(spec: ModelSpec, at: Position) -> list[Param]:
    """Every parameter of the rank at position `at`, in bucket order.

    The layout must divide the model (`actor.model.config` checks that with messages for people).
    """
    last_bucket = 1 + spec.num_layers
    embedding = _vocab_pieces(EMBED, spec, at)
    vocab_shape = (spec.padded_vocab(at.tp_size) // at.tp_size, spec.hidden)
    found: list[Param] = []
    if at.is_first:
        found.append(Param("embedding.word_embeddings.weight", vocab_shape, embedding, 0))
    for local, layer in enumerate(at.layers(spec)):
        found.extend(
            _layer_params(spec, at, f"decoder.layers.{local}.", f"model.layers.{layer}.", 1 + layer)
        )
    if at.is_last:
        found.append(
            _whole(at, "decoder.final_layernorm.weight", FINAL_NORM, (spec.hidden,), last_bucket)
        )
        if not spec.tied:
            found.append(
                Param(
                    "output_layer.weight", vocab_shape, _vocab_pieces(HEAD, spec, at), last_bucket
                )
            )
        elif not at.is_first:
            found.append(
                Param("output_layer.weight", vocab_shape, embedding, last_bucket, is_copy=True)
            )
    return found


def _layer_params(
    spec: ModelSpec, at: Position, mcore: str, hf: str, bucket: int
) -> Iterator[Param]:
    hidden, q_width = spec.hidden, spec.num_heads * spec.head_dim
    if not spec.post_norm:
        yield _whole(
            at, f"{mcore}input_layernorm.weight", f"{hf}input_layernorm.weight", (hidden,), bucket
        )
    rows = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim // at.tp_size
    for kind, shape in (("weight", (rows, hidden)), ("bias", (rows,))):
        if kind == "weight" or spec.qkv_bias:
            yield Param(
                f"{mcore}self_attention.linear_qkv.{kind}", shape, _qkv(spec, at, hf, kind), bucket
            )
    if spec.qk_norm:
        for name, heads in (("q", spec.num_heads), ("k", spec.num_kv_heads)):
            names = (
                f"{mcore}self_attention.{name}_layernorm.weight",
                f"{hf}self_attn.{name}_norm.weight",
            )
            if spec.qk_norm_across_heads:
                width = heads * spec.head_dim
                piece = _share(names[1], 0, width, at.tp, at.tp_size)
                yield Param(names[0], (width // at.tp_size,), (piece,), bucket)
            else:
                yield _whole(at, *names, (spec.head_dim,), bucket)
    yield Param(
        f"{mcore}self_attention.linear_proj.weight",
        (hidden, q_width // at.tp_size),
        (_share(f"{hf}self_attn.o_proj.weight", 1, q_width, at.tp, at.tp_size),),
        bucket,
    )
    norms = {"pre_mlp_layernorm": "post_attention_layernorm"}
    if spec.post_norm:
        norms = {
            "self_attention.linear_proj.post_norm": "post_attention_layernorm",
            "mlp.linear_fc2.post_norm": "post_feedforward_layernorm",
        }
    for ours, theirs in norms.items():
        yield _whole(at, f"{mcore}{ours}.weight", f"{hf}{theirs}.weight", (hidden,), bucket)
    if spec.moe is None:
        yield from _ffn(
            f"{mcore}mlp.", f"{hf}mlp.", hidden, spec.ffn_hidden, at.tp, at.tp_size, bucket, False
        )
        return
    num = spec.moe.num_experts
    yield _whole(at, f"{mcore}mlp.router.weight", f"{hf}mlp.gate.weight", (num, hidden), bucket)
    for local in range(num // at.ep_size):
        names = (
            f"{mcore}mlp.experts.local_experts.{local}.",
            f"{hf}mlp.experts.{at.ep * (num // at.ep_size) + local}.",
        )
        yield from _ffn(*names, hidden, spec.moe.ffn_hidden, at.etp, at.etp_size, bucket, True)


def _ffn(
    mcore: str, hf: str, hidden: int, ffn: int, rank: int, size: int, bucket: int, is_expert: bool
) -> Iterator[Param]:
    """fc1 holds this rank's rows of gate, then its rows of up."""
    share = ffn // size
    gate = Piece(f"{hf}gate_proj.weight", 0, rank * share, (rank + 1) * share, 0)
    up = Piece(f"{hf}up_proj.weight", 0, rank * share, (rank + 1) * share, share)
    yield Param(f"{mcore}linear_fc1.weight", (2 * share, hidden), (gate, up), bucket, is_expert)
    down = _share(f"{hf}down_proj.weight", 1, ffn, rank, size)
    yield Param(f"{mcore}linear_fc2.weight", (hidden, share), (down,), bucket, is_expert)


def _qkv(spec: ModelSpec, at: Position, hf: str, kind: str) -> tuple[Piece, ...]:
    """Group by group: the group's query heads, its key head, its value head."""
    dim, per_group = spec.head_dim, spec.num_heads // spec.num_kv_heads
    pieces: list[Piece] = []
    start, num_groups = 0, spec.num_kv_heads // at.tp_size
    for group in range(at.tp * num_groups, (at.tp + 1) * num_groups):
        for name, heads in (("q", per_group), ("k", 1), ("v", 1)):
            first = group * heads * dim
            pieces.append(
                Piece(f"{hf}self_attn.{name}_proj.{kind}", 0, first, first + heads * dim, start)
            )
            start += heads * dim
    return tuple(pieces)


def _vocab_pieces(hf: str, spec: ModelSpec, at: Position) -> tuple[Piece, ...]:
    rows = spec.padded_vocab(at.tp_size) // at.tp_size
    start = at.tp * rows
    stop = min(start + rows, spec.vocab)
    return (Piece(hf, 0, start, stop, 0),) if start < stop else ()


def _share(hf: str, axis: int, size: int, rank: int, num_ranks: int) -> Piece:
    share = size // num_ranks
    return Piece(hf, axis, rank * share, (rank + 1) * share, 0)


def _whole(at: Position, name: str, hf: str, shape: Shape, bucket: int) -> Param:
    return Param(name, shape, (Piece(hf, 0, 0, shape[0], 0),), bucket, is_copy=at.tp > 0)


# --- Names of Transformer Engine's fused layers, as they differ from those of the local spec ------

_TE_NAMES = (
    (re.compile(r"self_attention\.linear_qkv\.layer_norm_weight$"), "input_layernorm.weight"),
    (re.compile(r"mlp\.linear_fc1\.layer_norm_weight$"), "pre_mlp_layernorm.weight"),
    (
        re.compile(r"mlp\.experts\.(linear_fc[12])\.weight(\d+)$"),
        r"mlp.experts.local_experts.\2.\1.weight",
    ),
)


def local_name(name: str) -> str:
    """A parameter's name in the local layer spec, from its name in either (DDP-wrapped or not)."""
    name = name.removeprefix("module.")
    for pattern, replacement in _TE_NAMES:
        name = pattern.sub(replacement, name)
    return name
