"""Context parallelism as functions over a process group: cut, gather, loss add up to the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdpo_megatron.actor.batches.context_parallel import gather_responses, select, shard
from sdpo_megatron.actor.batches.packing import Role, pack, padded_length
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.nouns import TrainSample
from tests.actor.worlds import VOCAB, made_up_samples, small_objective
from tests.distributed import run_ranks

CPU = torch.device("cpu")


def whole_length(samples: list[TrainSample], role: Role) -> int:
    """Of one micro-batch of all samples, cut for two context-parallel ranks."""
    tokens = SampleTable.of_samples(samples).tokens(role, multiple_of=4)
    return padded_length(tokens, [range(len(samples))], 4)


def test_the_cut_by_hand() -> None:
    """Two ranks: each sequence in four pieces, rank 0 has the first and last, rank 1 the middle."""
    samples = made_up_samples(0, questions=1, attempts=2)
    whole = pack(samples, "student", 64, CPU, sequence_multiple=4)
    assert all(n % 4 == 0 for n in whole.cu_seqlens.diff().tolist())
    first, second = shard(whole, 0, 2), shard(whole, 1, 2)
    start, stop = whole.cu_seqlens[:2].tolist()
    quarter = (stop - start) // 4
    sequence = whole.tokens[0, start:stop]
    assert first.tokens[0, : 2 * quarter].tolist() == [
        *sequence[:quarter].tolist(),
        *sequence[3 * quarter :].tolist(),
    ]
    assert second.tokens[0, : 2 * quarter].tolist() == sequence[quarter : 3 * quarter].tolist()
    assert first.response_index is not None
    assert second.response_index is not None
    together = torch.cat([first.response_index, second.response_index]).sort().values
    assert together.tolist() == list(range(whole.num_responses))


def test_a_predictor_still_points_at_its_token() -> None:
    samples = made_up_samples(1)
    length = whole_length(samples, "student")
    whole = pack(samples, "student", length, CPU, sequence_multiple=4)
    for rank in range(2):
        part = shard(whole, rank, 2)
        assert part.response_index is not None
        expected = whole.tokens[0, whole.predictor_index][part.response_index]
        assert part.tokens[0, part.predictor_index].tolist() == expected.tolist()


def test_a_sequence_that_cannot_be_cut_says_so() -> None:
    packed = pack(made_up_samples(0, questions=1, attempts=1), "student", 37, CPU)
    with pytest.raises(ValueError, match="cannot be cut into 2 x 2 equal pieces"):
        shard(packed, 0, 2)


def loss_of_the_parts(rank: int, world: int, case: int) -> dict[str, Any]:
    """Loss and gradients with student and teacher cut apart, against the whole micro-batch's."""
    import torch.distributed as dist

    from sdpo_megatron.actor.batches.batch_loss import token_targets
    from sdpo_megatron.actor.batches.counts import StepCounts
    from sdpo_megatron.objectives import HeadOptions, build_objective, single
    from sdpo_megatron.objectives.fused.head_loss import head_loss

    objective = build_objective(small_objective())
    samples = made_up_samples(case)
    draw = torch.Generator().manual_seed(case)
    table = torch.randn(VOCAB, 16, generator=draw)  # stands for the model: a state per token
    weight = torch.randn(VOCAB, 16, generator=draw)
    targets = token_targets(
        samples, StepCounts.of(SampleTable.of_samples(samples)), objective, CPU, None
    )

    def states(role: Any, packed: Any) -> torch.Tensor:
        return table[packed.tokens[0, packed.predictor_index]] + (0.3 if role == "teacher" else 0.0)

    def packed(role: Any) -> Any:
        length = whole_length(samples, role)
        return pack(samples, role, length, CPU, sequence_multiple=4)

    def run(student: torch.Tensor, teacher: torch.Tensor, tokens: Any) -> tuple[Any, Any, Any]:
        hidden = student.clone().requires_grad_()
        head = weight.clone().requires_grad_()
        result = head_loss(
            hidden,
            head,
            tokens,
            objective,
            single(teacher, weight),
            options=HeadOptions(chunk_tokens=8),
        )
        result.loss.backward()
        return result.loss.detach(), hidden.grad, head.grad

    student, teacher = packed("student"), packed("teacher")
    whole = run(states("student", student), states("teacher", teacher), targets)

    mine, theirs = shard(student, rank, world), shard(teacher, rank, world)
    gathered = gather_responses(states("teacher", theirs), theirs, dist.group.WORLD)  # type: ignore[arg-type]
    assert mine.response_index is not None
    loss, grad_hidden, grad_weight = run(
        states("student", mine), gathered[mine.response_index], select(targets, mine.response_index)
    )
    back = gather_responses(grad_hidden, mine, dist.group.WORLD)  # type: ignore[arg-type]
    dist.all_reduce(loss)
    dist.all_reduce(grad_weight)
    return {
        "loss": (float(loss), float(whole[0])),
        "hidden": float((back - whole[1]).abs().max()),
        "weight": float((grad_weight - whole[2]).abs().max()),
    }


@pytest.mark.slow
def test_loss_and_gradients_of_the_parts_add_up() -> None:
    for found in run_ranks(loss_of_the_parts, 2, 5):
        assert found["loss"][0] == pytest.approx(found["loss"][1], rel=1e-5)
        assert found["hidden"] < 1e-6
        assert found["weight"] < 1e-5
