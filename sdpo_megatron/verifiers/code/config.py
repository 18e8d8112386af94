"""How code is judged: limits, reward, feedback."""

from __future__ import annotations

from dataclasses import dataclass

from sdpo_megatron.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CodeVerifierConfig:
    """How code is judged.

    Limits are per test for LiveCodeBench and for all tests of an item for HumanEval.

    Attributes:
        cpu_s: CPU time, seconds.
        wall_s: Wall time, seconds; generous, so that a busy machine does not change verdicts.
        memory_mb: Memory of all the attempt's processes, MiB.
        output_kb: stdout, KiB.
        processes: Processes and threads.
        reward: "all": 1 when every test passes, else 0. "fraction": the share of tests that pass
            (runs all of them).
        quote_code: Quote the attempt's own failing line. Off: a small teacher copies the bug.
        max_feedback_chars: Longer feedback is shortened in the middle.
    """

    cpu_s: float = 6.0
    wall_s: float = 60.0
    memory_mb: int = 512
    output_kb: int = 1024
    processes: int = 16
    reward: str = "all"
    quote_code: bool = False
    max_feedback_chars: int = 2000

    def __post_init__(self) -> None:
        if self.reward not in ("all", "fraction"):
            raise ConfigError(f"code.reward is {self.reward!r}; choose all or fraction")
        if self.max_feedback_chars < 200:
            raise ConfigError(
                f"code.max_feedback_chars is {self.max_feedback_chars}; use at least 200"
            )

    def limits(self) -> dict[str, float]:
        """The limits by the sandbox's names."""
        names = ("cpu_s", "wall_s", "memory_mb", "output_kb", "processes")
        return {name: getattr(self, name) for name in names}
