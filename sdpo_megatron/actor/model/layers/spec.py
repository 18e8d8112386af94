"""Which layers make the model: Megatron's local ones and ours, or Transformer Engine's."""

from __future__ import annotations

import warnings
from typing import Any

from sdpo_megatron.actor.model.layers.activation import swiglu
from sdpo_megatron.actor.model.layers.attention import PackedAttention
from sdpo_megatron.actor.model.layers.norm import AcrossHeadsRMSNorm, RMSNorm
from sdpo_megatron.weights.spec import ModelSpec, YarnRope


def block_spec(spec: ModelSpec, config: Any, *, transformer_engine: bool) -> Any:
    """Megatron's submodules for this pipeline stage.

    Args:
        config: Megatron's TransformerConfig.
        transformer_engine: Use its fused layers and thd attention; else the local layers.
    """
    from megatron.core.transformer.transformer_block import (
        TransformerBlockSubmodules,
        get_num_layers_to_build,
    )

    if transformer_engine:
        layer, norm = _transformer_engine(spec)
    else:
        layer, norm = (_post_norm(spec) if spec.post_norm else _local(spec)), RMSNorm
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, vp_stage=None), layer_norm=norm
    )


def _transformer_engine(spec: ModelSpec) -> tuple[Any, Any]:
    from megatron.core.extensions.transformer_engine import TENorm
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec

    layer = get_gpt_layer_with_transformer_engine_spec(
        num_experts=spec.moe.num_experts if spec.moe else None,
        moe_grouped_gemm=spec.moe is not None,
        qk_layernorm=spec.qk_norm,
    )
    return layer, TENorm


def _local(spec: ModelSpec) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that Apex is absent; nothing of it is used
        from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
        from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
        from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
        from megatron.core.transformer.enums import AttnMaskType
        from megatron.core.transformer.identity_op import IdentityOp
        from megatron.core.transformer.spec_utils import ModuleSpec
        from megatron.core.transformer.transformer_layer import (
            TransformerLayer,
            TransformerLayerSubmodules,
        )

    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=PackedAttention,
            linear_proj=RowParallelLinear,
            q_layernorm=RMSNorm if spec.qk_norm else IdentityOp,
            k_layernorm=RMSNorm if spec.qk_norm else IdentityOp,
        ),
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=_local_experts() if spec.moe else _local_mlp(),
            mlp_bda=get_bias_dropout_add,
            # Checkpoints written with either spec have the same keys.
            sharded_state_dict_keys_map={
                "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
                **({} if spec.moe else {"pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"}),
            },
        ),
    )


def _post_norm(spec: ModelSpec) -> Any:
    """OLMo 3: norms at the ends, queries and keys normalised across heads, some windows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
        from megatron.core.tensor_parallel.layers import ColumnParallelLinear
        from megatron.core.transformer.attention import SelfAttentionSubmodules
        from megatron.core.transformer.enums import AttnMaskType
        from megatron.core.transformer.mlp import MLP, MLPSubmodules
        from megatron.core.transformer.spec_utils import ModuleSpec
        from megatron.core.transformer.transformer_layer import (
            TransformerLayer,
            TransformerLayerSubmodules,
        )

        from sdpo_megatron.actor.model.layers.post_norm import (
            NormedRowParallelLinear,
            SelfAttentionByLayer,
        )

    def across(num_heads: int) -> Any:
        return ModuleSpec(module=AcrossHeadsRMSNorm, params={"num_heads": num_heads})

    rope = spec.rope_scaling
    factor = rope.attention_factor if isinstance(rope, YarnRope) else 1.0
    attention = ModuleSpec(
        module=SelfAttentionByLayer,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=ModuleSpec(module=PackedAttention, params={"rope_factor": factor}),
            linear_proj=NormedRowParallelLinear,
            q_layernorm=across(spec.num_heads),
            k_layernorm=across(spec.num_kv_heads),
        ),
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(
                    linear_fc1=ColumnParallelLinear,
                    linear_fc2=NormedRowParallelLinear,
                    activation_func=swiglu,
                ),
            ),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def _local_mlp() -> Any:
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec

    return ModuleSpec(
        module=MLP,
        submodules=MLPSubmodules(
            linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear, activation_func=swiglu
        ),
    )


def _local_experts() -> Any:
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.moe.experts import SequentialMLP
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec

    experts = ModuleSpec(
        module=SequentialMLP,
        submodules=MLPSubmodules(
            linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear, activation_func=swiglu
        ),
    )
    return ModuleSpec(
        module=MoELayer,
        submodules=MoESubmodules(experts=experts),
        metainfo={"fuse_pre_mlp_layernorm": False},
    )
