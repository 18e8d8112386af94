"""What the folder exports, and what it imports."""

from __future__ import annotations

import subprocess
import sys

import sdpo_megatron.objectives as objectives


def test_all_is_sorted_complete_and_real() -> None:
    assert objectives.__all__ == sorted(
        objectives.__all__, key=str.lower
    ) or objectives.__all__ == sorted(objectives.__all__)
    assert all(hasattr(objectives, name) for name in objectives.__all__)


def test_imports_torch_and_our_errors_alone() -> None:
    program = (
        "import sys, sdpo_megatron.objectives, sdpo_megatron.objectives.health\n"
        "ours = {m for m in sys.modules if m.startswith('sdpo_megatron.')}\n"
        "ours -= {'sdpo_megatron.exit_codes'}  # what errors are made of\n"
        "allowed = ('sdpo_megatron.objectives', 'sdpo_megatron.errors', 'sdpo_megatron.fields')\n"
        "print([m for m in ours if not m.startswith(allowed)])\n"
        "print([m for m in ('megatron', 'sglang', 'transformers', 'hydra') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["[]", "[]"]
