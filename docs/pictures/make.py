"""Draw the pictures of the README from a recorded run: `python docs/pictures/make.py`.

quickstart.jsonl    metrics.jsonl of one `make quickstart`, its numbers rounded to six digits
terminal.svg        the display at the end of that run, drawn by the display itself
success.svg         success by step
hidden-api.svg      the same of benchmarks/results/hidden_api: mean, least and most of the seeds
small.svg           the same of benchmarks/results/small

Another run's metrics.jsonl as an argument takes the place of the recorded one.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from docs.pictures import chart
from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.display import Display
from sdpo_megatron.observability.example import Example

FOLDER = Path(__file__).parent
RECORDED = FOLDER / "quickstart.jsonl"
RESULTS = FOLDER.parent.parent / "benchmarks" / "results"
LABELS = {"as_is": "SDPO", "grpo": "GRPO", "sft": "SFT"}
COMPARED = {
    "hidden-api.svg": ("hidden_api", "hidden names"),
    "small.svg": ("small", "eight HumanEval problems, four a step"),
}
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
    """Write the SVG files."""
    reports = [_report(json.loads(line)) for line in source.read_text().splitlines()]
    (FOLDER / "terminal.svg").write_text(terminal(reports))
    values = [report.metrics["rollout/success_rate"] for report in reports]
    picture = chart.svg("share of 32 attempts solved, by step", [chart.Line(values)])
    (FOLDER / "success.svg").write_text(picture)
    for name, (results, what) in COMPARED.items():
        if (RESULTS / results).is_dir():
            title = f"{what}: share of 32 attempts solved, by step"
            (FOLDER / name).write_text(chart.svg(title, lines(RESULTS / results)))


def lines(folder: Path) -> list[chart.Line]:
    """Of the runs that `sdpo compare` wrote into `folder`: a line for each variant."""
    found = []
    for variant, label in LABELS.items():
        runs = [
            json.loads(p.read_text())["steps"] for p in sorted(folder.glob(f"{variant}-*.json"))
        ]
        columns = list(
            zip(*([step["rollout/success_rate"] for step in steps] for steps in runs), strict=True)
        )
        band = [(min(column), max(column)) for column in columns]
        found.append(chart.Line([sum(c) / len(c) for c in columns], label, band))
    return found


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


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED)
