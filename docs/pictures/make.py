"""Draw the pictures of the README from a recorded run: `python docs/pictures/make.py`.

quickstart.jsonl    metrics.jsonl of one `make quickstart`, its numbers rounded to six digits
terminal.svg        the display at the end of that run, drawn by the display itself
success.svg         success by step

Another run's metrics.jsonl as an argument takes the place of the recorded one.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.display import Display
from sdpo_megatron.observability.example import Example

FOLDER = Path(__file__).parent
RECORDED = FOLDER / "quickstart.jsonl"
WIDTH, HEIGHT, MARGIN = 640, 260, 44
# An attempt of that run's step 2.
EXAMPLE = Example(
    question_id="HumanEval/28",
    index=1,
    text="    return ''.join([f'{str(i):<26}b{i}' for i in strings])",
    success=False,
    feedback="Wrong answer on public test 2 of 2.\n"
    "Input: concatenate(['x', 'y', 'z', 'w', 'k'])\n"
    "Expected: 'xyzwk'",
)


def main(source: Path) -> None:
    """Write the two SVG files."""
    reports = [_report(json.loads(line)) for line in source.read_text().splitlines()]
    (FOLDER / "terminal.svg").write_text(terminal(reports))
    values = [report.metrics["rollout/success_rate"] for report in reports]
    (FOLDER / "success.svg").write_text(curve(values))


def _report(record: dict[str, float | None]) -> StepReport:
    step, version = int(record.pop("step") or 0), int(record.pop("policy_version") or 0)
    values = {key: float("nan") if v is None else float(v) for key, v in record.items()}
    return StepReport(step=step, policy_version=version, metrics=values)


def terminal(reports: list[StepReport]) -> str:
    """The steps as a terminal shows them, as SVG."""
    display = Display(len(reports), plain=False, file=io.StringIO(), width=112)
    display._console.record = True
    for report in reports:
        display.step(report, EXAMPLE if report.step == 2 else None)
    display._console.print(display._footer())
    return display._console.export_svg(title="make quickstart", unique_id="quickstart")


def curve(values: list[float]) -> str:
    """Success by step, one point a step, as SVG."""
    across = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)

    def at(step: int, value: float) -> tuple[float, float]:
        return MARGIN + step * across, HEIGHT - MARGIN - value * (HEIGHT - 2 * MARGIN)

    grid = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = at(0, tick)
        grid.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for step in range(len(values)):
        x, y = at(step, 0.0)
        grid.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{step + 1}</text>')
    points = [at(step, value) for step, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n'
        f'<text x="{MARGIN}" y="22" fill="#222">share of 32 attempts solved, by step</text>\n'
        f'<g stroke="#ddd" fill="#666" stroke-width="1">'
        + "".join(part.replace("<text", '<text stroke="none"') for part in grid)
        + f'</g>\n<polyline points="{line}" fill="none" stroke="#0969da" stroke-width="2"/>\n'
        f'<g fill="#0969da">{dots}</g>\n</svg>\n'
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED)
