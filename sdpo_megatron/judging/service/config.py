"""ServiceConfig: what `sdpo verify serve` is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields import Port, PositiveInt, Seconds, Texts, Word, refuse, settings
from sdpo_megatron.verifiers.base import VERIFIERS, import_path_of
from sdpo_megatron.verifiers.code import CodeVerifierConfig

TOKEN_VARIABLE = "SDPO_VERIFIER_TOKEN"
MIN_TOKEN_CHARS = 16
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

    max_body_bytes: PositiveInt = 64 * 2**20
    """Size of one request."""

    max_deadline_s: Seconds = 600.0
    """Longest a request may ask to wait; also what a request without a deadline gets."""

    token_file: Word | None = None
    """File that holds the bearer token. None: the environment variable SDPO_VERIFIER_TOKEN."""

    allow_anonymous: bool = False
    """Answer without a token; only on a loopback address."""

    idempotency_keys: PositiveInt = 4096
    """Answers kept to be given again when a request is repeated with the same Idempotency-Key."""

    drain_s: Seconds = 30.0
    """Seconds after SIGTERM in which accepted items are still judged."""

    cpu_limit_s: PositiveInt = 10
    """CPU seconds of one verification outside the sandbox."""

    memory_mib: PositiveInt = 4096
    """Address space in MiB of one child process outside the sandbox."""

    code: CodeVerifierConfig = field(default_factory=CodeVerifierConfig)
    """Limits, reward and feedback of programs."""

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


def read_token(token_file: str | None, environment: Mapping[str, str] | None = None) -> str | None:
    """The bearer token from the file, else from the environment; None when neither is set.

    Raises:
        ConfigError: The file cannot be read, or the token is shorter than 16 characters or not
            printable ASCII.
    """
    environment = os.environ if environment is None else environment
    if token_file is not None:
        try:
            token, source = Path(token_file).read_text("utf-8").strip(), token_file
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"token_file: cannot read {token_file}: {error}") from error
    elif environment.get(TOKEN_VARIABLE):
        token, source = environment[TOKEN_VARIABLE].strip(), TOKEN_VARIABLE
    else:
        return None
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"the bearer token in {source} must be at least {MIN_TOKEN_CHARS} printable ASCII "
            "characters; make one with: openssl rand -hex 32"
        )
    return token
