"""config.json becomes a ModelSpec, or an error that names the field."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ModelFileError
from sdpo_megatron.weights.mapping import hf_shapes
from sdpo_megatron.weights.spec import Llama3Rope, ModelSpec, MoeSpec, YarnRope

# As published: Qwen/Qwen3-8B.
QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA_32_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
QWEN25_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 152064,
}
QWEN3_30B_A3B = {
    **{k: v for k, v in QWEN3_8B.items() if k != "architectures"},
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}

OLMO3_7B = {
    "architectures": ["Olmo3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 8,
    "max_position_embeddings": 65536,
    "model_type": "olmo3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "yarn",
    },
    "rope_theta": 500000,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 100278,
}


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (QWEN3_8B, 8.19),
        (LLAMA_32_1B, 1.236),
        (QWEN25_7B, 7.616),
        (QWEN3_30B_A3B, 30.53),
        (OLMO3_7B, 7.298),
    ],
    ids=["qwen3-8b", "llama-3.2-1b", "qwen2.5-7b", "qwen3-30b-a3b", "olmo-3-7b"],
)
def test_published_models_have_their_published_size(
    config: dict[str, Any], billions: float
) -> None:
    spec = ModelSpec.from_config(config)
    parameters = sum(math.prod(shape) for shape in hf_shapes(spec).values())
    assert parameters / 1e9 == pytest.approx(billions, rel=1e-3)


def test_every_field_of_a_dense_model() -> None:
    spec = ModelSpec.from_config(QWEN3_8B)
    assert spec == ModelSpec(
        model_type="qwen3",
        num_layers=36,
        hidden=4096,
        ffn_hidden=12288,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab=151936,
        max_position=40960,
        norm_eps=1e-6,
        rope_theta=1e6,
        qk_norm=True,
        dtype="bfloat16",
    )
    assert {"initializer_range", "use_cache", "bos_token_id"} <= set(spec.ignored)


def test_what_the_families_differ_in() -> None:
    llama, qwen = ModelSpec.from_config(LLAMA_32_1B), ModelSpec.from_config(QWEN25_7B)
    assert llama.tied
    assert llama.rope_scaling == Llama3Rope(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192
    )
    assert (qwen.qkv_bias, qwen.qk_norm, qwen.head_dim) == (True, False, 128)
    assert ModelSpec.from_config(QWEN3_30B_A3B).moe == MoeSpec(
        num_experts=128, top_k=8, ffn_hidden=768, normalise_top_k=True
    )


def test_olmo_3_has_windows_post_norms_and_a_rope_scaling_of_its_own() -> None:
    spec = ModelSpec.from_config(OLMO3_7B)
    assert (spec.post_norm, spec.qk_norm, spec.qk_norm_across_heads) == (True, True, True)
    assert spec.windows == (4096, 4096, 4096, None) * 8
    assert spec.rope_scaling == YarnRope(
        factor=8.0,
        original_max_position=8192,
        beta_fast=32.0,
        beta_slow=1.0,
        attention_factor=pytest.approx(0.1 * math.log(8.0) + 1.0),
        truncate=True,
    )
    by_default = {k: v for k, v in OLMO3_7B.items() if k not in ("layer_types", "rope_theta")}
    assert ModelSpec.from_config(by_default) == spec


def test_olmo_3_as_transformers_5_writes_it() -> None:
    new = {k: v for k, v in OLMO3_7B.items() if k not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = {
        "full_attention": {**OLMO3_7B["rope_scaling"], "rope_theta": 500000.0},  # type: ignore[dict-item]
        "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
    }
    assert ModelSpec.from_config(new) == ModelSpec.from_config(OLMO3_7B)
    for kind, parameters, message in (
        ("sliding_attention", {"rope_theta": 10000.0}, "rope_theta differs"),
        ("sliding_attention", {"rope_type": "yarn", "rope_theta": 500000.0}, "is not supported"),
    ):
        changed = {**new, "rope_parameters": {**new["rope_parameters"], kind: parameters}}  # type: ignore[dict-item]
        with pytest.raises(ModelFileError, match=message):
            ModelSpec.from_config(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types holds 1 of"),
        ({"layer_types": ["chunked_attention"] * 32}, "chunked_attention"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn without factor"),
        ({"sliding_window": 0}, "sliding_window=0, expected a positive"),
    ],
)
def test_an_olmo_3_that_we_cannot_honour_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        ModelSpec.from_config({**OLMO3_7B, **change})


def test_rope_parameters_of_transformers_5() -> None:
    new = {k: v for k, v in LLAMA_32_1B.items() if k not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = {**LLAMA_32_1B["rope_scaling"], "rope_theta": 500000.0}  # type: ignore[dict-item]
    assert ModelSpec.from_config(new) == ModelSpec.from_config(LLAMA_32_1B)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_sliding_window": True, "sliding_window": 4096}, "sliding_window=4096"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"logit_scale": 0.0625}, "logit_scale"),
        ({"hidden_size": "4096"}, "hidden_size='4096'"),
        ({"num_hidden_layers": None}, "num_hidden_layers=None"),
        ({"model_type": "gemma3"}, "model_type='gemma3'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_field_that_we_would_ignore_is_an_error_naming_it(
    change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelFileError) as error:
        ModelSpec.from_config({**QWEN3_8B, **change}, where="models/x/config.json")
    assert named in str(error.value)
    assert "models/x/config.json" in str(error.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ModelFileError, match=r"hidden_act.*mlp_bias.*logit_scale"):
        ModelSpec.from_config(
            {**QWEN3_8B, "hidden_act": "gelu", "mlp_bias": True, "logit_scale": 2}
        )


@pytest.mark.parametrize(
    "change", [{"decoder_sparse_step": 2}, {"mlp_only_layers": [0]}], ids=["step", "layers"]
)
def test_dense_layers_between_experts_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=next(iter(change))):
        ModelSpec.from_config({**QWEN3_30B_A3B, **change})


def test_an_unset_unknown_field_is_harmless() -> None:
    assert ModelSpec.from_config({**QWEN3_8B, "use_mrope": False, "novelty": None}).hidden == 4096


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist; give the path"):
        ModelSpec.from_folder(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match="is not a Hugging Face checkpoint folder"):
        ModelSpec.from_folder(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_config_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"config\.json .*fetch the model again"):
        ModelSpec.from_folder(tmp_path)


def test_padded_vocabulary() -> None:
    spec = ModelSpec.from_config({**QWEN3_8B, "vocab_size": 131})
    assert [spec.padded_vocab(n) for n in (1, 2, 3, 4)] == [131, 132, 132, 132]


def test_from_folder_reads_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B))
    assert ModelSpec.from_folder(tmp_path) == ModelSpec.from_config(QWEN3_8B)
