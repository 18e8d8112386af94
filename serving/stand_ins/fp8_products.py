"""Products of block-wise FP8 matrices on any CPU, for SGLang 0.5.23's linear layers and experts.

SGLang's own kernels for CPUs need AMX. Here the operands are those of its GPU kernels, activations
in e4m3 by token and 128 channels, the matrix in e4m3 by block, and the product is taken in the
activations' dtype: the rounding of FP8 without its speed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

GROUP = 128
_LARGEST = 448.0
_LEAST_MAXIMUM = 1e-10  # SGLang's, of a group of activations


def apply() -> None:
    """Put them into SGLang, in this process."""
    from sglang.srt.layers.quantization.fp8 import Fp8LinearMethod, Fp8MoEMethod

    for method in (Fp8LinearMethod, Fp8MoEMethod):
        method.process_weights_after_loading = _keep
    Fp8LinearMethod.apply = product
    Fp8MoEMethod.apply = products_of_experts
    Fp8MoEMethod.create_moe_runner = _no_runner


def _keep(self: Any, layer: torch.nn.Module) -> None:
    """Matrices and scales stay as they were loaded."""
    assert self.block_quant, "block-wise FP8 only"


def _no_runner(self: Any, layer: torch.nn.Module, config: Any) -> None:
    """Runners are kernels of a GPU."""
    self.moe_runner_config = config


def product(
    self: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """[..., K] -> [..., N]: Fp8LinearMethod.apply."""
    weight = _dequantised(layer.weight, layer.weight_scale_inv, x.dtype)
    return F.linear(rounded(x), weight, bias)


def products_of_experts(self: Any, layer: Any, dispatch_output: Any) -> Any:
    """Fp8MoEMethod.apply: [T, H] and each token's experts with their weights -> [T, H]."""
    from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

    x = dispatch_output.hidden_states
    weights, chosen, _ = dispatch_output.topk_output
    out = torch.zeros_like(x, dtype=torch.float32)
    for expert in chosen.unique().tolist():
        tokens, place = (chosen == expert).nonzero(as_tuple=True)
        first = _dequantised(layer.w13_weight[expert], layer.w13_weight_scale_inv[expert], x.dtype)
        second = _dequantised(layer.w2_weight[expert], layer.w2_weight_scale_inv[expert], x.dtype)
        gate, up = F.linear(rounded(x[tokens]), first).chunk(2, -1)
        expert_out = F.linear(rounded(F.silu(gate) * up), second)
        out.index_add_(0, tokens, expert_out.float() * weights[tokens, place, None].float())
    return StandardCombineInput(hidden_states=out.to(x.dtype))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Activations as a product sees them: e4m3, one scale for each token and 128 channels."""
    groups = x.float().unflatten(-1, (-1, GROUP))
    scale = groups.abs().amax(-1, keepdim=True).clamp(min=_LEAST_MAXIMUM) / _LARGEST
    quantised = (groups / scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return (quantised.float() * scale).flatten(-2).to(x.dtype)


def _dequantised(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    from sglang.srt.layers.quantization.fp8_utils import block_quant_dequant

    return block_quant_dequant(weight, scale, [GROUP, GROUP], dtype)
