"""The example of docs/verifiers.md works as printed: one file, named by its import path."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path

import pytest

from sdpo_megatron.judging.config import JudgeConfig
from sdpo_megatron.judging.judge import open_judge
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.tasks import TaskConfig, load_task

PAGE = Path(__file__).parents[2] / "docs" / "verifiers.md"


def test_the_page_example_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, rest = PAGE.read_text("utf-8").partition("```python\n")
    (tmp_path / "reversed_text.py").write_text(rest.partition("```")[0])
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "abcd"}) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    config = TaskConfig(name="reversed_text:LAYOUT", path=str(tmp_path / "texts.jsonl"))
    task = load_task(config)
    (question,) = task.questions
    assert question.messages[0]["content"].endswith("tags: abcd")

    async def judge() -> list[tuple[float, bool, str]]:
        texts = ["<answer>dcba</answer>", "<answer>dbca</answer>", "<answer>d</answer>", "dcba"]
        async with open_judge(JudgeConfig(workers=1), SandboxConfig(), task, warn=print) as ask:
            verdicts = [await ask(question, text) for text in texts]
        return [(v.reward, v.format_ok, v.feedback) for v in verdicts]

    try:
        assert asyncio.run(judge()) == [
            (1.0, True, ""),
            (0.0, True, "The first wrong letter is number 2."),
            (0.0, True, "It must have 4 letters."),
            (0.0, False, "Put the answer inside <answer> tags."),
        ]
    finally:
        sys.modules.pop("reversed_text", None)
