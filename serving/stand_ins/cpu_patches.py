"""Changes inside SGLang 0.5.23 that a CPU needs beyond missing imports.

Applied in every process of the engine.
"""

from __future__ import annotations

import os
from typing import Any

FP8_VARIABLE = "SDPO_ENGINE_FP8"


def apply() -> None:
    """Let ``--enable-deterministic-inference`` start on a CPU; SGLang honours `sampling_seed` only
    under that flag.

    Its list of attention backends has no CPU one, and its batch-invariant matrix products are
    Triton kernels. So on a CPU the flag means seeded sampling only: the same seed in a batch of
    another size can still differ in the last bits.
    """
    from sglang.srt.arg_groups import choices

    if "torch_native" not in choices.DETERMINISTIC_ATTENTION_BACKEND_CHOICES:
        choices.DETERMINISTIC_ATTENTION_BACKEND_CHOICES.append("torch_native")

    import sglang.srt.batch_invariant_ops as batch_invariant_ops

    batch_invariant_ops.enable_batch_invariant_mode = _leave_matrix_products_alone
    if os.environ.get(FP8_VARIABLE) == "1":
        import fp8_products

        fp8_products.apply()


def _leave_matrix_products_alone(*args: Any, **kwargs: Any) -> None:
    """Stands in for the Triton replacement of torch.mm and friends."""
