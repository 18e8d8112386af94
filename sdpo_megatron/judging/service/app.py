"""The verifiers over HTTP. One process accepts and answers; its children judge.

    POST /v1/verify     a batch in, a batch out (bearer token; 429 with Retry-After when it could
                        not be judged in time)
    POST /v1/items      an item, which later requests name by its sha256 (bearer token)
    GET  /healthz       the process lives
    GET  /readyz        it takes work
    GET  /metrics       for Prometheus
    GET  /openapi.json

Nothing here cannot be lost: a client sends an item again that a new process lacks.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from fastapi import Depends, FastAPI, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from sdpo_megatron.errors import SdpoError
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.local import LocalVerifiers
from sdpo_megatron.judging.pool import PoolConfig
from sdpo_megatron.judging.service.admission import Admission, Refused
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.judging.service.dispatcher import Dispatcher, Job
from sdpo_megatron.judging.service.guard import Guard
from sdpo_megatron.judging.service.item_cache import ItemCache
from sdpo_megatron.judging.service.metrics import (
    ITEM_CACHE_BYTES,
    QUEUE_LIMIT,
    WORKERS,
    ServiceMetrics,
)
from sdpo_megatron.judging.service.schema import (
    WITH_ITEM,
    WITH_NAME,
    BatchResponse,
    Health,
    ItemBody,
    ItemName,
    Problem,
    batch_request_model,
)
from sdpo_megatron.verifiers.base import BadItem

MEBIBYTE = 2**20


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    descriptions = {
        400: "The body is not JSON.",
        401: "No token, or not this service's.",
        413: "The body is too large.",
        422: "The body is JSON, but not what is described here.",
        429: "It could not be judged in time; see the header Retry-After.",
        503: "The service is stopping; ask another.",
    }
    return {s: {"model": Problem, "description": descriptions[s]} for s in statuses}


class State:
    """What a running app holds; made at start-up, gone at shutdown."""

    def __init__(self, config: ServiceConfig) -> None:
        self.metrics = ServiceMetrics()
        self.metrics.set(QUEUE_LIMIT.name, config.queue_size)
        self.metrics.set(WORKERS.name, config.workers)
        self.items = ItemCache(config.item_cache_mib * MEBIBYTE)
        self.admission = Admission(workers=config.workers, queue_size=config.queue_size)
        self.dispatcher: Dispatcher | None = None
        self.start_error: SdpoError | None = None


def create_app(config: ServiceConfig, token: str | None) -> FastAPI:
    """The ASGI application. Its workers start with its lifespan.

    Args:
        config: Limits and the verifiers offered.
        token: The bearer token; None answers anyone (`ServiceConfig.allow_anonymous`).
    """
    state = State(config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as exits:
            try:
                backend = await exits.enter_async_context(_local(config))
            except SdpoError as error:  # uvicorn only logs it; `serve` raises it again
                state.start_error = error
                raise
            if backend.layers is not None:
                state.metrics.show_layers(backend.layers)
            state.dispatcher = Dispatcher(
                backend, state.admission, workers=config.workers, metrics=state.metrics
            )
            yield
            state.dispatcher = None

    app = FastAPI(title="SDPO verifier service", version="2", lifespan=lifespan)
    app.state.service = state
    app.add_middleware(
        Guard,
        token=token,
        max_body_bytes=config.max_body_mib * MEBIBYTE,
        metrics=state.metrics,
    )
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(HTTPException, _other_problem)
    _add_probes(app, state)
    # The guard checks the token; this only tells the OpenAPI page that there is one.
    security = [] if token is None else [Depends(HTTPBearer(auto_error=False))]
    _add_items(app, state, security)
    _add_verify(app, state, config, security)
    return app


def _local(config: ServiceConfig) -> LocalVerifiers:
    pool = PoolConfig(
        workers=config.workers, cpu_limit_s=config.cpu_limit_s, memory_mib=config.memory_mib
    )
    sandbox = replace(config.sandbox, workers=config.workers)
    return LocalVerifiers(frozenset(config.verifiers), pool, sandbox, config.code)


def _add_probes(app: FastAPI, state: State) -> None:
    @app.get("/healthz")
    async def healthz() -> Health:
        """The process lives."""
        return Health(status="ok")

    @app.get("/readyz", responses={503: {"model": Health}})
    async def readyz(response: Response) -> Health:
        """Whether the service takes work: started, not stopping, and its queue has room."""
        ready = state.dispatcher is not None and not state.admission.full
        response.status_code = 200 if ready else 503
        return Health(status="ready" if ready else "not ready")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(state.metrics.page(), media_type="text/plain; version=0.0.4")


def _add_items(app: FastAPI, state: State, security: list[Any]) -> None:
    @app.post("/v1/items", responses=_problems(400, 401, 413, 422), dependencies=security)
    async def items(item: ItemBody) -> ItemName:
        """Keep an item, for requests that name it. The least recently used one goes first."""
        try:
            name = state.items.add(item.root)
        except BadItem as error:
            raise HTTPException(422, str(error)) from error
        except ValueError as error:
            raise HTTPException(413, str(error)) from error
        state.metrics.set(ITEM_CACHE_BYTES.name, state.items.size_bytes)
        return ItemName(sha256=name)


def _add_verify(app: FastAPI, state: State, config: ServiceConfig, security: list[Any]) -> None:
    async def verify(batch: Any) -> Response:
        """Judge a batch; results have the order of the items, each a verdict or failure."""
        if state.dispatcher is None:
            return _problem(503, "the service is stopping", {"Retry-After": "1"})
        jobs = [
            Job(one.id, one.verifier, _item(state.items, one), one.response) for one in batch.items
        ]
        try:
            results = await state.dispatcher.judge(jobs, batch.deadline_s)
        except Refused as error:
            return _problem(429, str(error), {"Retry-After": str(error.retry_after_s)})
        return Response(f'{{"results": [{", ".join(results)}]}}', media_type="application/json")

    verify.__annotations__["batch"] = batch_request_model(config)  # a type of this service's own
    app.post(
        "/v1/verify",
        response_model=BatchResponse,
        responses=_problems(400, 401, 413, 422, 429, 503),
        dependencies=security,
    )(verify)


def _item(items: ItemCache, one: Any) -> Item | None:
    """The item that a line of a batch holds, or names."""
    return Item(one.item) if hasattr(one, "item") else items.get(one.item_sha256)


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail.encode("ascii", "replace").decode()}, status, headers)


def _not_understood(_: Any, error: Exception) -> JSONResponse:
    """400 or 422, without an echo of the input: it may be large, and may hold text that JSON
    cannot."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()[:5]
    told = "; ".join(f"{_where(e['loc'])}: {e['msg']}" for e in found)
    no_json = any(e["type"] == "json_invalid" for e in found)
    return _problem(400 if no_json else 422, told)


def _where(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location if part not in (WITH_ITEM, WITH_NAME))


def _other_problem(_: Any, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail, dict(error.headers or {}))
