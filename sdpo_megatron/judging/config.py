"""Where attempts are judged, and how patiently."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

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

    workers: PositiveInt = 2
    """Verifications at once: child processes locally, open requests to services."""

    timeout_s: Seconds = 120.0
    """Seconds for one try of one verdict, waiting in queues included."""

    retries: Count = 3
    """Tries after the first when infrastructure failed; then the attempt is dropped and counted."""

    hedge_after_s: Seconds = 10.0
    """Seconds after which a silent service is given up on for a second one, whichever answers
    first. Services only."""

    cpu_limit_s: PositiveInt = 10
    """CPU seconds of one verification outside the sandbox. Local only.

    Beyond it the response is judged wrong.
    """

    memory_mib: PositiveInt = 4096
    """Address space in MiB of one child process outside the sandbox. Local only."""

    code: CodeVerifierConfig = field(default_factory=CodeVerifierConfig)
    """Limits, reward and feedback of programs. Local only: a service has its own."""

    def __post_init__(self) -> None:
        if self.where == "endpoints" and not self.endpoints:
            refuse(self, [("endpoints", "with {where} at least one URL must be given")])
        if self.where == "local" and self.endpoints:
            refuse(self, [("endpoints", "does nothing with {where}: set {where:key}=endpoints")])
