"""After swaps, engine log-probs are Megatron's; an exported run is the model the engine had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import run_ranks
from tests.loops import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEP = 3


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that keeps all its checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    more = (f"run.steps={STEP + 1}", "run.keep_checkpoints=9", "rollout.sampling.concurrency=6")
    runs.finish(runs.start(runs.overrides(tiny_llama, folder, *more)))
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """The weights after STEP steps, as `sdpo export` writes them."""
    import subprocess
    import sys

    out = run.parent / "exported"
    command = [sys.executable, "-m", "sdpo_megatron.cli", "export", str(run), str(out)]
    subprocess.run([*command, "--step", str(STEP), "--dtype", "float32"], check=True, timeout=120)
    return out


def megatron_log_probs(
    rank: int, world: int, folder: str, attempts: list[tuple[list[int], list[int]]]
) -> list[list[float]]:
    """log pi of each response token, one sequence after the other, on two pipeline stages."""
    import torch
    from megatron.core.packed_seq_params import PackedSeqParams

    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.objectives import HeadOptions, head_log_probs
    from sdpo_megatron.weights.load import load_hf_weights
    from sdpo_megatron.weights.spec import ModelSpec

    spec, layout = ModelSpec.from_folder(folder), ParallelConfig()
    init_model_parallel(layout)
    (model,) = build_model(spec, layout, PrecisionConfig(dtype="fp32"))
    load_hf_weights([model], spec, folder)
    found = []
    for prompt, response in attempts:
        tokens = torch.tensor([[*prompt, *response]])
        ends = torch.tensor([0, tokens.shape[1]], dtype=torch.int32)
        packed = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=ends,
            cu_seqlens_kv=ends,
            max_seqlen_q=tokens.shape[1],
            max_seqlen_kv=tokens.shape[1],
        )
        positions = torch.arange(tokens.shape[1])[None]
        with torch.no_grad():
            hidden = model(tokens, positions, packed_seq_params=packed)[len(prompt) - 1 : -1, 0]
            ids = torch.tensor(response)
            log_probs = head_log_probs(
                hidden, model.head_weight(), ids, HeadOptions(vocab_size=spec.vocab)
            )
        found.append(log_probs.tolist())
    return found


def test_the_engine_s_log_probs_are_megatron_s(run: Path, exported: Path) -> None:
    from sdpo_megatron.rollout.store import RolloutStore

    record = RolloutStore(run / "rollouts").read(STEP + 1)
    assert record.version.number == STEP
    attempts = [attempt for group in record.groups for attempt in group.attempts]
    asked = [(list(a.prompt_ids), list(a.response_ids)) for a in attempts]
    ours = run_ranks(megatron_log_probs, 1, str(exported), asked)[0]
    gaps = [
        abs(got - said)
        for attempt, log_probs in zip(attempts, ours, strict=True)
        for got, said in zip(log_probs, attempt.log_probs, strict=True)
    ]
    assert len(gaps) >= 6 * 10 // 2
    assert max(gaps) < 1e-4


def test_every_swap_is_on_record_with_its_checksum(run: Path) -> None:
    import json

    lines = [json.loads(line) for line in (run / "swaps.jsonl").read_text().splitlines()]
    assert [line["version"] for line in lines] == list(range(STEP + 2))
    assert all(len(line["checksum"]) == 64 for line in lines)
    assert len({line["checksum"] for line in lines}) == STEP + 2


def test_transformers_loads_the_export(exported: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(exported)
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(exported).chat_template
