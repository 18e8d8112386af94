"""DiscoveryConfig: how hard questions are searched for an answer."""

from __future__ import annotations

from typing import Literal

from sdpo_megatron.fields import PositiveInt, settings


@settings
class DiscoveryConfig:
    """A search for the answer to one question after another; the model starts each anew."""

    method: Literal["sdpo", "best_of_k", "multi_turn"] = "sdpo"
    """sdpo: every batch of attempts is trained on. The baselines leave the weights alone.
    best_of_k: independent attempts; multi_turn: one conversation, each turn an attempt that has
    seen the feedback on those before."""
    attempts: PositiveInt = 2752
    """Budget of one search; it ends with the batch that reaches it, or that holds a success."""
    searches: PositiveInt = 1
    """Searches for each question, from different seeds."""
    window_tokens: PositiveInt = 32768
    """multi_turn: longest prompt; the oldest turns are dropped to keep to it."""
