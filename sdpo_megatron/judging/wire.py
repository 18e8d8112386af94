"""Verdicts as JSON, for pipes, HTTP and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdpo_megatron.nouns import Verdict


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """All fields of a Verdict, as JSON holds them."""
    return {
        "reward": verdict.reward,
        "success": verdict.success,
        "format_ok": verdict.format_ok,
        "feedback": verdict.feedback,
        "reveals_answer": verdict.reveals_answer,
        "seconds": verdict.seconds,
        "layers": list(verdict.layers),
        "details": dict(verdict.details),
    }


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    """The inverse of `verdict_to_json`.

    Raises:
        ValueError: A field is missing, or reward is not in [0, 1].
    """
    try:
        verdict = Verdict(**{**data, "layers": tuple(data["layers"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a verdict: {error}") from error
    if not 0.0 <= verdict.reward <= 1.0:
        raise ValueError(f"not a verdict: reward {verdict.reward} is outside [0, 1]")
    return verdict
