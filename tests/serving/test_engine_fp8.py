"""A real engine serves block-wise FP8: what was exported, by its own loader and checksum.

On a CPU its products are a stand-in's (serving/stand_ins/fp8_products.py); loading, layout and
checksum are SGLang's. A mixture of experts, which has every kind of matrix.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.weights import fp8
from serving.client import EngineClient
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig
from serving.launch import EngineProcess
from serving.swapping.checksum import EngineChecksum, tensor_checksum
from serving.swapping.hot_swap import swap
from tests.distributed import run_ranks

pytestmark = pytest.mark.slow
PROMPT = (1, 40, 41, 42, 43)
LAYERS, EXPERTS = 2, 4


@dataclass(frozen=True)
class Served:
    """What an engine was given and what it said."""

    folder: Path
    weights: dict[str, torch.Tensor]
    checksums: dict[str, str]
    completion: Completion


def export(rank: int, world: int, model: str, out: str) -> None:
    """Write `model`, split over two stages, in FP8."""
    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.weights.export import export_hf
    from sdpo_megatron.weights.load import load_hf_weights
    from sdpo_megatron.weights.spec import ModelSpec

    spec, parallel = ModelSpec.from_folder(model), ParallelConfig(pipeline=2)
    init_model_parallel(parallel)
    chunks = build_model(spec, parallel, PrecisionConfig(dtype="bf16"))
    load_hf_weights(chunks, spec, model)
    export_hf(chunks, spec, model, out, torch.bfloat16, in_fp8=True)


@pytest.fixture(scope="module")
def served(tiny_wide_moe: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("fp8") / "v1"
    run_ranks(export, 2, str(tiny_wide_moe), str(folder))
    config = EngineConfig(device="cpu", precision="fp8", threads=1, max_total_tokens=1024)
    engine = EngineProcess(config, tiny_wide_moe, tmp_path_factory.mktemp("log"))

    async def ask() -> tuple[dict[str, str], Completion]:
        client = EngineClient(engine.url, config)
        try:
            assert not await swap([client], folder, PolicyVersion(1))
            said = (await client.checksums()).ranks[0]
            return dict(said), await client.generate(PROMPT, SamplingParams(max_new_tokens=24))
        finally:
            await client.close()

    engine.start()
    try:
        checksums, completion = asyncio.run(ask())
    finally:
        engine.stop()
    return Served(folder, dict(fp8.served_tensors(of(folder).items())), checksums, completion)


def test_the_engine_s_checksums_are_those_of_what_is_served(
    served: Served, tiny_wide_moe: Path
) -> None:
    checksum = EngineChecksum(json.loads((tiny_wide_moe / "config.json").read_text()))
    for name, tensor in served.weights.items():
        if ".experts." not in name:
            checksum.add(name, tensor)
    expected = dict(checksum.ranks()[0])
    for layer in range(LAYERS):
        experts = f"model.layers.{layer}.mlp.experts"
        first = [
            served.weights[f"{experts}.{number}.{part}_proj.weight"]
            for number in range(EXPERTS)
            for part in ("gate", "up")
        ]
        second = [served.weights[f"{experts}.{n}.down_proj.weight"] for n in range(EXPERTS)]
        expected[f"{experts}.w13_weight"] = tensor_checksum(torch.cat(first))
        expected[f"{experts}.w2_weight"] = tensor_checksum(torch.cat(second))
    assert served.checksums == expected


def test_the_folder_says_what_it_is_and_its_matrices_are_near_the_bf16_ones(
    served: Served, tiny_wide_moe: Path
) -> None:
    config = json.loads((served.folder / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
    source, written = of(tiny_wide_moe), of(served.folder)
    for name, tensor in source.items():
        plain = tensor.bfloat16()
        parts = parts_of(name, written)
        assert len(parts) == 1 + fp8.is_quantised(name)
        back = fp8.served(name, parts)
        assert torch.equal(back, served.weights[name])
        if not fp8.is_quantised(name):
            assert torch.equal(back, plain)
            continue
        # Half a step of e4m3, and half a step of bf16 on the way back.
        step = float(plain.abs().max()) / 448 / 1024
        torch.testing.assert_close(back, plain, rtol=1 / 16 + 1 / 256, atol=step)


def test_its_log_probs_are_those_of_the_rounded_model(
    served: Served, tiny_wide_moe: Path, tmp_path: Path
) -> None:
    """transformers with the served weights is nearer to the engine than with those in bf16; what is
    left between them is the rounding of activations."""
    shutil.copytree(tiny_wide_moe, tmp_path / "served")
    save_file(
        {name: tensor.contiguous() for name, tensor in served.weights.items()},
        tmp_path / "served" / "model.safetensors",
        metadata={"format": "pt"},
    )
    said = torch.tensor(served.completion.log_probs)
    ids = torch.tensor([PROMPT + served.completion.token_ids])
    quantised = (log_probs(tmp_path / "served", ids) - said).abs().mean()
    plain = (log_probs(tiny_wide_moe, ids) - said).abs().mean()
    assert 0 < quantised < plain < 0.2


def log_probs(model: Path, ids: torch.Tensor) -> torch.Tensor:
    """Of the response tokens, in bf16."""
    import transformers

    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = loaded(ids).logits[0, len(PROMPT) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, ids[0, len(PROMPT) :, None]).squeeze(1)


def parts_of(name: str, written: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: written[key] for key in (name, name + fp8.SCALE) if key in written}


def of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file))
    return found
