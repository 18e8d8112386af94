"""Fields of config.json that SGLang 0.5.23 reads in another way than transformers does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def engine_problems(model_config: Mapping[str, Any]) -> list[str]:
    """What the engine would get wrong about a model, in words; empty where nothing is known.

    Its OLMo 3 (srt/configs/olmo3.py, srt/models/olmo2.py) knows the fields of the published
    checkpoints alone: not those that transformers 5 writes, and not the factor of attention.
    """
    if model_config.get("model_type") != "olmo3":
        return []
    problems = []
    if model_config.get("rope_parameters"):
        problems.append(
            "rope_parameters is not read by SGLang 0.5.23 for olmo3, which would take a rope_theta "
            "of 10000 and no scaling: write rope_theta and rope_scaling instead, as the published "
            "checkpoints do"
        )
    scaling = model_config.get("rope_scaling") or {}
    factor = scaling.get("factor", 1.0)
    own = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    if not math.isclose(scaling.get("attention_factor") or own, own, rel_tol=1e-6):
        problems.append(
            f"rope_scaling.attention_factor={scaling['attention_factor']} is not read by SGLang "
            f"0.5.23, which takes 0.1 ln(factor) + 1 = {own:.6f}"
        )
    return problems
