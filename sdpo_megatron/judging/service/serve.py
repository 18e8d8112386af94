"""`sdpo verify serve`: listens, answers until SIGTERM, and stops in order."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from sdpo_megatron.errors import ConfigError, SdpoError
from sdpo_megatron.judging.bearer_token import TOKEN_VARIABLE, read_token
from sdpo_megatron.judging.service.app import create_app
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.judging.service.connections import (
    KEEP_ALIVE_S,
    BoundedConnection,
    Strangers,
    allow_descriptors,
    listen,
)


def bounded_server(app: ASGIApp, *, timeout_s: float, drain_s: float) -> uvicorn.Server:
    """A server whose connections cannot be held open, see `connections`."""
    connection: Any = functools.partial(
        BoundedConnection,
        timeout_s=timeout_s,
        # half of the descriptors are left for those who ask, and for the workers
        strangers=Strangers(max(64, allow_descriptors() // 2)),
    )
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http=connection,
            ws="none",
            log_level="warning",
            timeout_keep_alive=round(KEEP_ALIVE_S),
            timeout_graceful_shutdown=max(1, round(drain_s)),
            server_header=False,
        )
    )


def serve(
    config: ServiceConfig,
    *,
    announce: Callable[[str], None] = lambda line: print(line, flush=True),
) -> int:
    """Listen until SIGTERM or SIGINT, judge what was accepted (at most `drain_s`), and return 0.

    Raises:
        ConfigError: No token and not `allow_anonymous`; or the address cannot be listened on.
        SandboxRefused: `code` is offered and this machine has fewer isolation layers than
            configured.
    """
    token = read_token(config.token_file)
    if token is None and not config.allow_anonymous:
        raise ConfigError(
            f"no bearer token: set token_file or the environment variable {TOKEN_VARIABLE}, or "
            "allow_anonymous=true on a loopback address of a machine of your own"
        )
    listener = listen(config.host, config.port)
    app = create_app(config, token)
    server = bounded_server(app, timeout_s=config.header_timeout_s, drain_s=config.drain_s)

    def stop(*_: Any) -> None:
        server.should_exit = True

    # For the moments before uvicorn takes the signals and after: it raises the one that stopped it
    # again, and a drained service must end with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    host, port = listener.getsockname()[:2]
    announce(f"verifier service on http://{host}:{port}, {config.workers} workers")
    with contextlib.suppress(SystemExit):  # how uvicorn says that the start-up failed
        server.run(sockets=[listener])
    start_error: SdpoError | None = app.state.service.start_error
    if start_error is not None:
        raise start_error
    return 0 if server.started else 1
