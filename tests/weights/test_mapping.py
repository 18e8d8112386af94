"""The mapping is a partition: every element of every tensor has exactly one place in a layout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sdpo_megatron.weights.mapping import Param, Piece, Position, hf_shapes, local_name, params
from sdpo_megatron.weights.spec import ModelSpec, MoeSpec

DENSE = ModelSpec(
    model_type="qwen2",
    num_layers=4,
    hidden=8,
    ffn_hidden=12,
    num_heads=8,
    num_kv_heads=4,
    head_dim=2,
    vocab=11,
    max_position=64,
    norm_eps=1e-6,
    rope_theta=1e4,
    qkv_bias=True,
    qk_norm=True,
)
TIED = ModelSpec(**{**vars(DENSE), "tied": True})
MOE = ModelSpec(
    **{
        **vars(DENSE),
        "moe": MoeSpec(num_experts=4, top_k=2, ffn_hidden=4, normalise_top_k=True),
    }
)


POST_NORM = ModelSpec(
    **{
        **vars(DENSE),
        "qkv_bias": False,
        "post_norm": True,
        "qk_norm_across_heads": True,
        "windows": (4, 4, 4, None),
    }
)


def positions(tp: int, pp: int, ep: int = 1, etp: int = 1) -> list[Position]:
    return [
        Position(tp=a, tp_size=tp, pp=b, pp_size=pp, ep=c, ep_size=ep, etp=d, etp_size=etp)
        for a, b, c, d in itertools.product(range(tp), range(pp), range(ep), range(etp))
    ]


def travelling(spec: ModelSpec, at: Position) -> list[Param]:
    """Parameters whose first copy is at this position, as if each (tp) and each (ep, etp) were a
    rank of its own.
    """
    return [
        p
        for p in params(spec, at)
        if not p.is_copy and ((at.tp == 0) if p.is_expert else (at.ep == at.etp == 0))
    ]


@pytest.mark.parametrize(
    "spec", [DENSE, TIED, MOE, POST_NORM], ids=["dense", "tied", "moe", "post-norm"]
)
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("pp", [1, 2, 4])
@pytest.mark.parametrize("ep", [1, 2])
def test_every_element_has_exactly_one_place(spec: ModelSpec, tp: int, pp: int, ep: int) -> None:
    etp = 2 if ep == 2 else 1
    seen = {name: np.zeros(shape, dtype=int) for name, shape in hf_shapes(spec).items()}
    for at in positions(tp, pp, ep, etp):
        for param in travelling(spec, at):
            local = np.zeros(param.shape, dtype=int)
            for piece in param.pieces:
                cut(seen[piece.hf], piece.axis, piece.hf_start, piece.hf_stop)[...] += 1
                cut(local, piece.axis, piece.start, piece.stop)[...] += 1
            assert local.max() == 1
            # Nothing is left unset but the rows that pad the vocabulary.
            assert local.min() == 1 or "embedd" in param.name or "output" in param.name
    for name, count in seen.items():
        assert count.min() == count.max() == 1, name


def cut(array: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return array[start:stop] if axis == 0 else array[:, start:stop]


def test_qkv_is_interleaved_group_by_group() -> None:
    """8 query heads of width 2 in 4 groups, the second of two ranks: groups 2 and 3."""
    at = Position(tp=1, tp_size=2)
    qkv = next(
        p for p in params(DENSE, at) if p.name.endswith("layers.0.self_attention.linear_qkv.weight")
    )
    prefix = "model.layers.0.self_attn."
    assert qkv.shape == (16, 8)
    assert qkv.pieces == (
        Piece(f"{prefix}q_proj.weight", 0, 8, 12, 0),
        Piece(f"{prefix}k_proj.weight", 0, 4, 6, 4),
        Piece(f"{prefix}v_proj.weight", 0, 4, 6, 6),
        Piece(f"{prefix}q_proj.weight", 0, 12, 16, 8),
        Piece(f"{prefix}k_proj.weight", 0, 6, 8, 12),
        Piece(f"{prefix}v_proj.weight", 0, 6, 8, 14),
    )


def test_gate_lies_above_up_in_each_rank() -> None:
    fc1 = next(p for p in params(DENSE, Position(tp=1, tp_size=2)) if "linear_fc1" in p.name)
    assert fc1.shape == (12, 8)
    assert fc1.pieces == (
        Piece("model.layers.0.mlp.gate_proj.weight", 0, 6, 12, 0),
        Piece("model.layers.0.mlp.up_proj.weight", 0, 6, 12, 6),
    )


def test_layers_are_numbered_by_stage() -> None:
    names = {p.name: p.pieces[0].hf for p in params(DENSE, Position(pp=1, pp_size=2))}
    assert (
        names["decoder.layers.0.input_layernorm.weight"] == "model.layers.2.input_layernorm.weight"
    )
    assert "embedding.word_embeddings.weight" not in names
    assert names["output_layer.weight"] == "lm_head.weight"


def test_vocabulary_padding_lies_on_the_last_ranks() -> None:
    """11 words over 4 ranks of 3 rows: the last rank has two words and one empty row."""
    pieces = [params(DENSE, Position(tp=r, tp_size=4))[0].pieces for r in range(4)]
    assert [(p[0].hf_start, p[0].hf_stop) for p in pieces] == [(0, 3), (3, 6), (6, 9), (9, 11)]


def test_tied_embeddings_have_a_copy_on_the_last_stage_that_never_travels() -> None:
    last = {p.name: p for p in params(TIED, Position(pp=1, pp_size=2))}
    assert last["output_layer.weight"].is_copy
    assert last["output_layer.weight"].pieces[0].hf == "model.embed_tokens.weight"
    assert "output_layer.weight" not in {p.name for p in params(TIED, Position())}


@pytest.mark.parametrize(
    ("transformer_engine", "local"),
    [
        (
            "module.decoder.layers.3.self_attention.linear_qkv.layer_norm_weight",
            "decoder.layers.3.input_layernorm.weight",
        ),
        (
            "decoder.layers.3.mlp.linear_fc1.layer_norm_weight",
            "decoder.layers.3.pre_mlp_layernorm.weight",
        ),
        (
            "decoder.layers.3.mlp.experts.linear_fc2.weight17",
            "decoder.layers.3.mlp.experts.local_experts.17.linear_fc2.weight",
        ),
        (
            "decoder.layers.3.self_attention.linear_qkv.bias",
            "decoder.layers.3.self_attention.linear_qkv.bias",
        ),
    ],
)
def test_names_of_transformer_engine(transformer_engine: str, local: str) -> None:
    assert local_name(transformer_engine) == local
