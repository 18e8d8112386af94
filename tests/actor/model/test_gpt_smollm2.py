"""SmolLM2 through Megatron against transformers, in fp32.

One rank, and two pipeline stages with tied embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdpo_megatron.weights import smollm2
from tests.distributed import run_ranks
from tests.weights.test_smollm2 import needs_package

pytestmark = [pytest.mark.slow, needs_package]
LENGTHS = (40, 25)


def tokens() -> torch.Tensor:
    return torch.randint(0, 49152, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2.prepare(tmp_path_factory.mktemp("models") / "smollm2")


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        parts = [model(part).logits[0] for part in tokens().split(LENGTHS, dim=1)]
    return torch.cat(parts).numpy()


@pytest.mark.parametrize("stages", [1, 2])
def test_logits_equal_transformers(folder: Path, expected: np.ndarray, stages: int) -> None:
    logits = run_ranks(logits_of, stages, str(folder))[-1]
    assert np.abs(expected).max() > 10
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def logits_of(rank: int, world_size: int, folder: str) -> Any:
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.weights.load import load_hf_weights
    from sdpo_megatron.weights.spec import ModelSpec

    spec, parallel = ModelSpec.from_folder(folder), ParallelConfig(pipeline=world_size)
    init_model_parallel(parallel)
    chunks = build_model(spec, parallel, PrecisionConfig(dtype="fp32"))
    load_hf_weights(chunks, spec, folder)
    ends = torch.tensor([0, *np.cumsum(LENGTHS)], dtype=torch.int32)
    packed = PackedSeqParams("thd", ends, ends, max_seqlen_q=40, max_seqlen_kv=40)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    kept = []

    def forward_step(iterator: Any, model: Any) -> Any:
        hidden = model(next(iterator), positions, packed_seq_params=packed)

        def collect(output: torch.Tensor, non_loss_data: bool = False) -> None:
            kept.append((output.squeeze(1) @ model.head_weight().T).numpy())

        return hidden, collect

    with torch.no_grad():
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter([tokens()]),
            model=chunks,
            num_microbatches=1,
            seq_length=sum(LENGTHS),
            micro_batch_size=1,
            forward_only=True,
            collect_non_loss_data=True,
        )
    return kept[0] if kept else None
