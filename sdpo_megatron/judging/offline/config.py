"""OfflineConfig: what `sdpo verify batch` is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields import Count, PositiveInt, Seconds, Word, settings
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.tasks import TaskConfig
from sdpo_megatron.verifiers.code import CodeVerifierConfig

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"  # set by Kubernetes in each pod of an Indexed Job
# Kubernetes sets no count: the manifest does
COUNT_VARIABLES = ("JOB_COMPLETIONS", "SDPO_NUM_SHARDS")


@settings
class OfflineConfig:
    """One shard of an offline run over a file of responses."""

    input: Word
    """JSON Lines, plain or .gz.

    A line is ``{"id", "verifier", "item", "response"}``, or ``{"question_id", "response"}``.
    """

    output: Word
    """Folder for the parts; shared by all shards."""

    task: TaskConfig | None = None
    """The questions that lines name by ``question_id``. null: every line brings its item."""

    shard: Count | None = None
    """This shard's number, from 0; line n (from 0) belongs to shard n modulo `num_shards`.

    null: the variable JOB_COMPLETION_INDEX, else 0.
    """

    num_shards: PositiveInt | None = None
    """How many shards there are; the same for all of them. null: JOB_COMPLETIONS, else 1."""

    part_size: PositiveInt = 256
    """Verdicts in one part; it is written at once or not at all, and is what a restart may lose."""

    workers: PositiveInt = 2
    """Verifications at once."""

    retries: Count = 3
    """Tries after the first when infrastructure failed; then the line is written as a failure."""

    progress_s: Seconds = 10.0
    """Seconds between progress lines."""

    cpu_limit_s: PositiveInt = 10
    """CPU seconds of one verification outside the sandbox; beyond it the response is wrong."""

    memory_mib: PositiveInt = 4096
    """Address space in MiB of one child process outside the sandbox."""

    code: CodeVerifierConfig = field(default_factory=CodeVerifierConfig)
    """Limits, reward and feedback of programs."""

    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """How programs are isolated."""


def shard_of(
    config: OfflineConfig, environment: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """(shard, num_shards): as configured, else from the variables of an Indexed Job, else (0, 1).

    Raises:
        ConfigError: A shard without a count (it would silently judge everything), no number, or no
            such shard.
    """
    environment = os.environ if environment is None else environment
    shard, count = config.shard, config.num_shards
    if shard is None and environment.get(INDEX_VARIABLE):
        shard = _number(INDEX_VARIABLE, environment[INDEX_VARIABLE])
    if count is None:
        name = next((name for name in COUNT_VARIABLES if environment.get(name)), None)
        count = None if name is None else _number(name, environment[name])
    if shard is None and (count is None or count == 1):
        return 0, 1
    if shard is None:
        raise ConfigError(
            f"there are {count} shards, but not which one this is: set {INDEX_VARIABLE}, or shard="
        )
    if count is None:
        raise ConfigError(
            f"this is shard {shard}, but the number of shards is unknown: set "
            f"{' or '.join(COUNT_VARIABLES)} to the Job's completions, or num_shards="
        )
    if not 0 <= shard < count:
        raise ConfigError(f"shard: expected 0 to {count - 1} for {count} shards, got {shard}")
    return shard, count


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{name}: expected a number, got {text!r}")
    return int(text)
