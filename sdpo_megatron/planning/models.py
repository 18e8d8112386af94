"""The shapes of the model sizes that recipes know, so that a layout can be planned before the
weights are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.weights.spec import CONFIG_NAME, ModelSpec, MoeSpec

ModelName = Literal[
    "qwen3-0.6b",
    "qwen3-1.7b",
    "qwen3-4b",
    "qwen3-8b",
    "qwen3-14b",
    "qwen3-32b",
    "qwen3-30b-a3b",
]


def _qwen3(
    layers: int,
    hidden: int,
    ffn_hidden: int,
    heads: int,
    kv_heads: int = 8,
    *,
    tied: bool = False,
    moe: MoeSpec | None = None,
) -> ModelSpec:
    return ModelSpec(
        model_type="qwen3" if moe is None else "qwen3_moe",
        num_layers=layers,
        hidden=hidden,
        ffn_hidden=ffn_hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        vocab=151936,
        max_position=40960,
        norm_eps=1e-6,
        rope_theta=1e6,
        tied=tied,
        qk_norm=True,
        moe=moe,
        dtype="bfloat16",
    )


MODELS: Mapping[ModelName, ModelSpec] = {
    "qwen3-0.6b": _qwen3(28, 1024, 3072, 16, tied=True),
    "qwen3-1.7b": _qwen3(28, 2048, 6144, 16, tied=True),
    "qwen3-4b": _qwen3(36, 2560, 9728, 32, tied=True),
    "qwen3-8b": _qwen3(36, 4096, 12288, 32),
    "qwen3-14b": _qwen3(40, 5120, 17408, 40),
    "qwen3-32b": _qwen3(64, 5120, 25600, 64),
    "qwen3-30b-a3b": _qwen3(
        48,
        2048,
        6144,
        32,
        4,
        moe=MoeSpec(num_experts=128, top_k=8, ffn_hidden=768, normalise_top_k=True),
    ),
}
"""config.json of the Hugging Face checkpoints Qwen/Qwen3-0.6B and so on."""


def shape_of(name: str, path: str) -> ModelSpec:
    """The shape of the model called `name`, whose checkpoint lies, or will lie, at `path`.

    Raises:
        ConfigError: An unknown name, or `path` holds a model of another shape.
        ModelFileError: `path` holds a config.json that cannot be read.
    """
    spec: ModelSpec | None = MODELS.get(name)  # type: ignore[call-overload]
    if spec is None:
        raise ConfigError(f"model={name}: there is no such size; sizes: {', '.join(MODELS)}")
    if not (Path(path) / CONFIG_NAME).is_file():
        return spec
    found = ModelSpec.from_folder(path)
    keys = ("num_layers", "hidden", "ffn_hidden", "num_heads", "num_kv_heads", "vocab", "moe")
    other = [
        f"{key} {getattr(found, key)}, expected {getattr(spec, key)}"
        for key in keys
        if getattr(found, key) != getattr(spec, key)
    ]
    if other:
        raise ConfigError(
            f"model_path={path} holds another model than model={name}: {'; '.join(other)}"
        )
    return found
