"""What a verifier service answers, read: a verdict, or what its absence means."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from sdpo_megatron.errors import ConfigError, NoVerdict, VerifierBroken, VerifierUnavailable
from sdpo_megatron.judging.wire import verdict_from_json
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import BadItem


@dataclass(frozen=True)
class Reply:
    """What came back, read to its end."""

    status: int
    retry_after: str | None
    body: bytes


class ComeAgain(Exception):
    """The service is there but has no worker in time."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class UnknownItem(Exception):
    """The service does not have the item."""


def outcome_of(status: int) -> str:
    """What an HTTP status means, as a metric names it."""
    if status == 200:
        return "answered"
    if status == 429:
        return "busy"
    return "refused" if status < 500 else "failed"


def checked(url: str, reply: Reply) -> Reply:
    """The reply, when it is one to a request that was understood and accepted.

    Raises:
        ComeAgain, BadItem, ConfigError: See the client's table.
    """
    text = reply.body[:300].decode("utf-8", "replace")
    match reply.status:
        case 200:
            return reply
        case 429:
            raise ComeAgain(f"{url}: {text}", _seconds(reply.retry_after))
        case 413:
            raise BadItem(f"{url}: HTTP 413: {text}")
        case status:
            hint = " (the token is wrong)" if status in (401, 403) else ""
            raise ConfigError(f"{url}: HTTP {status}{hint}: {text}")


def json_of(url: str, reply: Reply) -> dict[str, Any]:
    """Its JSON object.

    Raises:
        VerifierUnavailable: It is none: who answered is no verifier service.
    """
    try:
        data = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise VerifierUnavailable(f"{url}: not a reply of a verifier service: {error}") from error
    if not isinstance(data, dict):
        raise VerifierUnavailable(f"{url}: not a reply of a verifier service: {data!r:.100}")
    return data


def verdict_of(url: str, reply: Reply) -> Verdict:
    """The verdict on the one item that was asked for.

    Raises:
        UnknownItem: The service lacks the item.
        VerifierUnavailable, BadItem, VerifierBroken: There is no verdict, see the client's table.
    """
    data = json_of(url, reply)
    try:
        (result,) = data["results"]
        if result["verdict"] is not None:
            return verdict_from_json(result["verdict"])
        reason, message = str(result["failure"]["reason"]), str(result["failure"]["message"])
    except (ValueError, KeyError, TypeError) as error:
        raise VerifierUnavailable(f"{url}: not a reply of a verifier service: {error}") from error
    if reason == "unknown_item":
        raise UnknownItem
    raise _failure(url, reason, message)


def _failure(url: str, reason: str, message: str) -> NoVerdict:
    match reason:
        case "bad_item":
            return BadItem(f"{url}: {message}")
        case "broken":
            return VerifierBroken(f"{url}: {message}")
        case _:
            return VerifierUnavailable(f"{url}: {reason}: {message}")


def _seconds(header: str | None) -> float:
    try:
        seconds = float(header or 0.0)
    except ValueError:  # a date is allowed by HTTP; our service sends seconds
        return 0.0
    return seconds if math.isfinite(seconds) and seconds >= 0 else 0.0
