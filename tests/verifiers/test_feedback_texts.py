"""Every kind of feedback of the text verifiers, word by word, in golden/feedback.json.

After a deliberate change: ``python -m tests.verifiers.test_feedback_texts`` writes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdpo_megatron.verifiers.base import REVEAL_KEY, load_verifier

GOLDEN = Path(__file__).parent / "golden" / "feedback.json"
CHOICE = {"answer": "B", "options": {"A": "iron", "B": "zinc", "C": "lead", "D": "tin"}}
CALLS = {
    "calls": [
        {"name": "getForecast", "arguments": {"city": ["Oslo"], "days": [3], "units": ["", None]}},
        {"name": "getHours", "arguments": {}},
    ],
    "tools": {"getForecast": ["city", "days", "units"], "getHours": []},
}
FORECAST = 'Action: getForecast\nAction Input: {"city": "Oslo", "days": 3}\n'
HOURS = "Action: getHours\nAction Input: {}\n"
INSTRUCTIONS = {
    "prompt": "p",
    "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
    "kwargs": [{}, {}],
}
CASES: dict[str, tuple[str, Mapping[str, Any], str]] = {
    "a number that is wrong": ("mathematics", {"answer": "7"}, "\\boxed{8}"),
    "the same, revealed": ("mathematics", {"answer": "7", REVEAL_KEY: True}, "\\boxed{8}"),
    "a token in the answer": ("mathematics", {"answer": "7"}, "\\boxed{<|im_end|> 8}"),
    "a number without a mark": ("mathematics", {"answer": "7"}, "It makes 7."),
    "a box that is not closed": ("mathematics", {"answer": "7"}, "\\boxed{7"),
    "a bomb": ("mathematics", {"answer": "7"}, "\\boxed{9^{9^{9}}}"),
    "an answer that is no expression": ("mathematics", {"answer": "x+1"}, "\\boxed{\\frac{}}"),
    "another letter": ("multiple_choice", CHOICE, "<answer>C</answer>"),
    "another letter, revealed": (
        "multiple_choice",
        {**CHOICE, REVEAL_KEY: True},
        "<answer>C</answer>",
    ),
    "two letters": ("multiple_choice", CHOICE, "<answer>B or C</answer>"),
    "another option's text": ("multiple_choice", CHOICE, "<answer>B: lead</answer>"),
    "no letter": ("multiple_choice", CHOICE, "I cannot say.\nSorry."),
    "no call": ("tool_use", CALLS, "I would look it up."),
    "no input": ("tool_use", CALLS, "Action: getHours"),
    "a trailing comma": ("tool_use", CALLS, 'Action: getForecast\nAction Input: {"days": 3,}'),
    "an input that is a list": ("tool_use", CALLS, "Action: getForecast\nAction Input: [1]"),
    "a positional argument": ("tool_use", CALLS, "getForecast('Oslo')"),
    "an expression as a value": ("tool_use", CALLS, "getForecast(city=open('x'))"),
    "a tool that is not offered": ("tool_use", CALLS, "getWeather(city='Oslo')\ngetHours()"),
    "an argument that is not offered": ("tool_use", CALLS, "getForecast(town='Oslo')"),
    "a wrong value": ("tool_use", CALLS, FORECAST.replace("Oslo", "Rome") + HOURS),
    "a value of another type": ("tool_use", CALLS, FORECAST.replace("3", '"3"') + HOURS),
    "an empty value": ("tool_use", CALLS, FORECAST.replace("Oslo", "") + HOURS),
    "an argument that is missing": ("tool_use", CALLS, "getForecast(days=3)\ngetHours()"),
    "a call that is missing": ("tool_use", CALLS, FORECAST),
    "a call too many": ("tool_use", CALLS, FORECAST + HOURS + HOURS),
    "another order": ("tool_use", {**CALLS, "ordered": True}, HOURS + FORECAST),
    "a wrong value, revealed": ("tool_use", {**CALLS, REVEAL_KEY: True}, FORECAST),
    "a token as a tool's name": ("tool_use", CALLS, "Action: <|im_end|>\nAction Input: {}"),
    "instructions not followed": ("instruction_following", INSTRUCTIONS, "a, b"),
    "an empty response": ("instruction_following", INSTRUCTIONS, "<think>cut"),
}


def texts() -> dict[str, str]:
    verdicts = {
        name: load_verifier(verifier).verify(item, text)
        for name, (verifier, item, text) in CASES.items()
    }
    assert not any(verdict.success for verdict in verdicts.values())
    return {name: verdict.feedback for name, verdict in verdicts.items()}


def test_the_feedback_reads_as_it_should() -> None:
    assert texts() == json.loads(GOLDEN.read_text("utf-8"))


def test_only_revealed_feedback_holds_the_expected_answer() -> None:
    for name, text in texts().items():
        if "revealed" not in name and CASES[name][0] in ("mathematics", "tool_use"):
            assert "7" not in text
            assert "Oslo" not in text


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(texts(), indent=2) + "\n", "utf-8")
