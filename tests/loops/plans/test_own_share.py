"""Every rank has the samples of its own share, whatever the layout; one rank of a model reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.nouns import GroupLease, GroupReceipt, TrainSample, VersionSpan
from tests.actor.worlds import made_up_samples
from tests.distributed import RankFailed, run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LAYOUTS: dict[str, dict[str, int]] = {
    "TP2 x DP2": {"tensor": 2},
    "PP2 x DP2": {"pipeline": 2},
    "CP2 x DP2": {"context": 2},
    "TP2 x CP2": {"tensor": 2, "context": 2},
    "CP2 x PP2": {"context": 2, "pipeline": 2},
    "DP4": {},
}
QUESTIONS, ATTEMPTS = 5, 4


def samples_of(question: int) -> list[TrainSample]:
    """A group; each has its question as policy version, and some weight."""
    return [
        replace(
            sample,
            question_id=f"q{question}",
            policy_weight=1.0,
            versions=(VersionSpan(0, len(sample.response_ids), question),),
        )
        for sample in made_up_samples(question, questions=1, attempts=ATTEMPTS)
    ]


def plain(sample: TrainSample) -> tuple[Any, ...]:
    """Everything of it that the actor looks at."""
    arrays = (sample.prompt_ids, sample.response_ids, sample.loss_mask, sample.log_probs)
    taught = sample.teacher_prompt_ids
    return (
        sample.question_id, sample.index, *(array.tolist() for array in arrays),
        None if taught is None else taught.tolist(), sample.versions, sample.advantage,
        sample.distill_weight, sample.policy_weight, sample.success,
    )  # fmt: skip


def shares(rank: int, world: int, folder: str) -> dict[str, Any]:
    """By layout: (data-parallel rank, samples by micro-batch, files opened)."""
    import torch
    from megatron.core import parallel_state

    from sdpo_megatron.actor.agree import data_parallel_rank
    from sdpo_megatron.actor.batches.plan import StepPlanner
    from sdpo_megatron.actor.batches.table import SampleTable
    from sdpo_megatron.actor.config import ActorConfig, BatchConfig
    from sdpo_megatron.actor.model.config import ParallelConfig
    from sdpo_megatron.actor.model.gpt import init_model_parallel
    from sdpo_megatron.loops.plans import own_share
    from sdpo_megatron.loops.plans.file import write_plan
    from tests.actor.batches.test_plan import SPEC

    groups: list[GroupReceipt] = []
    if rank == 0:
        groups = write_groups(Path(folder))
    opened: list[str] = []
    read = own_share.read_samples

    def watched(path: Path, *args: Any, **named: Any) -> Any:
        opened.append(path.name)
        return read(path, *args, **named)

    own_share.read_samples = watched  # type: ignore[assignment]
    found = {}
    for name, layout in LAYOUTS.items():
        parallel = ParallelConfig(**layout)
        init_model_parallel(parallel)
        plan_file = Path(folder) / f"{name}.plan"
        if rank == 0:
            config = ActorConfig(
                parallel=parallel, batch=BatchConfig(questions=5, micro_batch_tokens=80)
            )
            ranks = world // parallel.model_ranks
            planner = StepPlanner(config, SPEC, num_ranks=ranks)
            plans = planner.plan(SampleTable.of_groups(groups), 0)
            write_plan(plan_file, 1, plans, groups)
        torch.distributed.barrier()
        opened.clear()
        (step,) = own_share.read_share(plan_file, Path(folder))
        micro_batches = [[plain(sample) for sample in part] for part in step.micro_batches]
        found[name] = (data_parallel_rank(), step.counts, micro_batches, list(opened))
        parallel_state.destroy_model_parallel()
    return found


def write_groups(folder: Path) -> list[GroupReceipt]:
    from sdpo_megatron.rollout.group_file import write_group

    found = [
        write_group(folder, GroupLease(q), f"q{q}", samples_of(q), attempts=ATTEMPTS)
        for q in range(QUESTIONS)
    ]
    return [receipt for receipt in found if receipt]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(shares, 4, str(tmp_path_factory.mktemp("groups")))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_ranks_of_a_model_have_one_share_and_all_shares_are_the_batch(
    name: str, found: list[dict[str, Any]]
) -> None:
    by_model: dict[int, list[Any]] = {}
    for rank in found:
        model, counts, micro_batches, _ = rank[name]
        by_model.setdefault(model, []).append((counts, micro_batches))
    for same in by_model.values():
        assert all(one == same[0] for one in same)
    everything = [s for same in by_model.values() for part in same[0][1] for s in part]
    expected = [plain(s) for q in range(QUESTIONS) for s in samples_of(q)]
    assert sorted(everything) == sorted(expected)
    assert len({len(same[0][1]) for same in by_model.values()}) == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_rank_of_a_model_opens_each_file_of_its_share_once(
    name: str, found: list[dict[str, Any]]
) -> None:
    readers = [rank[name] for rank in found if rank[name][3]]
    assert sorted(model for model, *_ in readers) == sorted({rank[name][0] for rank in found})
    for _, _, micro_batches, opened in readers:
        needed = {f"{int(s[0][1:]):09d}-000.bin" for part in micro_batches for s in part}
        assert sorted(opened) == sorted(needed)


def torn(rank: int, world: int, folder: str) -> None:
    """Rank 0 of a model finds that a file of its share was cut short."""
    from sdpo_megatron.actor.batches.plan import StepPlanner
    from sdpo_megatron.actor.batches.table import SampleTable
    from sdpo_megatron.actor.config import ActorConfig
    from sdpo_megatron.actor.model.config import ParallelConfig
    from sdpo_megatron.actor.model.gpt import init_model_parallel
    from sdpo_megatron.loops.plans.file import write_plan
    from sdpo_megatron.loops.plans.own_share import read_share
    from tests.actor.batches.test_plan import SPEC

    init_model_parallel(ParallelConfig())
    groups = write_groups(Path(folder))
    plans = StepPlanner(ActorConfig(), SPEC, num_ranks=1).plan(SampleTable.of_groups(groups), 0)
    write_plan(Path(folder) / "p", 1, plans, groups)
    victim = Path(folder) / groups[2].file
    victim.write_bytes(victim.read_bytes()[:-9])
    read_share(Path(folder) / "p", Path(folder))


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RankFailed, match=r"000000002-000\.bin: the file is torn: it has"):
        run_ranks(torn, 1, str(tmp_path))
