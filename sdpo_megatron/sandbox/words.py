"""How a run ended, in words for the author of the program."""

from __future__ import annotations

from collections.abc import Mapping

LIMIT_WORDS = {
    "cpu_time": "Time limit exceeded: the program used more than {cpu_s:g} seconds of CPU time.",
    "wall_time": "Time limit exceeded: the program did not finish within {wall_s:g} seconds.",
    "memory": "Memory limit exceeded: the program used more than {memory_mib:.0f} MiB.",
    "output": "Output limit exceeded: the program printed more than {output_kib:.0f} KiB.",
    "processes": "Process limit exceeded: the program started more than {processes:.0f} processes.",
}

_SIGNALS = {
    4: "illegal instruction",
    6: "aborted",
    7: "bus error",
    8: "arithmetic error",
    11: "segmentation fault",
}


def limit_text(cause: str, limits: Mapping[str, float]) -> str:
    """The limit that was hit, in plain words."""
    return LIMIT_WORDS[cause].format(**limits)


def crashed_text(signal: int) -> str:
    """A signal ended the program."""
    return f"The program crashed ({_SIGNALS.get(signal, f'signal {signal}')})."
