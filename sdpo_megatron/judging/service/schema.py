"""What travels over HTTP: request and response models, and so the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag, create_model

from sdpo_megatron.judging.bounds import LONGEST_DEADLINE_S
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.judging.service.dispatcher import Reason

MAX_ID_CHARS = 200
# How errors call the two kinds of lines; no field has such a name.
WITH_ITEM, WITH_NAME = "(with item)", "(with item_sha256)"
STRICT = ConfigDict(extra="forbid")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ItemBody(RootModel[dict[str, Any]]):
    """An item: what a verifier needs to know of a question."""


class ItemName(BaseModel):
    """The item's name in later requests."""

    sha256: Sha256 = Field(description="Of its JSON with sorted keys, without blanks, in ASCII.")


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
    """Why an item has no verdict.

    unavailable and deadline are worth a retry, unknown_item once the item was sent; the others are
    not.
    """

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


def _kind(line: Any) -> str:
    return WITH_NAME if isinstance(line, dict) and "item_sha256" in line else WITH_ITEM


def batch_request_model(config: ServiceConfig) -> type[BaseModel]:
    """The request model, with this service's verifiers and limits in its schema."""
    # The types exist only here, at run time, so mypy is given Any for them.
    names: Any = Literal[config.verifiers]
    common: dict[str, Any] = {
        "id": (Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)], ...),
        "verifier": (names, ...),
        "response": (str, ...),
    }
    with_item: Any = create_model(
        "WithItem", __config__=STRICT, item=(dict[str, Any], ...), **common
    )
    with_name: Any = create_model(
        "WithItemName", __config__=STRICT, item_sha256=(Sha256, ...), **common
    )
    limit = Field(min_length=1, max_length=config.max_batch)
    either: Any = Annotated[
        Annotated[with_item, Tag(WITH_ITEM)] | Annotated[with_name, Tag(WITH_NAME)],
        Discriminator(_kind),
    ]
    items: Any = Annotated[list[either], limit]
    seconds: Any = Annotated[float, Field(gt=0.0, le=LONGEST_DEADLINE_S, allow_inf_nan=False)]
    return create_model(
        "BatchRequest", __config__=STRICT, items=(items, ...), deadline_s=(seconds | None, None)
    )
