"""Writes the data files: ``python -m sdpo_megatron.tasks.hidden_api.generator FOLDER``.

Every function is asked for under its hidden name; one whose callers name its arguments, or expect
an exception, also under its open name with that hidden. Training and held-out questions are about
the same functions in other words, so what was learnt of the library shows and not the sentence.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdpo_megatron.tasks.hidden_api.functions import FUNCTIONS, Function

FRAMES = {
    "train": (
        "Write a short Python function that returns {way}.",
        "Our library needs a Python function. It returns {way}. Write it.",
        "Give me a Python function which returns {way}.",
    ),
    "test": (
        "We miss a small function in Python: what it returns is {way}.",
        "Please implement this in Python: a function whose result is {way}.",
    ),
}
WAYS = {"train": (0, 1), "test": (2,)}
ENDING = "Reply with only the code."
NUM_TESTS = 4


def lines(split: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The questions of a split, train or test, in order of difficulty.

    The calls of their tests are drawn from `seed` and the question's id, so both splits together
    never hold the same tests in the same order.
    """
    for function in sorted(FUNCTIONS, key=lambda f: f.level):
        hidden = ["name"]
        hidden += ["arguments"] if function.keywords else []
        hidden += ["exception"] if function.rejects else []
        for hides in hidden:
            number = 0
            for way in WAYS[split]:
                for frame in FRAMES[split]:
                    identifier = f"hidden_api/{function.name}/{hides}/{split}{number}"
                    yield _line(function, hides, identifier, frame, function.ways[way], seed)
                    number += 1


def _line(
    function: Function, hides: str, identifier: str, frame: str, way: str, seed: int
) -> dict[str, Any]:
    question = frame.format(way=way)
    if hides != "name":
        question += f" Call it `{function.name}`."
    if hides == "arguments":
        question += " Choose a good name for each argument."
    if hides == "exception":
        assert function.rejects is not None
        question += f" Given {function.rejects[0]}, it raises an exception."
    draw = random.Random(f"{seed}/{identifier}")
    return {
        "task_id": identifier,
        "question": f"{question} {ENDING}",
        "entry_point": function.name,
        "test": _check(function, hides, draw),
        "hides": hides,
        "level": function.level,
    }


def _check(function: Function, hides: str, draw: random.Random) -> str:
    """``check(candidate)`` with `NUM_TESTS` asserts, each of which needs what is hidden."""
    calls: dict[str, str] = {}
    while len(calls) < NUM_TESTS:
        arguments = [one(draw) for one in function.draws]
        names = function.keywords if hides == "arguments" else ("",) * len(arguments)
        call = ", ".join(
            f"{name}={value!r}" if name else repr(value)
            for name, value in zip(names, arguments, strict=True)
        )
        calls[call] = repr(function.value(*arguments))
    tests = [(f"candidate({call})", value) for call, value in calls.items()]
    if hides == "exception":
        assert function.rejects is not None
        _, bad, exception = function.rejects
        raised = f"raised_by(lambda: candidate({', '.join(map(repr, bad))}))"
        tests = [(f"({call}, {raised})", f"({value}, {exception!r})") for call, value in tests]
    return "def check(candidate):\n" + "\n".join(
        f"    assert {got} == {expected}" for got, expected in tests
    )


def write(folder: Path, seed: int = 0) -> None:
    """train.jsonl and test.jsonl in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in FRAMES:
        text = "".join(json.dumps(line) + "\n" for line in lines(split, seed))
        (folder / f"{split}.jsonl").write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
