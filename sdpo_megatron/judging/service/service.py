"""`sdpo verify serve`: the verifiers over HTTP.

One process accepts and answers; its children judge.

    POST /v1/verify     a batch in, a batch out (bearer token; Idempotency-Key; 429 with Retry-After
                        when full)
    GET  /healthz       the process lives
    GET  /readyz        it takes work
    GET  /metrics       for Prometheus
    GET  /openapi.json

Stateless: what is lost with the process is asked again by the client. Scale out with more
processes.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from sdpo_megatron.errors import ConfigError, SdpoError
from sdpo_megatron.judging.local import LocalVerifiers
from sdpo_megatron.judging.pool import PoolConfig
from sdpo_megatron.judging.service.config import TOKEN_VARIABLE, ServiceConfig, read_token
from sdpo_megatron.judging.service.dispatcher import RETRYABLE, Dispatcher, Job, Outcome, QueueFull
from sdpo_megatron.judging.service.guard import Guard
from sdpo_megatron.judging.service.idempotency import Answer, AnswersByKey, KeyReused
from sdpo_megatron.judging.service.metrics import ServiceMetrics
from sdpo_megatron.judging.service.schema import BatchResponse, Health, Problem, batch_request_model
from sdpo_megatron.judging.wire import verdict_to_json
from sdpo_megatron.sandbox import SandboxConfig

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not JSON."},
    401: {"model": Problem, "description": "No token, or not this service's."},
    409: {"model": Problem, "description": "The Idempotency-Key was used with another body."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "The body is not a batch."},
    429: {"model": Problem, "description": "The queue is full; see the header Retry-After."},
    503: {"model": Problem, "description": "The service is stopping; ask another."},
}


class _State:
    """What a running app holds; made at start-up, gone at shutdown."""

    def __init__(self, config: ServiceConfig) -> None:
        self.metrics = ServiceMetrics()
        self.answers = AnswersByKey(config.idempotency_keys)
        self.dispatcher: Dispatcher | None = None
        self.start_error: SdpoError | None = None


def create_app(config: ServiceConfig, sandbox: SandboxConfig, token: str | None) -> FastAPI:
    """The ASGI application. Its workers start with its lifespan.

    Args:
        config: Limits and the verifiers offered.
        sandbox: For the code verifier.
        token: The bearer token; None answers anyone (`ServiceConfig.allow_anonymous`).
    """
    state = _State(config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pool = PoolConfig(
            workers=config.workers,
            cpu_limit_s=config.cpu_limit_s,
            memory_mib=config.memory_mib,
            wall_limit_s=config.max_deadline_s,
        )
        local = LocalVerifiers(frozenset(config.verifiers), pool, sandbox, config.code)
        async with contextlib.AsyncExitStack() as exits:
            try:
                verifies = await exits.enter_async_context(local)
            except SdpoError as error:  # uvicorn only logs it; `serve` raises it again
                state.start_error = error
                raise
            state.dispatcher = Dispatcher(
                verifies,
                workers=config.workers,
                queue_size=config.queue_size,
                metrics=state.metrics,
            )
            yield
            state.dispatcher = None

    app = FastAPI(title="SDPO verifier service", version="1", lifespan=lifespan)
    app.state.service = state
    app.add_middleware(Guard, token=token, max_body_bytes=config.max_body_bytes)
    app.add_exception_handler(RequestValidationError, _not_a_batch)
    _add_probes(app, state)
    _add_verify(app, state, config, authenticated=token is not None)
    return app


def _add_probes(app: FastAPI, state: _State) -> None:
    @app.get("/healthz")
    async def healthz() -> Health:
        """The process lives."""
        return Health(status="ok")

    @app.get("/readyz", responses={503: {"model": Health}})
    async def readyz(response: Response) -> Health:
        """Whether the service takes work: started, not stopping, and its queue has room."""
        ready = state.dispatcher is not None and not state.dispatcher.full
        response.status_code = 200 if ready else 503
        return Health(status="ready" if ready else "not ready")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(state.metrics.page(), media_type="text/plain; version=0.0.4")


def _add_verify(app: FastAPI, state: _State, config: ServiceConfig, authenticated: bool) -> None:
    # The guard checks the token; this only tells the OpenAPI page that there is one.
    security = [Depends(HTTPBearer(auto_error=False))] if authenticated else []

    async def verify(
        request: Request,
        batch: Any,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    ) -> Response:
        """Judge a batch; results have the order of the items, each a verdict or failure."""
        response = await _answered(state, batch, idempotency_key, await request.body())
        state.metrics.requests.labels(str(response.status_code)).inc()
        return response

    verify.__annotations__["batch"] = batch_request_model(config)  # a type of this service's own
    app.post("/v1/verify", response_model=BatchResponse, responses=PROBLEMS, dependencies=security)(
        verify
    )


async def _answered(state: _State, batch: Any, key: str | None, body: bytes) -> Response:
    dispatcher = state.dispatcher
    if dispatcher is None:
        return _problem(503, "the service is stopping", {"Retry-After": "1"})
    jobs = [Job(i.id, i.verifier, i.item, i.response) for i in batch.items]

    async def make() -> Answer:
        outcomes = await dispatcher.judge(jobs, batch.deadline_s)
        final = not any(outcome.reason in RETRYABLE for outcome in outcomes)
        return Answer(_response_body(outcomes), final)

    try:
        made = await state.answers.answer(key, body, make) if key else (await make()).body
    except KeyReused as error:
        return _problem(409, str(error))
    except QueueFull as error:
        return _problem(429, str(error), {"Retry-After": str(error.retry_after_s)})
    return Response(made, media_type="application/json")


def _response_body(outcomes: Sequence[Outcome]) -> bytes:
    results = [
        {
            "id": outcome.id,
            "verdict": None if outcome.verdict is None else verdict_to_json(outcome.verdict),
            "failure": None
            if outcome.verdict is not None
            else {"reason": outcome.reason, "message": outcome.message},
        }
        for outcome in outcomes
    ]
    return json.dumps({"results": results}, ensure_ascii=True).encode()


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


def _not_a_batch(_: Request, error: Exception) -> JSONResponse:
    """422 without an echo of the input: it may be large, and may hold text that JSON cannot."""
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
    return _problem(422, "; ".join(told).encode("ascii", "replace").decode())


def serve(
    config: ServiceConfig,
    sandbox: SandboxConfig | None = None,
    *,
    announce: Callable[[str], None] = lambda line: print(line, flush=True),
) -> int:
    """Listen until SIGTERM or SIGINT, judge what was accepted (at most `drain_s`), and return 0.

    Raises:
        ConfigError: No token and not `allow_anonymous`; or the port cannot be bound.
        SandboxRefused: `code` is offered and this machine has fewer isolation layers than
            configured.
    """
    token = read_token(config.token_file)
    if token is None and not config.allow_anonymous:
        raise ConfigError(
            f"no bearer token: set service.token_file or the environment variable "
            f"{TOKEN_VARIABLE}, or allow_anonymous on a loopback address of a machine of your own"
        )
    try:
        listener = socket.create_server((config.host, config.port), backlog=1024)
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {error}") from error
    app = create_app(config, sandbox or SandboxConfig(), token)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            log_level="warning",
            timeout_graceful_shutdown=max(1, round(config.drain_s)),
            server_header=False,
        )
    )

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
