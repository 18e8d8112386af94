"""Scores an evaluation of HumanEval again, by nothing of ours but the sandbox's fence.

    sdpo evaluate experiment=quickstart task.ids=[] validation.num_attempts=1 --output runs/he
    python benchmarks/independent_scoring.py runs/he

For each attempt the program that the authors of the data set would run is put together from the
packaged data as they do (prompt, completion, test, `check(entry_point)`), and run as one module.
It passes where nothing is raised. (Their rule lets a program forge its verdict, ours does not.)
Differences are listed one by one in `independent.json` in that folder; none is exit code 0.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

from sdpo_megatron.sandbox import PythonTool, RunLimits, Sandbox
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.humaneval import FENCE_CLOSE, packaged

DONE = "the check has ended"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what `sdpo evaluate --output` wrote")
    folder = parser.parse_args().folder
    with gzip.open(packaged(TaskConfig()), "rt") as file:
        problems = {row["task_id"]: row for row in map(json.loads, file)}
    rows = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]
    ours, theirs, differ = 0, 0, []
    with Sandbox() as sandbox:
        run = PythonTool(sandbox, RunLimits(cpu_s=6.0, wall_s=60.0, memory_mib=1024))
        for row in rows:
            for attempt in row["attempts"]:
                passed = _passes(run, problems[row["question"]], attempt["text"])
                ours, theirs = ours + attempt["success"], theirs + passed
                if passed != attempt["success"]:
                    differ.append({"question": row["question"], "independent": passed, **attempt})
    total = sum(len(row["attempts"]) for row in rows)
    found = {
        "questions": len(rows), "attempts": total, "pass@1": ours / total,
        "independent pass@1": theirs / total, "differ": differ,
    }  # fmt: skip
    (folder / "independent.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({**found, "differ": len(differ)}, indent=2))
    sys.exit(bool(differ))


def _passes(run: PythonTool, problem: dict[str, Any], text: str) -> bool:
    """By the authors' program. A prompt is a function with a docstring for its body, so a text that
    goes on in that body and one that defines the function anew both make a module with it."""
    completion = text.split(FENCE_CLOSE)[0]
    check = f"\n{problem['test']}\ncheck({problem['entry_point']})\nprint({DONE!r})\n"
    output = run(problem["prompt"] + completion + check)
    return not output.error and output.stdout.rstrip().endswith(DONE)


if __name__ == "__main__":
    main()
