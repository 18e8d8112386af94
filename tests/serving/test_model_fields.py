"""OLMo 3 on a real engine, and the configurations of it that the engine would misread."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.nouns import PolicyVersion
from serving.client import EngineClient
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig
from serving.launch import EngineProcess
from serving.model_fields import engine_problems
from serving.swapping.checksum import EngineChecksum
from serving.swapping.hot_swap import swap

YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "attention_factor": 0.1 * math.log(4.0) + 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 256,
}
PUBLISHED = {"model_type": "olmo3", "rope_theta": 500000, "rope_scaling": YARN}
PROMPT = tuple(range(5, 45))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"rope_scaling": None}, None),
        ({"rope_scaling": {**YARN, "attention_factor": None}}, None),
        ({"rope_parameters": {"full_attention": YARN}}, "rope_parameters is not read"),
        ({"rope_scaling": {**YARN, "attention_factor": 1.3}}, "attention_factor=1.3 is not read"),
        ({"model_type": "llama", "rope_parameters": YARN}, None),
    ],
)
def test_what_the_engine_would_misread(change: dict[str, Any], problem: str | None) -> None:
    found = engine_problems({**PUBLISHED, **change})
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


@pytest.fixture
def tiny_olmo3(tmp_path: Path, tokenizer: Any) -> tuple[Path, Any]:
    """Folder, with config.json as published, and transformers' model: windows of 8 tokens."""
    import torch
    import transformers

    config = transformers.Olmo3Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        vocab_size=len(tokenizer),
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
        rope_scaling=dict(YARN),
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.Olmo3ForCausalLM(config).float()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.15)
    folder = tmp_path / "olmo3"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    del written["rope_parameters"]
    (folder / "config.json").write_text(json.dumps({**written, **PUBLISHED}))
    return folder, model


@pytest.mark.slow
def test_olmo_3_is_served_and_swapped(tiny_olmo3: tuple[Path, Any], tmp_path: Path) -> None:
    """Windows, both ropes and the checksum of a swap: log-probs are those of transformers."""
    import torch
    from safetensors.torch import load_file

    folder, model = tiny_olmo3
    checksum = EngineChecksum(json.loads((folder / "config.json").read_text()), dtype="float32")
    for name, tensor in load_file(folder / "model.safetensors").items():
        checksum.add(name, tensor)
    version = PolicyVersion(1, checksum.overall())
    config = EngineConfig(
        device="cpu", dtype="float32", threads=1, max_total_tokens=4096, deterministic=True
    )
    engine = EngineProcess(config, folder, tmp_path / "log")

    async def sample() -> Completion:
        client = EngineClient(engine.url, config)
        try:
            assert await swap([client], folder, version) == {}
            return await client.generate(PROMPT, SamplingParams(max_new_tokens=20, seed=1))
        finally:
            await client.close()

    engine.start()
    try:
        completion = asyncio.run(sample())
    finally:
        engine.stop()
    ids = torch.tensor([PROMPT + completion.token_ids])
    with torch.no_grad():
        log_probs = model(ids).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
    expected = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(completion.log_probs), expected, atol=1e-4, rtol=0)
