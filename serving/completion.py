"""What is asked of an engine for one response, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdpo_megatron.errors import EngineError
from sdpo_megatron.nouns import FinishReason, VersionSpan


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to sample one response.

    Attributes:
        temperature: Divides the logits; 0 is greedy. Log-probs are reported at this temperature,
            before top-p.
        top_p: Nucleus mass.
        max_new_tokens: Limit of sampled tokens.
        stop: Strings that end the response once they have been sampled.
        seed: Sampling seed, below 2**63; honoured by engines started with `deterministic`.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def payload(self) -> dict[str, Any]:
        """SGLang's `sampling_params`."""
        fields: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
        }
        if self.stop:
            fields["stop"] = list(self.stop)
        if self.seed is not None:
            fields["sampling_seed"] = self.seed
        return fields


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One response as the engine sampled it.

    Attributes:
        token_ids: Every sampled token, in order: the end-of-turn token and the tokens of a stop
            string included.
        log_probs: Log-probability of each, at the sampling temperature.
        finish_reason: Why it ended. "abort": cut off from outside; the tokens so far are here.
        versions: Spans of policy versions over all tokens.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishReason
    versions: tuple[VersionSpan, ...]


def parse_completion(answer: Mapping[str, Any], url: str) -> Completion:
    """Read SGLang's answer to /generate with `return_logprob`.

    Raises:
        EngineError: ids and log-probs do not belong together, or the versions do not cover the
            tokens.
    """
    meta = answer["meta_info"]
    rows = meta.get("output_token_logprobs") or []
    token_ids = tuple(int(row[1]) for row in rows)
    said = tuple(answer.get("output_ids") or ())
    if said != token_ids:
        raise EngineError(
            f"{url}: output_ids ({len(said)} tokens) are not the tokens with log-probs "
            f"({len(token_ids)})"
        )
    kind = (meta.get("finish_reason") or {}).get("type")
    if kind not in ("stop", "length", "abort"):
        raise EngineError(f"{url}: unknown finish reason {meta.get('finish_reason')!r}")
    return Completion(
        token_ids=token_ids,
        log_probs=tuple(float(row[0]) for row in rows),
        finish_reason=kind,
        versions=_spans(meta, len(token_ids), url),
    )


def _spans(meta: Mapping[str, Any], length: int, url: str) -> tuple[VersionSpan, ...]:
    found = meta.get("weight_versions")
    if found is None:
        found = [{"version": meta["weight_version"], "start": 0, "end": length}]
    try:
        spans = tuple(VersionSpan(int(s["start"]), int(s["end"]), int(s["version"])) for s in found)
    except ValueError as error:
        raise EngineError(
            f"{url}: policy versions must be numbers, got {found}; give the engine "
            "--weight-version 0"
        ) from error
    spans = tuple(span for span in spans if span.end > span.start)
    covered = [span.start for span in spans] + [length] == [0] + [span.end for span in spans]
    if not covered and length:
        raise EngineError(f"{url}: version spans {spans} do not cover the {length} tokens")
    return spans
