"""Our norm and attention against plain formulas, and what the packed layout promises."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdpo_megatron.actor.model.layers.activation import swiglu
from sdpo_megatron.actor.model.layers.attention import PackedAttention
from sdpo_megatron.actor.model.layers.norm import RMSNorm
from sdpo_megatron.actor.model.layers.rotary import apply_packed_rotary
from tests.distributed import run_ranks

HEADS, GROUPS, DIM = 6, 2, 8


def packed(*lengths: int) -> Any:
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return SimpleNamespace(cu_seqlens_q=ends, cu_seqlens_kv=ends)


def attention(window: int | None = None, **fields: Any) -> PackedAttention:
    """Of the second of two layers; `window` is that of the second layer, the first has none."""
    size = None if window is None else (window - 1, 0)
    config = SimpleNamespace(
        kv_channels=DIM, context_parallel_size=1, window_size=size, window_attn_skip_freq=[0, 1]
    )
    return PackedAttention(config, **{"layer_number": 2, **fields})


def inputs(tokens: int, groups: int = GROUPS, dtype: torch.dtype = torch.float64) -> Any:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(tokens, heads, DIM, generator=generator, dtype=dtype, requires_grad=True)
        for heads in (HEADS, groups, groups)
    ]


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: Any, window: int = 99
) -> torch.Tensor:
    """Softmax over all tokens under a block-diagonal causal mask, head by head."""
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    position = torch.arange(q.shape[0])
    behind = position[:, None] - position[None]
    seen = (owner[:, None] == owner[None]) & (behind >= 0) & (behind < window)
    outputs = []
    for head in range(HEADS):
        group = head // (HEADS // k.shape[1])
        scores = (q[:, head] @ k[:, group].T / DIM**0.5).masked_fill(~seen, -torch.inf)
        outputs.append(scores.softmax(-1) @ v[:, group])
    return torch.cat(outputs, dim=-1)


@pytest.mark.parametrize("groups", [1, GROUPS, HEADS])
@pytest.mark.parametrize("lengths", [(13,), (4, 6, 3), (1, 1, 11), (5, 0, 8)])
def test_values_and_gradients_equal_a_dense_mask(groups: int, lengths: tuple[int, ...]) -> None:
    q, k, v = inputs(13, groups)
    weights = torch.randn(13, HEADS * DIM, dtype=torch.float64)
    got = attention()(q, k, v, packed_seq_params=packed(*lengths))
    expected = dense(q, k, v, lengths)
    torch.testing.assert_close(got, expected)
    got_grads = torch.autograd.grad((got * weights).sum(), (q, k, v))
    torch.testing.assert_close(
        got_grads, torch.autograd.grad((expected * weights).sum(), (q, k, v))
    )


@pytest.mark.parametrize("window", [1, 3, 5, 13])
@pytest.mark.parametrize("lengths", [(13,), (4, 6, 3), (5, 0, 8)])
def test_a_window_hides_what_is_further_behind(window: int, lengths: tuple[int, ...]) -> None:
    q, k, v = inputs(13)
    weights = torch.randn(13, HEADS * DIM, dtype=torch.float64)
    got = attention(window)(q, k, v, packed_seq_params=packed(*lengths))
    expected = dense(q, k, v, lengths, window)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        torch.autograd.grad((got * weights).sum(), (q, k, v)),
        torch.autograd.grad((expected * weights).sum(), (q, k, v)),
    )


def test_the_factor_of_scaled_ropes_is_for_layers_without_a_window() -> None:
    plain = attention().scale
    assert attention(3, rope_factor=2.0).scale == plain
    assert attention(3, rope_factor=2.0, layer_number=1).scale == 4.0 * plain


def test_sequences_do_not_see_each_other() -> None:
    q, k, v = (x.detach() for x in inputs(10))
    before = attention()(q, k, v, packed_seq_params=packed(4, 6))
    k[4:], v[4:] = 99.0, -99.0
    after = attention()(q, k, v, packed_seq_params=packed(4, 6))
    assert torch.equal(after[:4], before[:4])
    assert not torch.equal(after[4:], before[4:])


def test_sequences_must_cover_all_tokens() -> None:
    with pytest.raises(AssertionError, match="cover 9 of 10 tokens"):
        attention()(*inputs(10), packed_seq_params=packed(4, 5))
    with pytest.raises(AssertionError, match="only packed sequences"):
        attention()(*inputs(10))


def norm(dtype: torch.dtype = torch.float32, *, sequence_parallel: bool = False) -> RMSNorm:
    config = SimpleNamespace(params_dtype=dtype, sequence_parallel=sequence_parallel)
    return RMSNorm(config, hidden_size=4, eps=0.5)


def test_norm_by_hand() -> None:
    layer = norm()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    # mean of squares 3.5, plus eps 0.5: divided by 2
    got = layer(torch.tensor([[1.0, -2.0, 3.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([[0.5, -2.0, 4.5, 0.0]]))


def test_norm_in_bf16_equals_transformers_bit_by_bit() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    theirs, ours = LlamaRMSNorm(4, eps=0.5).to(torch.bfloat16), norm(torch.bfloat16)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor([1.1, 0.3, 2.7, 5.0]))
        ours.weight.copy_(theirs.weight)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("shape", [(7, 1, 4), (5, 3, 4)])
def test_norm_gradients_equal_autograd_s(shape: tuple[int, ...]) -> None:
    layer = norm()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    plain = layer.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.5)
    torch.testing.assert_close(layer(x), plain)
    variables = (x, layer.weight)
    torch.testing.assert_close(
        torch.autograd.grad((layer(x) * weights).sum(), variables),
        torch.autograd.grad((plain * weights).sum(), variables),
    )


def test_swiglu_and_its_gradient_equal_the_formula() -> None:
    both = torch.randn(5, 1, 12, dtype=torch.float64, requires_grad=True)
    gate, linear = both.chunk(2, dim=-1)
    torch.testing.assert_close(swiglu(both), gate * torch.sigmoid(gate) * linear)
    torch.autograd.gradcheck(swiglu, (both,))


def check_rotary(rank: int, world: int) -> None:
    from megatron.core.models.common.embeddings import rope_utils

    t = inputs(13)[0]
    positions = torch.arange(6, dtype=torch.float64)[:, None]
    half = positions / 10.0 ** torch.arange(DIM // 2)
    freqs = torch.cat([half, half], dim=-1)[:, None, None]
    ends = torch.tensor([0, 4, 10, 13], dtype=torch.int32)
    config = SimpleNamespace(rotary_interleaved=False)
    alone = SimpleNamespace(size=lambda: 1, rank=lambda: 0)

    def ours(x: torch.Tensor) -> torch.Tensor:
        return apply_packed_rotary(x, freqs, config, ends)

    expected = rope_utils._apply_rotary_pos_emb_thd(t, ends, freqs, cp_group=alone)
    torch.testing.assert_close(ours(t), expected)
    torch.autograd.gradcheck(ours, (t,))
    # The angles are kept for the next layer, not for other sequences.
    other = torch.tensor([0, 6, 9, 13], dtype=torch.int32)
    expected = rope_utils._apply_rotary_pos_emb_thd(t, other, freqs, cp_group=alone)
    torch.testing.assert_close(apply_packed_rotary(t, freqs, config, other), expected)


def test_rotary_equals_megatron_s_and_its_gradient_is_right() -> None:
    """In a process of its own: where calls are redirected to the CPU before transformers is
    imported, its models come with rotary frequencies of uninitialised memory.
    """
    run_ranks(check_rotary, 1)


@pytest.mark.parametrize("flag", [True, False])
def test_norm_marks_its_weight_for_the_sequence_parallel_all_reduce(flag: bool) -> None:
    assert norm(sequence_parallel=flag).weight.sequence_parallel is flag  # type: ignore[attr-defined]
