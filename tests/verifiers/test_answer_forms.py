"""The forms that docs/verifiers.md lists as right are right, those it lists as wrong are wrong.

The page is the data, so it cannot drift. Each form is tried with every packaged item, and with the
full public sets where they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.tasks import TaskConfig, load_task
from sdpo_megatron.verifiers.answers import fences
from sdpo_megatron.verifiers.base import load_verifier

PAGE = Path(__file__).parents[2] / "docs" / "verifiers.md"
SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the full public sets are not here ({SHARED}); packaged ones are"
)
LINES = PAGE.read_text("utf-8").split("\n")
TOOL_ITEM = {
    "calls": [
        {"name": "getForecast", "arguments": {"city": ["Oslo"], "from": [3], "units": ["", None]}},
        {"name": "getHours", "arguments": {}},
    ],
    "tools": {"getForecast": ["city", "from", "units"], "getHours": []},
}


def forms(verifier: str, verdict: str) -> list[str]:
    for block in fences("\n".join(LINES)):
        if LINES[block.first_line - 1] == f"~~~~text {verifier} {verdict}":
            return [line.replace("⏎", "\n") for line in block.text.splitlines()]
    raise AssertionError(f"{PAGE} lists no forms of {verifier} that are {verdict}")


def golds(path: str | None = None) -> Iterator[int]:
    """GSM8K's answers from 3 on: 0, 1 and 2 are their own squares, factorials or halves."""
    for question in load_task(TaskConfig(name="gsm8k", path=path)).questions:
        gold = float(question.item["answer"].replace(",", ""))
        if gold == int(gold) and gold >= 3:
            yield int(gold)


def check_numbers(numbers: set[int], verdict: str) -> None:
    verify = load_verifier("mathematics").verify
    for form in forms("mathematics", verdict):
        for gold in numbers:
            response = re.sub("4[23]", lambda found: str(gold + int(found[0]) - 42), form)  # noqa: B023
            found = verify({"answer": str(gold)}, response)
            assert found.success == (verdict == "right"), (response, gold)


def choice_items(**where: Any) -> Iterator[Mapping[str, Any]]:
    """The items with their options exchanged so that B is right."""
    for subset in ("biology", "chemistry", "material"):
        config = TaskConfig(name="sciknoweval", subset=subset, **where)
        for question in load_task(config).questions:
            gold, options = question.item["answer"], dict(question.item["options"])
            if len(set(options.values())) == 4:
                options["B"], options[gold] = options[gold], options["B"]
                yield {"answer": "B", "choices": "ABCD", "options": options}


def check_choices(items: list[Mapping[str, Any]], verdict: str) -> None:
    verify = load_verifier("multiple_choice").verify
    for form in forms("multiple_choice", verdict):
        for item in items if "«" in form else items[:1]:
            response = form
            for letter, text in item["options"].items():
                response = response.replace(f"«{letter}»", text)
            assert verify(item, response).success == (verdict == "right"), (response, item)


VERDICTS = pytest.mark.parametrize("verdict", ["right", "wrong"])


@VERDICTS
@pytest.mark.parametrize(
    ("verifier", "least"), [("mathematics", 40), ("multiple_choice", 20), ("tool_use", 20)]
)
def test_there_are_many_forms_and_each_is_listed_once(
    verifier: str, least: int, verdict: str
) -> None:
    listed = forms(verifier, verdict)
    assert len(set(listed)) == len(listed) >= least


@VERDICTS
def test_forms_of_a_number(verdict: str) -> None:
    check_numbers(set(sorted(golds())[::16]) | {42}, verdict)


@VERDICTS
def test_forms_of_a_choice(verdict: str) -> None:
    check_choices(list(choice_items()), verdict)


@VERDICTS
def test_forms_of_tool_calls(verdict: str) -> None:
    verify = load_verifier("tool_use").verify
    for form in forms("tool_use", verdict):
        found = verify(TOOL_ITEM, form)
        assert found.success == (verdict == "right"), (form, found.feedback)


@needs_real_data
@pytest.mark.slow
@VERDICTS
def test_forms_of_the_numbers_of_the_whole_set(verdict: str) -> None:
    # Wrong forms take sympy's time, 0.1 s a number.
    numbers = sorted(set(golds(str(SHARED / "gsm8k"))))
    check_numbers(set(numbers if verdict == "right" else numbers[::25]), verdict)


@needs_real_data
@pytest.mark.slow
@VERDICTS
def test_forms_of_the_choices_of_the_whole_set(verdict: str) -> None:
    check_choices(list(choice_items(path=str(SHARED / "sciknoweval"))), verdict)
