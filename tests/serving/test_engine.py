"""One real SGLang engine on a CPU: generation, versions, swaps, checksums."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdpo_megatron.errors import EngineDiedError, EngineError, SwapError
from sdpo_megatron.nouns import PolicyVersion, VersionSpan
from serving import memory
from serving.client import EngineClient
from serving.completion import SamplingParams
from serving.config import EngineConfig
from serving.launch import EngineProcess
from serving.swapping.checksum import EngineChecksum, engine_checksums
from serving.swapping.hot_swap import swap

pytestmark = pytest.mark.slow

PROMPT = (1, 40, 41, 42, 43)


def with_client(engine: EngineProcess, use: Callable[[EngineClient], Awaitable[Any]]) -> Any:
    """Run `use(client)` in its own event loop, after loading the engine's initial weights."""

    async def main() -> Any:
        client = EngineClient(engine.url, engine.config)
        try:
            assert not await swap([client], engine.model_dir, PolicyVersion(0))
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(main())


@pytest.fixture(scope="module")
def other_weights(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with every tensor changed: a policy version 5."""
    folder = tmp_path_factory.mktemp("version-5")
    shutil.copytree(tiny_llama, folder, dirs_exist_ok=True)
    tensors = load_file(tiny_llama / "model.safetensors")
    torch.manual_seed(5)
    save_file(
        {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def checksum_of(folder: Path, dtype: str = "float32") -> str:
    checksum = EngineChecksum(json.loads((folder / "config.json").read_text()), dtype=dtype)
    for name, tensor in load_file(folder / "model.safetensors").items():
        checksum.add(name, tensor)
    return checksum.overall()


def test_log_probs_are_those_of_transformers(tiny_engine: EngineProcess, tiny_llama: Path) -> None:
    """Every sampled token's log-prob at the sampling temperature, before top-p; 1e-5 in fp32."""
    import transformers

    sampling = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=24, seed=11)
    completion = with_client(tiny_engine, lambda client: client.generate(PROMPT, sampling))
    model = transformers.LlamaForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    ids = torch.tensor([PROMPT + completion.token_ids])
    with torch.no_grad():
        log_probs = (model(ids).logits[0, len(PROMPT) - 1 : -1] / 0.7).log_softmax(-1)
    expected = log_probs.gather(1, ids[0, len(PROMPT) :, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(completion.log_probs), expected, atol=1e-5, rtol=0)
    assert completion.versions == (VersionSpan(0, len(completion.token_ids), 0),)


def test_length_limit_is_recorded(tiny_engine: EngineProcess) -> None:
    sampling = SamplingParams(max_new_tokens=3, seed=1)
    completion = with_client(tiny_engine, lambda client: client.generate(PROMPT, sampling))
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == len(completion.log_probs) == 3


def test_tokens_of_the_stop_string_are_kept(tiny_engine: EngineProcess, tokenizer: Any) -> None:
    """Ids and log-probs hold all that was sampled up to the token completing the stop string."""
    free = SamplingParams(max_new_tokens=40, seed=3)
    whole = with_client(tiny_engine, lambda client: client.generate(PROMPT, free))
    stop = tokenizer.decode(whole.token_ids[9:10])
    stopped = SamplingParams(max_new_tokens=40, seed=3, stop=(stop,))
    completion = with_client(tiny_engine, lambda client: client.generate(PROMPT, stopped))
    assert completion.finish_reason == "stop"
    assert len(completion.token_ids) <= 10
    assert completion.token_ids == whole.token_ids[: len(completion.token_ids)]
    assert tokenizer.decode(completion.token_ids).count(stop) == 1
    assert tokenizer.decode(completion.token_ids).endswith(stop)


def test_seed_reproduces_a_response(tiny_engine: EngineProcess) -> None:
    async def sample(client: EngineClient) -> list[Any]:
        seeds = (21, 22, 21)
        return [
            await client.generate(PROMPT, SamplingParams(max_new_tokens=30, seed=seed))
            for seed in seeds
        ]

    first, other, again = with_client(tiny_engine, sample)
    assert (first.token_ids, first.log_probs) == (again.token_ids, again.log_probs)
    assert first.token_ids != other.token_ids


def test_an_engine_gives_its_memory_back_and_serves_again_after_a_swap(
    tiny_engine: EngineProcess, other_weights: Path
) -> None:
    """The calls and their order, on a real engine; on a CPU nothing is freed by them."""

    async def use(client: EngineClient) -> tuple[Any, Any]:
        sampling = SamplingParams(max_new_tokens=8, seed=4)
        version = PolicyVersion(6, checksum_of(other_weights))
        assert await swap([client], other_weights, version) == {}
        before = await client.generate(PROMPT, sampling)
        await memory.release(client)
        assert await swap([client], other_weights, version) == {}
        return before, await client.generate(PROMPT, sampling)

    before, after = with_client(tiny_engine, use)
    assert (before.token_ids, before.log_probs) == (after.token_ids, after.log_probs)


def test_swap_changes_weights_and_version(tiny_engine: EngineProcess, other_weights: Path) -> None:
    async def use(client: EngineClient) -> Any:
        version = PolicyVersion(5, checksum_of(other_weights))
        assert await swap([client], other_weights, version) == {}
        return (await client.checksums()).overall, await client.version()

    assert with_client(tiny_engine, use) == (checksum_of(other_weights), 5)


def test_request_in_flight_carries_spans_of_both_versions(
    tiny_engine: EngineProcess, other_weights: Path
) -> None:
    async def use(client: EngineClient) -> Any:
        sampling = SamplingParams(max_new_tokens=400, seed=9)
        request = asyncio.create_task(client.generate(PROMPT, sampling))
        while not request.done() and await _num_running(client) == 0:
            await asyncio.sleep(0.01)
        await swap([client], other_weights, PolicyVersion(5))
        return await request

    completion = with_client(tiny_engine, use)
    old, new = completion.versions
    assert (old.version, new.version) == (0, 5)
    assert (old.start, old.end, new.end) == (0, new.start, len(completion.token_ids))
    assert 0 < old.end < new.end


async def _num_running(client: EngineClient) -> int:
    load = await client._call("GET", "/v1/loads", None, 10.0)
    return sum(rank["num_running_reqs"] for rank in load["loads"])


def test_missing_weights_leave_the_old_ones(tiny_engine: EngineProcess, tmp_path: Path) -> None:
    async def use(client: EngineClient) -> Any:
        with pytest.raises(SwapError, match=r"no \*\.safetensors"):
            await swap([client], tmp_path / "nowhere", PolicyVersion(6))
        with pytest.raises(EngineError, match="HTTP 400"):
            await client.load_weights_from_disk(tmp_path / "nowhere")
        return (await client.checksums()).overall, await client.version()

    assert with_client(tiny_engine, use) == (checksum_of(tiny_engine.model_dir), 0)


def test_torn_weights_never_reach_an_engine(
    tiny_engine: EngineProcess, other_weights: Path, tmp_path: Path
) -> None:
    content = (other_weights / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-100])

    async def use(client: EngineClient) -> Any:
        with pytest.raises(SwapError, match=r"policy version 6.*torn"):
            await swap([client], tmp_path, PolicyVersion(6))
        return (await client.checksums()).overall, await client.version()

    assert with_client(tiny_engine, use) == (checksum_of(tiny_engine.model_dir), 0)


def test_checksum_mismatch_is_found(tiny_engine: EngineProcess, other_weights: Path) -> None:
    """Neither named nor resumed: a request waits until it is reloaded."""

    async def use(client: EngineClient) -> Any:
        failures = await swap([client], other_weights, PolicyVersion(5, checksum="0" * 64))
        request = asyncio.create_task(client.generate(PROMPT, SamplingParams(max_new_tokens=2)))
        with pytest.raises(EngineError, match="began and did not finish"):
            await client.version()
        done, _ = await asyncio.wait([request], timeout=0.5)
        assert not done
        assert not await swap([client], other_weights, PolicyVersion(5, checksum_of(other_weights)))
        return failures[client], await request

    failure, completion = with_client(tiny_engine, use)
    assert isinstance(failure, SwapError)
    assert "the engine's weights are not the trainer's" in str(failure)
    assert [span.version for span in completion.versions] == [5]


def test_checksums_name_by_name(tiny_engine: EngineProcess, tiny_llama: Path) -> None:
    reported = with_client(tiny_engine, lambda client: client.checksums())
    config = json.loads((tiny_llama / "config.json").read_text())
    expected = engine_checksums(
        load_file(tiny_llama / "model.safetensors").items(), config, dtype="float32"
    )
    assert [dict(rank) for rank in reported.ranks] == expected
    assert "model.layers.1.self_attn.qkv_proj.weight" in expected[0]


def test_unreachable_url() -> None:
    async def use() -> None:
        client = EngineClient("http://127.0.0.1:9", EngineConfig())
        try:
            await client.version()
        finally:
            await client.close()

    with pytest.raises(
        EngineDiedError, match=r"http://127\.0\.0\.1:9/model_info.*Does an engine listen"
    ):
        asyncio.run(use())
