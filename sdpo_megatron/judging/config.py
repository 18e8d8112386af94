"""Where attempts are judged, and how patiently."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.verifiers.code import CodeVerifierConfig


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Where attempts are judged, and how patiently."""

    where: Literal["local", "endpoints"] = "local"
    """Where attempts are judged.

    local: sandbox and child processes of this machine; endpoints: services started with `sdpo
    verify serve`.
    """

    endpoints: tuple[str, ...] = ()
    """URLs of services, e.g. http://10.0.0.7:9401. ``dns+http://verifiers:9401`` means every
    address of that name."""

    token_file: str | None = None
    """File with the services' bearer token. None: the environment variable SDPO_VERIFIER_TOKEN."""

    workers: int = 2
    """Verifications at once: child processes locally, open requests to services."""

    timeout_s: float = 120.0
    """Seconds for one try of one verdict, waiting in queues included."""

    retries: int = 3
    """Tries after the first when infrastructure failed; then the attempt is dropped and counted."""

    hedge_after_s: float = 10.0
    """Seconds after which a silent service is given up on for a second one, whichever answers
    first. Services only."""

    cpu_limit_s: int = 10
    """CPU seconds of one verification outside the sandbox. Local only.

    Beyond it the response is judged wrong.
    """

    memory_mib: int = 4096
    """Address space in MiB of one child process outside the sandbox. Local only."""

    code: CodeVerifierConfig = field(default_factory=CodeVerifierConfig)
    """Limits, reward and feedback of programs. Local only: a service has its own."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: A value, or a combination, cannot work.
        """
        object.__setattr__(self, "endpoints", tuple(self.endpoints))
        if self.where not in ("local", "endpoints"):
            raise ConfigError(f"judge.where: expected local or endpoints, got {self.where!r}")
        if self.where == "endpoints" and not self.endpoints:
            raise ConfigError(
                "judge.where is endpoints, but judge.endpoints is empty: give at least one URL"
            )
        if self.where == "local" and self.endpoints:
            raise ConfigError(
                "judge.endpoints is set, but judge.where is local: set judge.where=endpoints"
            )
        for name in ("workers", "timeout_s", "hedge_after_s", "cpu_limit_s", "memory_mib"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"judge.{name}: must be positive, got {getattr(self, name)}")
        if self.retries < 0:
            raise ConfigError(f"judge.retries: must not be negative, got {self.retries}")
