"""The bearer token of verifier services: read by the service and by its client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sdpo_megatron.errors import ConfigError

TOKEN_VARIABLE = "SDPO_VERIFIER_TOKEN"
MIN_TOKEN_CHARS = 16


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
