"""BatchConfig: what `sdpo verify batch` is told."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields import Count, PositiveInt, Seconds, Text, refuse, settings

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"  # set by Kubernetes in each pod of an Indexed Job
# Kubernetes sets no count: the manifest does
COUNT_VARIABLES = ("JOB_COMPLETIONS", "SDPO_NUM_SHARDS")


@settings
class BatchConfig:
    """One shard of an offline run over a file of responses."""

    input: Text
    """JSON Lines, plain or .gz.

    A line is ``{"id", "verifier", "item", "response"}``, or ``{"question_id", "response"}``.
    """

    output: Text
    """Folder for the parts; shared by all shards."""

    shard: Count = 0
    """This shard's number, from 0. Line n (from 0) belongs to shard n modulo `num_shards`."""

    num_shards: PositiveInt = 1
    """How many shards there are. The same for all of them."""

    part_size: PositiveInt = 256
    """Verdicts in one part; it is written at once or not at all, and is what a restart may lose."""

    workers: PositiveInt = 2
    """Verifications at once."""

    retries: Count = 3
    """Tries after the first when infrastructure failed; then the line is written as a failure."""

    timeout_s: Seconds = 120.0
    """Seconds for one try of one verdict."""

    progress_s: Seconds = 10.0
    """Seconds between progress lines."""

    def __post_init__(self) -> None:
        if self.shard >= self.num_shards:
            refuse(self, [("shard", "must be below {num_shards}")])


def shard_of_environment(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(shard, num_shards) from the variables of an Indexed Job; (0, 1) without them.

    Raises:
        ConfigError: An index without a count (a shard would silently judge everything), or no
            number.
    """
    environment = os.environ if environment is None else environment
    index = environment.get(INDEX_VARIABLE)
    count = next((environment[v] for v in COUNT_VARIABLES if environment.get(v)), None)
    if not index:
        return 0, 1
    if count is None:
        raise ConfigError(
            f"{INDEX_VARIABLE} is {index}, but the number of shards is unknown: set "
            f"{' or '.join(COUNT_VARIABLES)} to the Job's completions, or give --num-shards"
        )
    if not (index.isdecimal() and count.isdecimal()):
        raise ConfigError(f"expected numbers, got {INDEX_VARIABLE}={index!r} and count {count!r}")
    return int(index), int(count)
