"""What travels over HTTP: request and response models, and so the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.judging.service.dispatcher import Reason

MAX_ID_CHARS = 200
STRICT = ConfigDict(extra="forbid")


class VerdictModel(BaseModel):
    """See `nouns.Verdict`."""

    reward: float = Field(ge=0.0, le=1.0)
    success: bool
    format_ok: bool
    feedback: str
    reveals_answer: bool
    seconds: float
    layers: list[str]
    details: dict[str, Any]


class FailureModel(BaseModel):
    """Why an item has no verdict; unavailable and deadline are worth a retry, the others not."""

    reason: Reason
    message: str


class ResultModel(BaseModel):
    """One item's verdict, or its failure; exactly one of the two."""

    id: str
    verdict: VerdictModel | None
    failure: FailureModel | None


class BatchResponse(BaseModel):
    """Results in the order of the request's items."""

    results: list[ResultModel]


class Problem(BaseModel):
    """Why a request as a whole was not answered."""

    detail: str


class Health(BaseModel):
    """State of the process."""

    status: Literal["ok", "ready", "not ready"]


def batch_request_model(config: ServiceConfig) -> type[BaseModel]:
    """The request model, with this service's verifiers and limits in its schema."""
    # The types exist only here, at run time, so mypy is given Any for them.
    names: Any = Literal[config.verifiers]
    item: Any = create_model(
        "ItemRequest",
        __config__=STRICT,
        id=(Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)], ...),
        verifier=(names, ...),
        item=(dict[str, Any], ...),
        response=(str, ...),
    )
    items: Any = Annotated[list[item], Field(min_length=1, max_length=config.max_batch)]
    limit = config.max_deadline_s
    deadline: Any = Annotated[float, Field(gt=0.0, le=limit, allow_inf_nan=False)]
    return create_model(
        "BatchRequest", __config__=STRICT, items=(items, ...), deadline_s=(deadline, limit)
    )
