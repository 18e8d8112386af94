"""Stages of `gpu_check` with SGLang on the card, beside the trainer that gives it its weights.

engine        swapped to weights that the trainer moved; checksums by SGLang's GPU hash;
              log-probabilities of what it samples against the trainer's
engine_fp8    the same with its matrices in block-wise FP8
engine_memory what it gives back while the trainer works, and that it serves the same afterwards
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.weights import fp8
from serving import memory
from serving.client import EngineClient
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig
from serving.launch import EngineProcess
from serving.swapping.checksum import EngineChecksum
from serving.swapping.hot_swap import swap

PROMPTS = tuple(tuple(range(10 + 7 * n, 30 + 9 * n)) for n in range(4))
SAMPLING = SamplingParams(max_new_tokens=32, temperature=1.0)
GREEDY = SamplingParams(max_new_tokens=32, temperature=0.0)


def config(machine: Any, *, precision: Any = "same", release_memory: bool = False) -> EngineConfig:
    """A third of the card; fp32 on a CPU where it can be."""
    exact = machine.dry_run and precision == "same"
    return EngineConfig(
        device=machine.device,
        dtype="float32" if exact else "bfloat16",
        precision=precision,
        mem_fraction=0.3,
        max_total_tokens=4096,
        threads=1,
        release_memory=release_memory,
    )


def agreement(machine: Any, actor: Any, source: Path, engine: EngineConfig) -> dict[str, Any]:
    """The actor's weights in an engine; how far their log-probabilities are apart."""
    with tempfile.TemporaryDirectory() as root, started(engine, source) as process:
        folder, version = exported(actor, source, Path(root) / "v1", engine)

        async def sampled(client: EngineClient) -> list[Completion]:
            return [await client.generate(prompt, SAMPLING) for prompt in PROMPTS]

        completions = swapped(process, folder, version, sampled)
    gaps = torch.cat(
        [
            (log_probs(actor, prompt, completion.token_ids) - torch.tensor(completion.log_probs))
            for prompt, completion in zip(PROMPTS, completions, strict=True)
        ]
    ).abs()
    found = {"checksum": version.checksum[:16], "gap_mean": float(gaps.mean())}
    found["gap_max"] = float(gaps.max())
    limit = 1e-4 if engine.dtype == "float32" else 0.05 if engine.precision == "same" else 0.3
    assert found["gap_mean"] < limit, found
    return found


def given_back(machine: Any, actor: Any, source: Path, engine: EngineConfig) -> dict[str, Any]:
    """Bytes of the card that are free before, while and after the engine has released its own."""
    with tempfile.TemporaryDirectory() as root, started(engine, source) as process:
        folder, version = exported(actor, source, Path(root) / "v1", engine)

        async def use(client: EngineClient) -> dict[str, Any]:
            first = await client.generate(PROMPTS[0], GREEDY)
            free = [machine.free_bytes()]
            await memory.release(client)
            free.append(machine.free_bytes())
            assert not await swap([client], folder, version)
            free.append(machine.free_bytes())
            again = await client.generate(PROMPTS[0], GREEDY)
            assert first.token_ids == again.token_ids
            return {"free_gib": [round(value / 2**30, 2) for value in free]}

        found = swapped(process, folder, version, use)
    before, while_released, _ = found["free_gib"]
    assert machine.dry_run or while_released > before + 1, found
    return found


def exported(
    actor: Any, source: Path, folder: Path, engine: EngineConfig
) -> tuple[Path, PolicyVersion]:
    """The actor's weights as the engine loads them, with the checksum that it must report."""
    from safetensors.torch import load_file

    from sdpo_megatron.weights.export import export_hf

    in_fp8 = engine.precision == "fp8"
    dtype = getattr(torch, engine.dtype)
    export_hf(actor.chunks, actor.spec, source, folder, dtype, in_fp8=in_fp8)
    config = json.loads((source / "config.json").read_text())
    checksum = EngineChecksum(config, dtype=engine.dtype, device=engine.device)
    for name, tensor in fp8.served_tensors(load_file(folder / "model.safetensors").items()):
        checksum.add(name, tensor)
    return folder, PolicyVersion(1, checksum.overall())


@contextmanager
def started(engine: EngineConfig, source: Path) -> Iterator[EngineProcess]:
    with tempfile.TemporaryDirectory() as logs:
        process = EngineProcess(engine, source, logs)
        process.start()
        try:
            yield process
        finally:
            process.stop()


def swapped(
    process: EngineProcess,
    folder: Path,
    version: PolicyVersion,
    use: Callable[[EngineClient], Awaitable[Any]],
) -> Any:
    """`use` of a client whose engine serves `version`, proven by its checksum."""

    async def main() -> Any:
        client = EngineClient(process.url, process.config)
        try:
            failures = await swap([client], folder, version)
            assert not failures, str(next(iter(failures.values())))
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(main())


@torch.no_grad()
def log_probs(actor: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """The trainer's, of each response token, on the CPU."""
    from megatron.core.packed_seq_params import PackedSeqParams

    from sdpo_megatron.objectives import HeadOptions, head_log_probs

    device, model = actor.runtime.device, actor.chunks[0].module
    tokens = torch.tensor([[*prompt, *response]], device=device)
    ends = torch.tensor([0, tokens.shape[1]], dtype=torch.int32, device=device)
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=ends,
        cu_seqlens_kv=ends,
        max_seqlen_q=tokens.shape[1],
        max_seqlen_kv=tokens.shape[1],
    )
    positions = torch.arange(tokens.shape[1], device=device)[None]
    hidden = model(tokens, positions, packed_seq_params=packed)[len(prompt) - 1 : -1, 0]
    ids = torch.tensor(response, device=device)
    options = HeadOptions(vocab_size=actor.spec.vocab)
    return head_log_probs(hidden, model.head_weight().detach(), ids, options).cpu()
