"""Random tiny checkpoints of every family, made by transformers: what ours are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCAB = 131  # odd: every tensor-parallel size but 1 pads it
LAYERS = 4

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 1,
    # No pad token: transformers gives its embedding no gradient.
    "pad_token_id": None,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    # Numbers of no published model: all four must be honoured.
    "factor": 4.0,
    "low_freq_factor": 1.5,
    "high_freq_factor": 5.0,
    "original_max_position_embeddings": 32,
}
_YARN_ROPE = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 3.0,
    "beta_slow": 0.5,
    "attention_factor": 1.3,
    "original_max_position_embeddings": 32,
}
_MOE: dict[str, Any] = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
}

# name -> (transformers' configuration class, its fields)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "llama3_tied": (
        "LlamaConfig",
        {"tie_word_embeddings": True, "rope_parameters": _LLAMA3_ROPE},
    ),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": False}),
    "qwen2_tied": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"tie_word_embeddings": False, "head_dim": 32}),
    "qwen3_tied": ("Qwen3Config", {"tie_word_embeddings": True, "head_dim": 16}),
    # Windows shorter than most sequences of the tests, both kinds of layers, its own rope scaling.
    "olmo3": (
        "Olmo3Config",
        {
            "tie_word_embeddings": False,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_scaling": _YARN_ROPE,
        },
    ),
    "olmo3_tied": (
        "Olmo3Config",
        {"tie_word_embeddings": True, "sliding_window": 5, "num_key_value_heads": 4},
    ),
}
MOE_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_moe": ("Qwen3MoeConfig", {**_MOE, "tie_word_embeddings": False, "head_dim": 16}),
    "qwen3_moe_raw": (
        "Qwen3MoeConfig",
        {**_MOE, "tie_word_embeddings": True, "head_dim": 16, "norm_topk_prob": False},
    ),
}


def make(name: str, folder: Path) -> Any:
    """Write the checkpoint of family `name` (fp32) to `folder`; returns transformers' model."""
    import transformers

    class_name, fields = (FAMILIES | MOE_FAMILIES)[name]
    config = getattr(transformers, class_name)(**{**_COMMON, **fields})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Norms around one, biases and matrices large enough that a mix-up shows in the logits.
            parameter.copy_(1 + 0.2 * noise if "norm" in parameter_name else 0.15 * noise)
    model.save_pretrained(folder)
    return model.eval()


# Three sequences that make one packed micro-batch of 32 tokens, and a fourth that is the padding.
LENGTHS = (9, 14, 5, 4)


def tokens() -> torch.Tensor:
    """[1, 32] int64."""
    return torch.randint(0, VOCAB, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))


def reference_logits(model: Any) -> torch.Tensor:
    """[32, V]: each sequence on its own through transformers, concatenated; differentiable."""
    parts = tokens().split(LENGTHS, dim=1)
    return torch.cat([model(input_ids=part).logits[0] for part in parts])


def logit_weights() -> torch.Tensor:
    """[32, V]: the loss of gradient tests is the sum of logits times these."""
    return torch.randn(sum(LENGTHS), VOCAB, generator=torch.Generator().manual_seed(2))
