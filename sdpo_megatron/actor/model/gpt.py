"""The policy as Megatron model chunks that end in hidden states: the head belongs to the loss.

T tokens of a packed micro-batch, H hidden size, Vp the padded vocabulary.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import torch
import torch.nn.functional as F

from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
from sdpo_megatron.actor.runtime import current_runtime
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.weights.spec import Llama3Rope, ModelSpec, YarnRope

current_runtime()  # on a CPU, megatron must be imported after its calls were redirected

from megatron.core import parallel_state, tensor_parallel  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from sdpo_megatron.actor.model.layers.norm import AcrossHeadsRMSNorm  # noqa: E402
from sdpo_megatron.actor.model.layers.rotary import RotaryByLayer  # noqa: E402
from sdpo_megatron.actor.model.layers.spec import block_spec  # noqa: E402


class PolicyModel(GPTModel):  # type: ignore[misc]
    """One pipeline stage of the policy.

    On the last stage `forward` returns the final, normed hidden states [T, 1, H], whole on every
    tensor-parallel rank (also under sequence parallelism); on the others, what the next stage
    takes. Their gradient must be whole as well: summed over the vocabulary shards, the same on
    every tensor-parallel rank.

    With tied embeddings and several stages, the last stage holds a copy of the embedding. Its
    gradient and the first stage's are summed by Megatron's finalize_model_grads, which must be the
    config's `finalize_model_grads_func`.
    """

    spec: ModelSpec

    def forward(  # type: ignore[override]
        self, tokens: torch.Tensor, position_ids: torch.Tensor, *, packed_seq_params: Any
    ) -> torch.Tensor:
        """
        Args:
            tokens: [1, T] int64; T a multiple of `ParallelConfig.sequence_multiple`.
            position_ids: [1, T] int64. Rotary positions restart with each sequence of
                `packed_seq_params` by themselves.
            packed_seq_params: Megatron's PackedSeqParams, qkv_format "thd". The sequences must
                cover all T tokens, padding included; max_seqlen is the longest one's length.
        """
        hidden: torch.Tensor = super().forward(
            tokens, position_ids, attention_mask=None, packed_seq_params=packed_seq_params
        )
        return hidden

    def _postprocess(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Where GPTModel (megatron-core 0.16.1) would apply the head."""
        if self.post_process and self.config.sequence_parallel:
            # The gradient comes back whole, so the backward pass takes this rank's share instead of
            # reducing.
            return tensor_parallel.gather_from_sequence_parallel_region(
                hidden_states, tensor_parallel_output_grad=False
            )
        return hidden_states

    def head_weight(self) -> torch.nn.Parameter:
        """This rank's shard [Vp / tensor, H] of the LM head (the embedding where tied).

        On the last stage only. Rows from the vocabulary's end on are zero and must get no
        probability.
        """
        assert self.post_process, "the head is on the last pipeline stage"
        if self.share_embeddings_and_output_weights:
            return self.shared_embedding_or_output_weight()
        return self.output_layer.weight


def init_model_parallel(parallel: ParallelConfig, *, seed: int = 0) -> None:
    """Lay the ranks out and seed Megatron's generators.

    Neighbouring ranks differ in the tensor split first, then context, expert, data, pipeline.

    Needs torch.distributed; collective over all ranks.

    Raises:
        ConfigError: The world size does not fit.
    """
    parallel.check_world(torch.distributed.get_world_size())
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        context_parallel_size=parallel.context,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=parallel.expert_tensor,
        distributed_timeout_minutes=max(
            1, math.ceil(timedelta(seconds=current_runtime().timeout_s) / timedelta(minutes=1))
        ),
    )
    current_runtime().seed(seed)


def build_model(
    spec: ModelSpec, parallel: ParallelConfig, precision: PrecisionConfig
) -> list[PolicyModel]:
    """This rank's model chunks (one: pipelines are not interleaved).

    The parameters are not set yet: load weights next.

    Needs `init_model_parallel`; collective over all ranks where embeddings are tied and there are
    several stages.

    Raises:
        ConfigError: The layout does not fit the model, or the device cannot do what is asked.
    """
    parallel.check_model(spec)
    precision.check_model(spec, parallel)
    runtime = current_runtime()
    precision.check_device(runtime.capability(), runtime.device_name())
    fused = _transformer_engine(spec)
    why = f"{spec.model_type} does not use it" if runtime.has_transformer_engine else ""
    for key, wanted in (
        ("parallel.context > 1", parallel.context > 1),
        ("precision.fp8", precision.fp8 is not None),
    ):
        if wanted and not fused:
            raise ConfigError(
                f"{key} needs Transformer Engine on a CUDA device, and {why or runtime.te_problem}"
            )
    config = transformer_config(spec, parallel, precision)
    model = PolicyModel(
        config,
        block_spec(spec, config, transformer_engine=fused),
        vocab_size=spec.padded_vocab(parallel.tensor),
        max_sequence_length=spec.max_position,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=spec.tied,
        position_embedding_type="rope",
        rotary_base=spec.rope_theta,
    )
    model.spec = spec
    if isinstance(spec.rope_scaling, Llama3Rope):
        # GPTModel's own scaling has three of the four numbers built in.
        model.rotary_pos_emb.inv_freq = scaled_frequencies(
            model.rotary_pos_emb.inv_freq, spec.rope_scaling
        )
    elif isinstance(spec.rope_scaling, YarnRope):
        scaled = yarn_frequencies(model.rotary_pos_emb.inv_freq, spec.rope_scaling, spec.rope_theta)
        model.rotary_pos_emb = RotaryByLayer(model.rotary_pos_emb, scaled)
    _mark_tensor_parallel(model)
    if fused:
        _add_weight_gradients_in_float32(model)
    return [model.to(runtime.device)]


def _mark_tensor_parallel(model: PolicyModel) -> None:
    """Say which parameters are shards.

    Megatron's layers do it while initialising, which is off here; without the mark the gradient
    norm would count the shards of the first tensor-parallel rank alone.
    """
    layers = tensor_parallel.layers
    axes = {
        layers.VocabParallelEmbedding: 0,
        layers.ColumnParallelLinear: 0,
        layers.RowParallelLinear: 1,
        AcrossHeadsRMSNorm: 0,
    }
    for module in model.modules():
        axis = next((axes[kind] for kind in axes if isinstance(module, kind)), None)
        weight = getattr(module, "weight", None)
        if axis is not None and weight is not None and not hasattr(weight, "tensor_model_parallel"):
            tensor_parallel.set_tensor_model_parallel_attributes(weight, True, axis, 1)


def _add_weight_gradients_in_float32(model: PolicyModel) -> None:
    """Transformer Engine's products add a micro-batch's weight gradients to `main_grad` themselves,
    so that no partial sum is rounded to bf16 and none takes memory of its own.

    Megatron's own switch (gradient_accumulation_fusion) asks Apex for the head's class as well,
    whose forward pass is never run here.
    """
    for module in model.modules():
        if hasattr(module, "fuse_wgrad_accumulation"):
            module.fuse_wgrad_accumulation = True


def scaled_frequencies(inv_freq: torch.Tensor, rope: Llama3Rope) -> torch.Tensor:
    """Llama 3's rope scaling of inverse frequencies [D / 2].

    Wavelengths up to original / high_freq_factor stay, those from original / low_freq_factor on are
    stretched by `factor`, those between are mixed linearly in original / wavelength.
    """
    turns = rope.original_max_position * inv_freq / (2 * math.pi)
    keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = keep.clamp(0.0, 1.0)
    return keep * inv_freq + (1.0 - keep) * inv_freq / rope.factor


def yarn_frequencies(inv_freq: torch.Tensor, rope: YarnRope, theta: float) -> torch.Tensor:
    """YaRN's rope scaling of inverse frequencies [D / 2].

    Frequencies that turn at least `beta_fast` times within the original length stay, those that
    turn at most `beta_slow` times are divided by `factor`, those between are mixed linearly in
    their number.
    """
    dim = 2 * inv_freq.shape[0]

    def number(turns: float) -> float:
        """Of the frequency that turns so often."""
        wavelengths = rope.original_max_position / (turns * 2 * math.pi)
        return dim * math.log(wavelengths) / (2 * math.log(theta))

    low, high = number(rope.beta_fast), number(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    steps = torch.arange(dim // 2, dtype=torch.float32, device=inv_freq.device)
    stretched = ((steps - low) / max(high - low, 0.001)).clamp(0.0, 1.0)
    return inv_freq / rope.factor * stretched + inv_freq * (1.0 - stretched)


def _transformer_engine(spec: ModelSpec) -> bool:
    """Whether its layers make the model; none of them ends in a norm or normalises across heads."""
    return current_runtime().has_transformer_engine and not spec.post_norm


def transformer_config(
    spec: ModelSpec, parallel: ParallelConfig, precision: PrecisionConfig
) -> TransformerConfig:
    """Megatron's configuration: shape, layout, no dropout, fusions with Transformer Engine only."""
    runtime = current_runtime()
    dtype, fused = precision.torch_dtype, _transformer_engine(spec)
    return TransformerConfig(
        num_layers=spec.num_layers,
        hidden_size=spec.hidden,
        ffn_hidden_size=spec.ffn_hidden,
        num_attention_heads=spec.num_heads,
        num_query_groups=spec.num_kv_heads,
        kv_channels=spec.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=spec.norm_eps,
        # Megatron sums these norms' gradients over tensor-parallel ranks; across heads each rank
        # has a weight of its own.
        qk_layernorm=spec.qk_norm and not spec.qk_norm_across_heads,
        add_qkv_bias=spec.qkv_bias,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=F.silu,
        # Of the local layers: theirs is layers.activation; Transformer Engine's is fused.
        use_te_activation_func=not fused,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        context_parallel_size=parallel.context,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=parallel.expert_tensor,
        sequence_parallel=parallel.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        **_fp8(precision),
        # Every parameter comes from a checkpoint; initialising would cost time and, on a CPU, a
        # full copy of each matrix.
        perform_initialization=False,
        use_cpu_initialization=runtime.is_cpu,
        # The loss carries its denominators: gradients are summed over data-parallel ranks, never
        # averaged.
        calculate_per_token_loss=True,
        # All micro-batches of a pass are padded to one length, so stages need not exchange shapes
        # first.
        variable_seq_lengths=False,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        cuda_graph_scope=[],  # the default is deprecated and warns
        bias_activation_fusion=fused,
        bias_dropout_fusion=fused,
        apply_rope_fusion=fused,
        **_windows(spec),
        **_recompute(spec, parallel),
        **(_moe(spec, fused, precision) if spec.moe else {}),
    )


def _fp8(precision: PrecisionConfig) -> dict[str, Any]:
    if precision.fp8 is None:
        return {}
    return {
        "fp8": precision.fp8_format,
        "fp8_recipe": precision.fp8,
        "first_last_layers_bf16": precision.bf16_layers > 0,
        "num_layers_at_start_in_bf16": precision.bf16_layers,
        "num_layers_at_end_in_bf16": precision.bf16_layers,
    }


def _windows(spec: ModelSpec) -> dict[str, Any]:
    """Megatron's terms: tokens seen to the left of a token and to its right; 1 for a layer with a
    window.
    """
    sizes = {window for window in spec.windows if window is not None}
    if not sizes:
        return {}
    assert len(sizes) == 1
    return {
        "window_size": (sizes.pop() - 1, 0),
        "window_attn_skip_freq": [int(window is not None) for window in spec.windows],
    }


def _recompute(spec: ModelSpec, parallel: ParallelConfig) -> dict[str, Any]:
    """Megatron's words for `ParallelConfig.recompute` and what belongs to it."""
    if parallel.recompute == "none":
        return {}
    if parallel.recompute == "selective":
        names = {"attention": "core_attn", "feed_forward": "moe" if spec.moe else "mlp"}
        modules = [names[part] for part in parallel.recompute_parts]
        return {"recompute_granularity": "selective", "recompute_modules": modules}
    # In units of one layer, so that no more than one is whole at a time.
    some = parallel.recompute_layers
    return {
        "recompute_granularity": "full",
        "recompute_method": "block" if some else "uniform",
        "recompute_num_layers": some or 1,
    }


def _moe(spec: ModelSpec, fused: bool, precision: PrecisionConfig) -> dict[str, Any]:
    assert spec.moe is not None
    return {
        "num_moe_experts": spec.moe.num_experts,
        "moe_ffn_hidden_size": spec.moe.ffn_hidden,
        "moe_router_topk": spec.moe.top_k,
        # Softmax over the chosen logits equals softmax over all, renormalised over the chosen.
        "moe_router_pre_softmax": not spec.moe.normalise_top_k,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
        "moe_token_dispatcher_type": "alltoall",
        "moe_grouped_gemm": fused,
        # The tokens of each expert, too, must fill tiles.
        "moe_router_padding_for_quantization": precision.fp8 is not None,
    }
