"""Shares by step as an SVG: a line for each of several runs or means, with their scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, MARGIN = 640, 260, 44
COLOURS = ("#0969da", "#bf3989", "#1a7f37", "#9a6700")


@dataclass(frozen=True)
class Line:
    """Attributes:
    values: By step, in [0, 1].
    label: Stands beside its end; "" for none.
    band: (least, most) by step, drawn pale behind it; () for none.
    """

    values: Sequence[float]
    label: str = ""
    band: Sequence[tuple[float, float]] = ()


def svg(title: str, lines: Sequence[Line]) -> str:
    """The picture; all lines have as many steps."""
    steps = len(lines[0].values)
    right = MARGIN * 2 if any(line.label for line in lines) else MARGIN
    across = (WIDTH - MARGIN - right) / max(1, steps - 1)

    def at(step: int, value: float) -> tuple[float, float]:
        return MARGIN + step * across, HEIGHT - MARGIN - value * (HEIGHT - 2 * MARGIN)

    grid = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = at(0, tick)
        grid.append(f'<line x1="{MARGIN}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for step in range(steps):
        x, y = at(step, 0.0)
        grid.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{step + 1}</text>')
    heights = _apart([at(0, line.values[-1])[1] for line in lines])
    drawn = [
        _drawn(line, COLOURS[i % len(COLOURS)], at, heights[i]) for i, line in enumerate(lines)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n'
        f'<text x="{MARGIN}" y="22" fill="#222">{title}</text>\n'
        f'<g stroke="#ddd" fill="#666" stroke-width="1">'
        + "".join(part.replace("<text", '<text stroke="none"') for part in grid)
        + f"</g>\n{''.join(drawn)}</svg>\n"
    )


def _apart(heights: Sequence[float]) -> dict[int, float]:
    """Where labels stand that would cover each other at the ends of their lines."""
    placed: dict[int, float] = {}
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        placed[i] = max([heights[i], *(y + 14 for y in placed.values())]) if placed else heights[i]
    return placed


def _drawn(line: Line, colour: str, at, label_y: float) -> str:  # type: ignore[no-untyped-def]
    points = [at(step, value) for step, value in enumerate(line.values)]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points)
    found = ""
    if line.band:
        edge = [at(step, low) for step, (low, _) in enumerate(line.band)]
        edge += [at(step, high) for step, (_, high) in reversed(list(enumerate(line.band)))]
        around = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
        found += f'<polygon points="{around}" fill="{colour}" fill-opacity="0.15"/>\n'
    found += f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="2"/>\n'
    found += f'<g fill="{colour}">{dots}</g>\n'
    if line.label:
        x, _ = points[-1]
        found += (
            f'<text x="{x + 8:.1f}" y="{label_y + 4:.1f}" fill="{colour}">{line.label}</text>\n'
        )
    return found
