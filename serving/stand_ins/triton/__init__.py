"""Triton for a CPU: kernels can be defined and never run; the host-side helpers compute."""

from __future__ import annotations

from typing import Any

from placeholder import stand_in_for, submodule

_triton = stand_in_for("triton", version="3.0.0")


class Config:
    """What ``@triton.autotune`` is given; kept so that code which inspects it works."""

    def __init__(
        self,
        kwargs: dict[str, Any] | None = None,
        num_warps: int = 4,
        num_stages: int = 2,
        **_: Any,
    ) -> None:
        self.kwargs, self.num_warps, self.num_stages = kwargs or {}, num_warps, num_stages


class constexpr:
    """A compile-time constant."""

    def __init__(self, value: Any) -> None:
        self.value = value


def cdiv(numerator: int, denominator: int) -> int:
    """Division, rounded up."""
    return -(numerator // -denominator)


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()


_triton.Config, _triton.cdiv, _triton.next_power_of_2 = Config, cdiv, next_power_of_2
submodule(_triton, "language").constexpr = constexpr
