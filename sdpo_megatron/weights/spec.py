"""What a Hugging Face folder says about its model: `ModelSpec`, from config.json.

Every field of config.json is either used, known to be harmless here, or an error that names it: a
checkpoint whose attention window or rope scaling we silently dropped would train, slowly, into
something else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import ModelFileError

CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class Family:
    """What one `model_type` fixes without saying so in config.json.

    Attributes:
        qk_norm: RMSNorm over each head's query and key.
        qkv_bias: Bias of q, k, v; None when config.json decides (`attention_bias`).
        moe: Its feed-forward layers are mixtures of experts.
        default_head_dim: `head_dim` when config.json does not say; None means hidden / heads.
        qk_norm_across_heads: That norm is over the whole width of query and key, all heads at once.
        post_norm: Attention and feed-forward layer are normalised at their ends, not before them.
        windowed: Layers of `layer_types` sliding_attention see `sliding_window` tokens, and rope
            scaling (yarn) is that of the other layers only.
        default_rope_theta, default_norm_eps: When config.json does not say.
    """

    qk_norm: bool = False
    qkv_bias: bool | None = None
    moe: bool = False
    default_head_dim: int | None = None
    qk_norm_across_heads: bool = False
    post_norm: bool = False
    windowed: bool = False
    default_rope_theta: float = 10000.0
    default_norm_eps: float = 1e-6


FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "qwen2": Family(qkv_bias=True),  # Qwen2 and Qwen2.5
    "qwen3": Family(qk_norm=True, default_head_dim=128),
    "qwen3_moe": Family(qk_norm=True, moe=True),
    "olmo3": Family(
        qk_norm=True,
        qk_norm_across_heads=True,
        post_norm=True,
        windowed=True,
        default_rope_theta=500000.0,
        default_norm_eps=1e-5,
    ),
}
WINDOW_LAYER, FULL_LAYER = "sliding_attention", "full_attention"


@dataclass(frozen=True, kw_only=True)
class Llama3Rope:
    """Llama 3's frequency-dependent rope scaling."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, kw_only=True)
class YarnRope:
    """YaRN's frequency-dependent rope scaling (arXiv 2309.00071).

    Attributes:
        attention_factor: Of rotated queries and keys alike.
        truncate: The two ends of the ramp are rounded outwards to whole frequencies.
    """

    factor: float
    original_max_position: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool


@dataclass(frozen=True, kw_only=True)
class MoeSpec:
    """Mixture of experts in every layer.

    Attributes:
        num_experts: Experts a layer.
        top_k: Experts a token.
        ffn_hidden: Inner width of one expert.
        normalise_top_k: Whether the probabilities of the chosen experts are scaled to sum to 1.
    """

    num_experts: int
    top_k: int
    ffn_hidden: int
    normalise_top_k: bool


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The shape of a decoder-only model, independent of any parallel layout.

    Attributes:
        model_type: As in config.json; a key of `FAMILIES`.
        num_heads, num_kv_heads, head_dim: Query heads, key-value heads (groups), width of one head.
        ffn_hidden: Inner width of the gated feed-forward layer (unused by mixture-of-experts
            layers).
        tied: Input embeddings are the output head.
        qkv_bias, qk_norm: Bias on q, k, v; RMSNorm over each head's q and k.
        qk_norm_across_heads, post_norm: As in `Family`.
        windows: By layer, how many tokens a token sees, itself included, or None for all before it;
            empty where all layers see all.
        rope_scaling: Of layers without a window.
        dtype: Name of the checkpoint's dtype in config.json: float32, bfloat16 or float16.
        ignored: Fields of config.json that do not matter here and are not read.
    """

    model_type: str
    num_layers: int
    hidden: int
    ffn_hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    max_position: int
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Rope | YarnRope | None = None
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    qk_norm_across_heads: bool = False
    post_norm: bool = False
    windows: tuple[int | None, ...] = ()
    moe: MoeSpec | None = None
    dtype: str = "float32"
    ignored: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> ModelSpec:
        """Read ``folder/config.json``.

        Raises:
            ModelFileError: No such folder or file, not JSON, an unknown model, or a field that we
                cannot honour.
        """
        return cls.from_config(read_config(folder), where=str(Path(folder) / CONFIG_NAME))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str = CONFIG_NAME) -> ModelSpec:
        """As `from_folder`, from the parsed file; `where` names it in messages."""
        return _Reader(dict(config), where).spec()

    def padded_vocab(self, tensor_parallel: int) -> int:
        """Rows of the embedding in Megatron: the vocabulary rounded up to a multiple."""
        return -(-self.vocab // tensor_parallel) * tensor_parallel


def read_config(folder: str | Path) -> dict[str, Any]:
    """``folder/config.json`` parsed.

    Raises:
        ModelFileError: Not there, or not a JSON object.
    """
    path = Path(folder) / CONFIG_NAME
    if not Path(folder).is_dir():
        raise ModelFileError(
            f"model folder {folder} does not exist; give the path of a Hugging Face checkpoint "
            "folder (config.json and *.safetensors)"
        )
    if not path.is_file():
        raise ModelFileError(
            f"{path} does not exist; {folder} is not a Hugging Face checkpoint folder"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not readable JSON: {error}; fetch the model again"
        ) from error
    if not isinstance(config, dict):
        raise ModelFileError(
            f"{path} holds a {type(config).__name__}, expected an object; fetch the model again"
        )
    return config


# Fields that nothing here reads and that cannot change what is computed, by the reason why not.
_HARMLESS_BY_REASON = {
    "token ids come from the tokenizer": (
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("tokenizer_class", "prefix"),
    ),
    "every parameter comes from the checkpoint, in the precision that the run asks for": (
        *("initializer_range", "dtype", "torch_dtype", "pretraining_tp"),
    ),
    "windows are off, or an error": ("max_window_layers",),
    "losses and outputs are the objective's": (
        *("output_router_logits", "router_aux_loss_coef", "use_cache", "return_dict"),
        *("output_attentions", "output_hidden_states", "chunk_size_feed_forward"),
    ),
    "other uses of the same class": (
        *("id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params"),
        *("is_encoder_decoder", "is_decoder", "add_cross_attention", "cross_attention_hidden_size"),
        *("tie_encoder_decoder",),
    ),
    "names and versions": (
        *("_name_or_path", "architectures", "auto_map", "transformers_version", "is_llama_config"),
        *("_attn_implementation_autoset", "transformers.js_config"),
        *("unsloth_fixed", "unsloth_version"),
    ),
}
_HARMLESS = frozenset(name for names in _HARMLESS_BY_REASON.values() for name in names)


class _Reader:
    """Takes fields out of config.json one by one; what is left at the end was not understood."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.left = config
        self.where = where
        self.errors: list[str] = []

    def spec(self) -> ModelSpec:
        model_type = str(self.left.pop("model_type", None))
        family = FAMILIES.get(model_type)
        if family is None:
            raise ModelFileError(
                f"{self.where}: model_type={model_type!r} is not supported; supported: "
                f"{', '.join(FAMILIES)}"
            )
        hidden, heads = self.positive("hidden_size"), self.positive("num_attention_heads")
        bias = bool(self.left.pop("attention_bias", False))
        if bias and family.qkv_bias is None:
            # Llama and Qwen3 put this bias on the output projection too, which no published
            # checkpoint of theirs uses.
            self.errors.append("attention_bias=true (bias on o_proj) is not supported")
        self.num_layers = self.positive("num_hidden_layers")
        spec = ModelSpec(
            model_type=model_type,
            num_layers=self.num_layers,
            hidden=hidden,
            ffn_hidden=self.positive("intermediate_size"),
            num_heads=heads,
            num_kv_heads=self.positive("num_key_value_heads", default=heads),
            head_dim=self.positive("head_dim", default=family.default_head_dim or hidden // heads),
            vocab=self.positive("vocab_size"),
            max_position=self.positive("max_position_embeddings", default=2048),
            norm_eps=float(self.left.pop("rms_norm_eps", family.default_norm_eps)),
            rope_theta=self.rope_theta(family),
            rope_scaling=self.rope_scaling(family),
            tied=bool(self.left.pop("tie_word_embeddings", False)),
            qkv_bias=bool(family.qkv_bias),
            qk_norm=family.qk_norm,
            qk_norm_across_heads=family.qk_norm_across_heads,
            post_norm=family.post_norm,
            windows=self.windows() if family.windowed else (),
            moe=self.moe() if family.moe else None,
            dtype=str(self.left.get("dtype") or self.left.get("torch_dtype") or "float32"),
            ignored=tuple(sorted(self.left.keys() & _HARMLESS)),
        )
        self.refuse_what_is_left()
        return spec

    def positive(self, name: str, default: int | None = None) -> int:
        value = self.left.pop(name, None)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            self.errors.append(f"{name}={value!r}, expected a positive integer")
            return 1
        return value

    def windows(self) -> tuple[int | None, ...]:
        """Taken before what remains is refused; three of four layers have one by default."""
        num = self.num_layers
        window = self.positive("sliding_window", default=4096)
        types = self.left.pop("layer_types", None)
        if types is None:
            types = [FULL_LAYER if n % 4 == 3 else WINDOW_LAYER for n in range(num)]
        if len(types) != num or set(types) - {WINDOW_LAYER, FULL_LAYER}:
            self.errors.append(
                f"layer_types holds {len(types)} of {sorted(set(types))}, expected {num} of "
                f"{FULL_LAYER} and {WINDOW_LAYER}"
            )
        return tuple(window if kind == WINDOW_LAYER else None for kind in types)

    def rope_theta(self, family: Family) -> float:
        # transformers 5 writes rope_parameters = {"rope_theta": ..., "rope_type": ...}; older ones
        # two fields. Where layers differ there is one for each type of layer.
        parameters = self.left.pop("rope_parameters", None) or {}
        if family.windowed and FULL_LAYER in parameters:
            parameters, windowed = parameters[FULL_LAYER], parameters.get(WINDOW_LAYER) or {}
            of_full = parameters.get("rope_theta", family.default_rope_theta)
            if windowed.get("rope_theta", of_full) != of_full:
                self.errors.append(f"rope_theta differs between {FULL_LAYER} and {WINDOW_LAYER}")
            if windowed.get("rope_type", "default") != "default":
                self.errors.append(f"rope scaling of {WINDOW_LAYER} is not supported")
        theta = self.left.pop("rope_theta", None) or parameters.get(
            "rope_theta", family.default_rope_theta
        )
        if parameters:
            self.left["rope_scaling"] = {k: v for k, v in parameters.items() if k != "rope_theta"}
        return float(theta)

    def rope_scaling(self, family: Family) -> Llama3Rope | YarnRope | None:
        scaling = self.left.pop("rope_scaling", None) or {}
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind == "default":
            return None
        if kind == "yarn" and family.windowed:
            return self.yarn(scaling)
        if kind != "llama3":
            self.errors.append(f"rope scaling {kind!r} is not supported (only llama3, or none)")
            return None
        names = (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
        missing = [name for name in names if name not in scaling]
        if missing:
            self.errors.append(f"rope scaling llama3 without {', '.join(missing)}")
            return None
        return Llama3Rope(
            factor=float(scaling["factor"]),
            low_freq_factor=float(scaling["low_freq_factor"]),
            high_freq_factor=float(scaling["high_freq_factor"]),
            original_max_position=int(scaling["original_max_position_embeddings"]),
        )

    def yarn(self, scaling: Mapping[str, Any]) -> YarnRope | None:
        missing = [n for n in ("factor", "original_max_position_embeddings") if n not in scaling]
        if missing:
            self.errors.append(f"rope scaling yarn without {', '.join(missing)}")
            return None
        if scaling.get("mscale") or scaling.get("mscale_all_dim"):
            self.errors.append("rope scaling yarn with mscale is not supported")
        factor = float(scaling["factor"])
        by_default = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
        return YarnRope(
            factor=factor,
            original_max_position=int(scaling["original_max_position_embeddings"]),
            beta_fast=float(scaling.get("beta_fast") or 32.0),
            beta_slow=float(scaling.get("beta_slow") or 1.0),
            attention_factor=float(scaling.get("attention_factor") or by_default),
            truncate=bool(scaling.get("truncate", True)),
        )

    def moe(self) -> MoeSpec:
        self.only(
            "decoder_sparse_step",
            1,
            "dense layers between mixture-of-experts layers are not supported",
        )
        self.only(
            "mlp_only_layers",
            [],
            "dense layers between mixture-of-experts layers are not supported",
        )
        return MoeSpec(
            # transformers 5 writes num_local_experts, published checkpoints have num_experts.
            num_experts=self.positive(
                "num_experts", default=self.left.pop("num_local_experts", None)
            ),
            top_k=self.positive("num_experts_per_tok"),
            ffn_hidden=self.positive("moe_intermediate_size"),
            normalise_top_k=bool(self.left.pop("norm_topk_prob", False)),
        )

    def only(self, name: str, value: object, why: str) -> None:
        """Take a field that may hold just one value (or nothing)."""
        got = self.left.pop(name, value)
        if got != value and got is not None:
            self.errors.append(f"{name}={got!r}: {why}")

    def refuse_what_is_left(self) -> None:
        self.only("hidden_act", "silu", "only silu is supported")
        self.only("mlp_bias", False, "bias in the feed-forward layer is not supported")
        self.only(
            "attention_dropout",
            0.0,
            "training with attention dropout is not supported; set it to 0.0",
        )
        self.only("partial_rotary_factor", 1.0, "rope on a part of the head is not supported")
        window = self.left.pop("sliding_window", None)
        if window is not None and self.left.pop("use_sliding_window", True):
            self.errors.append(
                f"sliding_window={window!r} in use: attention windows are not supported"
            )
        self.left.pop("use_sliding_window", None)
        layer_types = set(self.left.pop("layer_types", None) or ())
        if layer_types - {"full_attention"}:
            self.errors.append(
                f"layer_types holds {sorted(layer_types - {'full_attention'})}: full attention only"
            )
        quantised = self.left.pop("quantization_config", None)
        if quantised is not None:
            self.errors.append(
                "quantization_config: a quantised checkpoint cannot be trained; use the original"
            )
        unknown = sorted(
            name
            for name, value in self.left.items()
            if name not in _HARMLESS and value not in (None, False)
        )
        if unknown:
            self.errors.append(f"unknown fields that might change the model: {', '.join(unknown)}")
        if self.errors:
            raise ModelFileError(f"{self.where}: " + "; ".join(self.errors))
