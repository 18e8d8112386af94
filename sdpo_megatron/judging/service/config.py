"""ServiceConfig: what `sdpo verify serve` is told."""

from __future__ import annotations

from dataclasses import field

from sdpo_megatron.fields import Port, PositiveInt, Seconds, Texts, Word, refuse, settings
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.verifiers.base import VERIFIERS, import_path_of
from sdpo_megatron.verifiers.code import CodeVerifierConfig

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@settings
class ServiceConfig:
    """One verifier service: a process that answers HTTP, with its workers as children."""

    host: Word = "0.0.0.0"
    """Address to listen on."""

    port: Port = 9401
    """TCP port; 0 lets the system choose one, which is printed."""

    workers: PositiveInt = 2
    """Verifications at once: child processes and sandboxes. One for each core is right."""

    verifiers: Texts = tuple(sorted(VERIFIERS))
    """Names and import paths requests may ask for. A request can never name code outside it."""

    queue_size: PositiveInt = 1024
    """Items accepted and not judged yet; a batch that would pass it gets 429 with Retry-After."""

    max_batch: PositiveInt = 256
    """Items in one request."""

    max_body_mib: PositiveInt = 64
    """Size of one request, MiB."""

    item_cache_mib: PositiveInt = 512
    """JSON in MiB of the items kept, so that each travels once; the least recently used one goes
    first. In memory an item takes two to four times as much."""

    header_timeout_s: Seconds = 10.0
    """Seconds for a request's head to arrive; its body gets as many, and 1 more for each MiB that
    has come. A connection that is slower is closed."""

    token_file: Word | None = None
    """File that holds the bearer token. None: the environment variable SDPO_VERIFIER_TOKEN."""

    allow_anonymous: bool = False
    """Answer without a token; only on a loopback address."""

    drain_s: Seconds = 30.0
    """Seconds after SIGTERM in which accepted items are still judged."""

    cpu_limit_s: PositiveInt = 10
    """CPU seconds of one verification outside the sandbox; beyond it the response is wrong."""

    memory_mib: PositiveInt = 4096
    """Address space in MiB of one child process outside the sandbox."""

    code: CodeVerifierConfig = field(default_factory=CodeVerifierConfig)
    """Limits, reward and feedback of programs."""

    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """How programs are isolated."""

    def __post_init__(self) -> None:
        problems = []
        if self.max_batch > self.queue_size:
            problems.append(
                (
                    "max_batch",
                    "must not be above {queue_size}: a full batch could never be accepted",
                )
            )
        if self.allow_anonymous and self.host not in LOOPBACK:
            problems.append(
                (
                    "allow_anonymous",
                    f"needs a loopback {{host:key}} ({', '.join(LOOPBACK)}), got {{host}}: whoever "
                    "can reach it could run programs",
                )
            )
        if not self.verifiers:
            problems.append(("verifiers", "name at least one verifier"))
        refuse(self, problems)
        for verifier in self.verifiers:
            import_path_of(verifier)
