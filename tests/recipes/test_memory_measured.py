"""The memory sheet against what a rank really holds, on a CPU.

Between steps: every buffer that Megatron and the actor keep, counted to the byte; the sheet may be
off by the padding of Megatron's buckets alone. During a pass: what autograd keeps of a layer; the
sheet's sum is that of Transformer Engine's fused layers, a CPU computes with Megatron's local ones,
which keep somewhat more, so a quarter either way is allowed.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron import config as configs
from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
from sdpo_megatron.planning.hardware import Machines
from sdpo_megatron.planning.memory import memory_sheet
from sdpo_megatron.weights.spec import ModelSpec
from tests.actor.worlds import VOCAB, make_actor
from tests.distributed import run_ranks

pytestmark = pytest.mark.slow
RESPONSE, ATTEMPTS = 24, 4
PADDING = 0.01
ACTIVATIONS = 0.25


def wide_model(folder: Path) -> Path:
    """Wide enough that padding to 128 numbers a bucket is little."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3", vocab_size=VOCAB, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=256,
        tie_word_embeddings=False, pad_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def samples() -> list[Any]:
    from dataclasses import replace

    from tests.actor.worlds import made_up_samples

    draw = random.Random(0)
    ids = tuple(draw.randrange(3, VOCAB) for _ in range(RESPONSE))
    return [
        replace(
            sample,
            response_ids=ids,
            loss_mask=(True,) * RESPONSE,
            log_probs=(-1.0,) * RESPONSE,
            teacher_prompt_ids=sample.prompt_ids,
            distill_weight=1.0,
        )
        for sample in made_up_samples(0, questions=1, attempts=ATTEMPTS)
    ]


def held(
    rank: int, world: int, folder: str, dtype: Any, parallel: ParallelConfig
) -> dict[str, Any]:
    """Bytes by the sheet's lines, and the bytes a token that a layer keeps for its backward."""
    import torch

    from sdpo_megatron.actor.batches.minibatch import Minibatch
    from sdpo_megatron.actor.model.pipeline import packed_params
    from sdpo_megatron.actor.weight_sets import distributed_optimizers

    actor = make_actor(folder, precision=PrecisionConfig(dtype=dtype), parallel=parallel)
    (share,) = actor.share_of(samples())
    actor.step((share,))  # the optimiser has its moments after a step
    buffers = [b for chunk in actor.chunks for b in chunk.buffers + chunk.expert_parallel_buffers]
    states = [
        state
        for part in distributed_optimizers(actor.optimizer)
        for state in part.optimizer.state.values()
    ]
    masters = [s.master for s in actor.weights.shards]
    own = {buffer.param_data.untyped_storage().data_ptr() for buffer in buffers}
    found = {
        "weights": _bytes(buffer.param_data for buffer in buffers),
        "gradients": _bytes(buffer.grad_data for buffer in buffers),
        # Those of fp32 parameters are views of the buffer.
        "masters": _bytes(m for m in masters if m.untyped_storage().data_ptr() not in own),
        "moments": _bytes(state[name] for state in states for name in ("exp_avg", "exp_avg_sq")),
        "sets": _bytes(t for kept in actor.teacher.sets.values() for t in kept),
    }
    batch = Minibatch(actor.config, actor.runtime, share)
    targets = actor.teacher.score(batch.packed({"teacher"}))
    kept_rows = [rows for passes in targets._kept for rows, _ in passes.values()]
    found["teacher"] = _bytes(rows.mine for rows in kept_rows)

    (student, *_) = batch.packed({"student"})["student"]
    model = actor.chunks[0].module
    # Views of one storage are kept once; parameters are not activations.
    kept: dict[int, Any] = {}
    params = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in params:
            kept[storage.data_ptr()] = storage  # alive, so that no address is used twice
        return tensor

    embedded = model.embedding(student.tokens, student.position_ids)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.decoder(
            hidden_states=embedded,
            attention_mask=None,
            rotary_pos_emb=model.rotary_pos_emb(student.tokens.shape[1], packed_seq=True),
            packed_seq_params=packed_params(student),
        )
    total = sum(storage.nbytes() for storage in kept.values())
    found["activations"] = total / student.tokens.shape[1]
    return found


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    ("dtype", "world", "parallel"),
    [
        ("bf16", 1, ParallelConfig()),
        ("fp32", 1, ParallelConfig()),
        ("bf16", 2, ParallelConfig()),
        ("bf16", 2, ParallelConfig(tensor=2)),
    ],
    ids=["bf16", "fp32", "bf16-dp2", "bf16-tp2"],
)
def test_a_rank_holds_what_the_sheet_says(
    tmp_path: Path, dtype: str, world: int, parallel: ParallelConfig
) -> None:
    folder = wide_model(tmp_path / "model")
    spec = ModelSpec.from_folder(folder)
    config = configs.load(
        [
            f"model.path={folder}",
            "task.path=null",
            f"precision={dtype}",
            "batch.questions=1",
            f"rollout.sampling.num_attempts={ATTEMPTS}",
            f"rollout.sampling.max_new_tokens={RESPONSE}",
        ]
    )
    copies = world // parallel.model_ranks
    machines = Machines.of("h100", nodes=1, engine_nodes=1)
    sheet = memory_sheet(config, spec, machines, parallel=parallel, data_parallel=copies)
    said = {line.name: line.bytes for line in sheet.lines}
    for rank in run_ranks(held, world, str(folder), dtype, parallel):
        assert rank["weights"] == pytest.approx(said[f"{dtype} weights"], rel=PADDING)
        assert rank["gradients"] == pytest.approx(said["fp32 gradients"], rel=PADDING)
        assert rank["masters"] == pytest.approx(said["master weights"], rel=PADDING)
        assert rank["moments"] == pytest.approx(said["moments"], rel=PADDING)
        assert rank["sets"] == pytest.approx(said["weight sets"], rel=PADDING)
        numbers = 1 if dtype == "bf16" else 2
        assert rank["teacher"] == numbers * said["teacher's hidden states"]
        from sdpo_megatron.planning.rank_share import layer_activation_bytes

        layers = numbers * 4 * layer_activation_bytes(spec, parallel)
        assert rank["activations"] == pytest.approx(layers, rel=ACTIVATIONS)
