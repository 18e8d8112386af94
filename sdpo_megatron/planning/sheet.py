"""A memory sheet: rows of what a GPU holds, each with its arithmetic, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass

from sdpo_megatron.planning.hardware import GIB


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a sheet.

    Attributes:
        name: What is held.
        sum: How the number comes about.
        bytes: The number.
    """

    name: str
    sum: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What one rank holds, and whether that fits.

    Attributes:
        title: Model, GPU and layout.
        lines: The rows.
        capacity: Bytes of the GPU.
    """

    title: str
    lines: tuple[Line, ...]
    capacity: int

    @property
    def total(self) -> int:
        """Bytes of all rows."""
        return sum(line.bytes for line in self.lines)

    @property
    def fits(self) -> bool:
        """Whether the GPU holds them."""
        return self.total <= self.capacity

    def __str__(self) -> str:
        rows = [(line.name, line.sum, f"{line.bytes / GIB:.2f}") for line in self.lines]
        rows.append(("total", "", f"{self.total / GIB:.2f}"))
        rows.append(("of the GPU", "", f"{self.capacity / GIB:.2f}"))
        left, middle, right = (max(len(row[i]) for row in rows) for i in range(3))
        table = [f"  {a:<{left}}  {b:<{middle}}  {c:>{right}} GiB" for a, b, c in rows]
        return "\n".join([self.title, *table])
