"""Block-wise FP8 for rollout engines: e4m3 matrices with one float32 scale for each block of
128 x 128, in the layout that SGLang loads (that of DeepSeek-V3's checkpoints).

    s[i, j] = max |W[128 i : 128 (i + 1), 128 j : 128 (j + 1)]| / 448
    Q       = e4m3(W / s), rounded to nearest even          W ~ Q s

    NAME.weight             [N, K] float8_e4m3fn
    NAME.weight_scale_inv   [ceil(N / 128), ceil(K / 128)] float32, what Q is multiplied with

e4m3 has 3 bits of mantissa and the smallest normal 2^-6, so an element is off by at most
max(|w| / 16, s / 1024).

Quantised are the matrices of attention and of feed-forward layers, experts included: where the
operations and the bytes are. Norms, biases, a mixture's router, embedding and head stay as they
are. Matrices that an engine joins (q, k, v; gate, up) have their blocks side by side only if each
is made of whole blocks: `check_layout`.

N, K rows and columns of a matrix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from sdpo_megatron.errors import ConfigError, NumericsError
from sdpo_megatron.weights.bucket import Bucket, TensorMeta, total_bytes
from sdpo_megatron.weights.mapping import Shape
from sdpo_megatron.weights.spec import ModelSpec

BLOCK = 128
LARGEST = 448.0  # of e4m3
SCALE = "_scale_inv"
QUANTIZATION_CONFIG: Mapping[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [BLOCK, BLOCK],
}
"""What config.json says of such a checkpoint; activations are scaled while the engine runs, by
token and 128 channels."""

# Below this the scale would not be a normal float32; a block of zeros needs one as well.
_LEAST_MAXIMUM = 2.0**-100
_MATRIX = re.compile(
    r"\.(self_attn\.(q|k|v|o)_proj|mlp\.(experts\.\d+\.)?(gate|up|down)_proj)\.weight$"
)


def is_quantised(name: str) -> bool:
    """Whether the Hugging Face tensor `name` is a matrix that FP8 holds."""
    return _MATRIX.search(name) is not None


def layout(shapes: Mapping[str, Shape], dtype: torch.dtype) -> dict[str, tuple[Shape, torch.dtype]]:
    """What a checkpoint of tensors of `shapes` in `dtype` holds under FP8: name, shape, dtype."""
    found: dict[str, tuple[Shape, torch.dtype]] = {}
    for name, shape in shapes.items():
        if is_quantised(name):
            found[name] = (shape, torch.float8_e4m3fn)
            found[name + SCALE] = (tuple(-(-size // BLOCK) for size in shape), torch.float32)
        else:
            found[name] = (shape, dtype)
    return found


def encode(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A Hugging Face tensor as such a checkpoint holds it: itself, or its matrix and its scales.

    Raises:
        NumericsError: It holds NaN or infinity.
    """
    if not is_quantised(name):
        yield name, tensor
        return
    quantised, scale = quantise(tensor)
    if not torch.isfinite(scale).all():
        raise NumericsError(f"{name} holds NaN or infinity: it cannot be served in FP8")
    yield name, quantised
    yield name + SCALE, scale


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, K] -> e4m3 [N, K] and float32 scales, as the module says; N and K of any size."""
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    blocks = padded.view(-(-rows // BLOCK), BLOCK, -(-columns // BLOCK), BLOCK)
    scale = blocks.abs().amax(dim=(1, 3)).clamp_(min=_LEAST_MAXIMUM) / LARGEST
    scaled = (blocks / scale[:, None, :, None]).clamp_(-LARGEST, LARGEST)
    quantised = scaled.view_as(padded)[:rows, :columns].to(torch.float8_e4m3fn)
    return quantised.contiguous(), scale


def dequantise(
    quantised: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """[N, K] of `dtype`: what an engine's products see, and in bf16 what its checksum is of
    (SGLang 0.5.23, srt/utils/weight_checker_comparator.py)."""
    rows, columns = quantised.shape
    whole = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return (quantised.float() * whole[:rows, :columns]).to(dtype)


def served(name: str, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The tensor `name` that an engine computes with, of the `parts` that `encode` made of it."""
    if not is_quantised(name):
        return parts[name]
    return dequantise(parts[name], parts[name + SCALE])


def served_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    """What an engine computes with, of a checkpoint's tensors, quantised or not, in any order."""
    waiting: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        if tensor.dtype != torch.float8_e4m3fn and not name.endswith(SCALE):
            yield name, tensor
            continue
        waiting[name] = tensor
        matrix = name.removesuffix(SCALE)
        if matrix in waiting and matrix + SCALE in waiting:
            yield matrix, dequantise(waiting.pop(matrix), waiting.pop(matrix + SCALE))
    assert not waiting, f"matrices without scales, or scales without: {sorted(waiting)}"


def encoded(
    buckets: Iterable[Bucket | None], buffers: Callable[[int], torch.Tensor]
) -> Iterator[Bucket | None]:
    """Buckets of whole tensors with their matrices quantised, in memory that `buffers` gives."""
    for bucket in buckets:
        if bucket is None:
            yield None
            continue
        parts = [part for name, tensor in bucket.tensors() for part in encode(name, tensor)]
        metas = tuple(TensorMeta(name, tuple(tensor.shape), tensor.dtype) for name, tensor in parts)
        written = Bucket(metas, buffers(total_bytes(metas)))
        for (_, into), (_, tensor) in zip(written.tensors(), parts, strict=True):
            into.copy_(tensor)
        yield written


def check_layout(spec: ModelSpec, tensor_parallel: int) -> None:
    """Whether engines of `tensor_parallel` ranks can hold the model's blocks.

    Their products take whole blocks along the input, and joined or shared out matrices must be
    made of whole blocks along the output.

    Raises:
        ConfigError: They cannot; the message names the width.
    """
    widths = {
        "hidden_size": spec.hidden,
        "num_attention_heads x head_dim / tp": spec.num_heads * spec.head_dim / tensor_parallel,
        # Where heads are fewer than ranks, several ranks hold the same one.
        "num_key_value_heads x head_dim / tp": max(1, spec.num_kv_heads / tensor_parallel)
        * spec.head_dim,
    }
    if spec.moe is None:
        widths["intermediate_size / tp"] = spec.ffn_hidden / tensor_parallel
    else:
        widths["moe_intermediate_size / tp"] = spec.moe.ffn_hidden / tensor_parallel
    for name, width in widths.items():
        if width % BLOCK:
            raise ConfigError(
                f"rollout.engine.precision=fp8: {name} is {width:g} with rollout.engine.tp="
                f"{tensor_parallel}, and its blocks need a multiple of {BLOCK}; use another tp, or "
                "rollout.engine.precision=same"
            )
