"""How long the judging of one item may take: derived from its tests, never set beside them.

What a program or a response does within it is a verdict; only silence beyond it is
infrastructure's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdpo_megatron.verifiers.code import CodeVerifierConfig

CODE = "code"  # the one verifier that runs the response, so it needs the sandbox and not the pool
# Wall seconds of a child process per CPU second that it may use, on a machine that is too busy.
MAX_STRETCH = 5.0
# What a program's tests cost besides themselves, or a child: to start it and import its verifier.
START_S = 60.0
LONGEST_DEADLINE_S = 86_400.0


def pool_wall_s(cpu_limit_s: int) -> float:
    """Seconds after which a child process that has not answered hangs."""
    return MAX_STRETCH * cpu_limit_s + START_S


def seconds_at_most(
    verifier: str, item: Mapping[str, Any], *, code: CodeVerifierConfig, cpu_limit_s: int
) -> float:
    """Seconds within which an item is judged, once a worker has it.

    Args:
        verifier: Name of the verifier.
        item: Its item; only its number of tests counts.
        code: Limits of programs.
        cpu_limit_s: CPU seconds of the other verifiers.
    """
    if verifier != CODE:
        return pool_wall_s(cpu_limit_s)
    tests = item.get("tests")
    runs = max(1, len(tests)) if isinstance(tests, list) else 1
    return runs * code.wall_s + START_S
