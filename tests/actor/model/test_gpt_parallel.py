"""The model against transformers under every layout: logits, gradients, gathered tensors, in fp32.

One spawn of ranks serves all cases of a world size. A case is (family, layout); each rank returns
what it knows and the test compares in the parent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.actor import tiny_models
from tests.distributed import RankFailed, run_ranks

pytestmark = pytest.mark.slow

Layout = dict[str, Any]
DENSE_LAYOUTS: list[Layout] = [
    {},
    {"tensor": 2},
    {"tensor": 2, "sequence_parallel": True},
    {"pipeline": 2},
    {"tensor": 2, "pipeline": 2},
    {"tensor": 2, "pipeline": 2, "sequence_parallel": True},
    {"recompute": "selective"},
    {"recompute": "selective", "recompute_parts": ("attention", "feed_forward")},
    {"tensor": 2, "sequence_parallel": True, "recompute": "full"},
    {"pipeline": 2, "recompute": "full", "recompute_layers": 1},
]
MOE_LAYOUTS: list[Layout] = [
    {},
    {"expert": 2},
    {"tensor": 2, "sequence_parallel": True, "expert": 2},
    {"tensor": 2, "sequence_parallel": True, "expert_tensor": 2},
    {"pipeline": 2},
    {"expert": 2, "pipeline": 2},
    {"expert": 2, "recompute": "selective", "recompute_parts": ("feed_forward",)},
]


def ranks_of(layout: Layout) -> int:
    dense = layout.get("tensor", 1)
    experts = layout.get("expert", 1) * layout.get("expert_tensor", 1)
    return max(dense, experts) * layout.get("pipeline", 1)


def label(family: str, layout: Layout) -> str:
    short = {"tensor": "tp", "pipeline": "pp", "expert": "ep", "expert_tensor": "etp"}
    parts = [f"{short[k]}{v}" if k in short else k[:3] for k, v in layout.items()]
    return "-".join([family, *(parts or ["one"])])


CASES = [(f, layout) for f in tiny_models.FAMILIES for layout in DENSE_LAYOUTS] + [
    (f, layout) for f in tiny_models.MOE_FAMILIES for layout in MOE_LAYOUTS
]
IDS = [label(*case) for case in CASES]


@dataclass
class Outcome:
    """Of one case, put together from its ranks."""

    logits: np.ndarray  # [32, V]
    gathered: dict[str, np.ndarray]
    grads: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Folder and transformers model of each family."""
    root = tmp_path_factory.mktemp("tiny")
    names = [*tiny_models.FAMILIES, *tiny_models.MOE_FAMILIES]
    return {name: (root / name, tiny_models.make(name, root / name)) for name in names}


@pytest.fixture(scope="module")
def outcomes(families: dict[str, tuple[Path, Any]]) -> Any:
    """label -> Outcome; the ranks of a world size are spawned at its first use."""

    @cache
    def of_world(world_size: int) -> dict[str, Outcome] | RankFailed:
        cases = [(f, layout) for f, layout in CASES if ranks_of(layout) == world_size]
        work = [(label(*case), str(families[case[0]][0]), case[1]) for case in cases]
        try:
            return assemble(run_ranks(run_cases, world_size, work))
        except RankFailed as failure:  # remembered: the other cases fail at once
            return failure

    def of_case(case: tuple[str, Layout]) -> Outcome:
        found = of_world(ranks_of(case[1]))
        if isinstance(found, RankFailed):
            raise found
        return found[label(*case)]

    return of_case


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_packed_logits_equal_transformers_one_by_one(
    case: Any, families: Any, outcomes: Any
) -> None:
    with torch.no_grad():
        expected = tiny_models.reference_logits(families[case[0]][1]).numpy()
    assert np.abs(expected).max() > 1  # logits of zero would equal anything
    np.testing.assert_allclose(outcomes(case).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_gathered_tensors_are_the_checkpoints_bit_by_bit(
    case: Any, families: Any, outcomes: Any
) -> None:
    from safetensors.numpy import load_file

    saved = load_file(families[case[0]][0] / "model.safetensors")
    gathered = outcomes(case).gathered
    assert gathered.keys() == saved.keys()
    for name, tensor in saved.items():
        np.testing.assert_array_equal(gathered[name], tensor, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_gradients_equal_transformers(case: Any, families: Any, outcomes: Any) -> None:
    model = families[case[0]][1]
    model.zero_grad()
    (tiny_models.reference_logits(model) * tiny_models.logit_weights()).sum().backward()
    expected = hf_gradients(model)
    got = outcomes(case).grads
    assert got.keys() == expected.keys()
    for name, grad in expected.items():
        # Of an expert that no token chose, both are zero.
        scale = np.abs(grad).max() or 1.0
        assert scale != 1.0 or "experts" in name
        np.testing.assert_allclose(got[name] / scale, grad / scale, atol=1e-4, err_msg=name)


def hf_gradients(model: Any) -> dict[str, np.ndarray]:
    """By checkpoint name; transformers 5 fuses a layer's experts in memory, not in the files."""
    found: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad.numpy()
        if name.endswith("experts.gate_up_proj"):
            for i, both in enumerate(grad):
                gate, up = np.split(both, 2)
                prefix = name.removesuffix("gate_up_proj") + f"{i}."
                found[f"{prefix}gate_proj.weight"], found[f"{prefix}up_proj.weight"] = gate, up
        elif name.endswith("experts.down_proj"):
            for i, down in enumerate(grad):
                found[name.removesuffix("down_proj") + f"{i}.down_proj.weight"] = down
        else:
            found[name] = grad
    return found


# --- In the ranks --------------------------------------------------------------------------------


def run_cases(rank: int, world_size: int, work: list[tuple[str, str, Layout]]) -> dict[str, Any]:
    from megatron.core import parallel_state

    results = {}
    for name, folder, layout in work:
        results[name] = run_case(folder, layout)
        parallel_state.destroy_model_parallel()
    return results


def run_case(folder: str, layout: Layout) -> dict[str, Any]:
    from megatron.core import parallel_state

    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.weights.gather import iter_hf_tensors
    from sdpo_megatron.weights.load import load_hf_weights
    from sdpo_megatron.weights.spec import ModelSpec

    spec = ModelSpec.from_folder(folder)
    parallel = ParallelConfig(**layout)
    init_model_parallel(parallel)
    chunks = build_model(spec, parallel, PrecisionConfig(dtype="fp32"))
    load_hf_weights(chunks, spec, folder)
    gathered = {name: t.numpy() for name, t in iter_hf_tensors(chunks, spec)}
    logits = step(chunks[0])
    with torch.no_grad():
        for parameter in chunks[0].parameters():
            parameter.copy_(parameter.main_grad)
    grads = {name: t.numpy() for name, t in iter_hf_tensors(chunks, spec)}
    return {
        "logits": logits,
        "gathered": gathered,
        "grads": grads,
        # Equal on data-parallel ranks; tensor-parallel ranks hold a part of the vocabulary each.
        "first": parallel_state.get_data_parallel_rank() == 0,
    }


def step(model: Any) -> np.ndarray | None:
    """One micro-batch through Megatron's schedule; logits [32, Vp / tp] on the last stage."""
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.pipeline_parallel import get_forward_backward_func

    model.config.finalize_model_grads_func = finalize_model_grads
    wrapped = DistributedDataParallel(model.config, DistributedDataParallelConfig(), model)
    wrapped.zero_grad_buffer()
    ends = torch.tensor([0, *np.cumsum(tiny_models.LENGTHS)], dtype=torch.int32)
    longest = max(tiny_models.LENGTHS)
    packed = PackedSeqParams("thd", ends, ends, max_seqlen_q=longest, max_seqlen_kv=longest)
    positions = torch.cat([torch.arange(n) for n in tiny_models.LENGTHS])[None]
    share = parallel_state.get_data_parallel_world_size()  # each rank has the whole batch
    kept: list[np.ndarray] = []

    def forward_step(iterator: Any, chunk: Any) -> Any:
        hidden = chunk(next(iterator), positions, packed_seq_params=packed)

        def loss_func(output: torch.Tensor) -> Any:
            assert output.shape == (sum(tiny_models.LENGTHS), 1, model.config.hidden_size)
            whole = tensor_parallel.copy_to_tensor_model_parallel_region(output.squeeze(1))
            logits = whole @ model.head_weight().T
            kept.append(logits.detach().numpy())
            rows = logits.shape[1]
            start = rows * parallel_state.get_tensor_model_parallel_rank()
            weights = tiny_models.logit_weights()[:, start : start + rows]
            loss = (logits[:, : weights.shape[1]] * weights).sum() / share
            return loss, torch.zeros((), dtype=torch.int), {}

        return hidden, loss_func

    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter([tiny_models.tokens()]),
        model=[wrapped],
        num_microbatches=1,
        seq_length=sum(tiny_models.LENGTHS),
        micro_batch_size=1,
        forward_only=False,
    )
    return kept[0] if kept else None


def assemble(by_rank: list[dict[str, Any]]) -> dict[str, Outcome]:
    found = {}
    for name in by_rank[0]:
        parts = [r[name]["logits"] for r in by_rank if r[name]["first"]]
        logits = np.concatenate([part for part in parts if part is not None], axis=1)
        rank0 = by_rank[0][name]
        found[name] = Outcome(logits[:, : tiny_models.VOCAB], rank0["gathered"], rank0["grads"])
    return found
