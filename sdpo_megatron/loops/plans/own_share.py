"""A rank's own samples: read by the first rank of each copy of the model, handed to the others."""

from __future__ import annotations

from pathlib import Path

from sdpo_megatron.actor.agree import data_parallel_rank, leads_model, within_model
from sdpo_megatron.actor.batches.share import BatchShare, contents, filled
from sdpo_megatron.loops.plans.file import RankPlan, plan_from_bytes, plan_to_bytes, read_plan
from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.rollout.group_file import read_samples
from sdpo_megatron.rollout.records import from_message, to_message


def read_share(plan_file: Path, groups: Path) -> BatchShare:
    """This rank's share of a planned rollout batch. Collective over the ranks of one copy of the
    model, which have one share; no other rank's samples are touched.

    Args:
        groups: The folder of the groups' files.

    Raises:
        GroupFileError: On the rank that reads: a file is missing, torn or altered.
    """
    told = samples = b""
    if leads_model():
        mine = read_plan(plan_file, data_parallel_rank())
        told, samples = plan_to_bytes(mine.plan), to_message(_read(mine, groups))
    plan = plan_from_bytes(within_model(told))
    return filled(plan, from_message(within_model(samples)))


def _read(mine: RankPlan, groups: Path) -> list[TrainSample]:
    """The samples of ``contents(mine.plan)``, each file opened once."""
    wanted: dict[int, list[int]] = {}
    for number, place in contents(mine.plan):
        wanted.setdefault(number, []).append(place)
    found = {}
    for number, places in wanted.items():
        name, crc32 = mine.files[number]
        for place, sample in zip(
            places, read_samples(groups / name, places, crc32=crc32), strict=True
        ):
            found[number, place] = sample
    return [found[where] for where in contents(mine.plan)]
