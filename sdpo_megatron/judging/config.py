"""Where attempts are judged, and how patiently."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from sdpo_megatron.cores import usable_cores
from sdpo_megatron.fields import Count, PositiveInt, Seconds, Texts, Word, refuse, settings
from sdpo_megatron.verifiers.code import CodeVerifierConfig


@settings
class JudgeConfig:
    """Where attempts are judged, and how patiently."""

    where: Literal["local", "endpoints"] = "local"
    """Where attempts are judged.

    local: sandbox and child processes of this machine; endpoints: services started with `sdpo
    verify serve`.
    """

    endpoints: Texts = ()
    """URLs of services, e.g. http://10.0.0.7:9401. ``dns+http://verifiers:9401`` means every
    address of that name."""

    token_file: Word | None = None
    """File with the services' bearer token. None: the environment variable SDPO_VERIFIER_TOKEN."""

    workers: PositiveInt | None = None
    """Verifications at once: child processes locally, open requests to services. null: one for each
    core that this process may use, or 64 for each of `endpoints`, which queue what is too much."""

    wait_s: Seconds = 600.0
    """Seconds that an attempt may wait for a worker of the services, in each try. Services only.

    How long the judging itself may take follows from the item's tests and the limits in `code`.
    """

    retries: Count = 3
    """Tries after the first when infrastructure failed; then the attempt is dropped and counted."""

    cpu_limit_s: PositiveInt = 10
    """CPU seconds of one verification outside the sandbox; beyond it the response is wrong.

    With services, theirs counts, and this only says how long they may be silent.
    """

    memory_mib: PositiveInt = 4096
    """Address space in MiB of one child process outside the sandbox. Local only."""

    code: CodeVerifierConfig = field(default_factory=CodeVerifierConfig)
    """Limits, reward and feedback of programs.

    With services, theirs counts, and the limits here only say how long they may be silent.
    """

    @property
    def num_workers(self) -> int:
        """`workers`, or what there is capacity for."""
        if self.workers is not None:
            return self.workers
        return 64 * len(self.endpoints) if self.where == "endpoints" else usable_cores()

    def __post_init__(self) -> None:
        if self.where == "endpoints" and not self.endpoints:
            refuse(self, [("endpoints", "with {where} at least one URL must be given")])
        if self.where == "local" and self.endpoints:
            refuse(self, [("endpoints", "does nothing with {where}: set {where:key}=endpoints")])
