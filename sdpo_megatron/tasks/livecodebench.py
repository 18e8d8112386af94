"""LiveCodeBench v6 (arXiv 2403.07974): programs judged on standard input, functions on arguments.

Layout: ``question_id, question_title, question_content, starter_code, public_test_cases,
private_test_cases, metadata``. Test cases are a JSON list of ``{"input", "output", "testtype":
"stdin" | "functional"}``; private ones usually are base64(zlib(pickle(that text))).

The public tests here are a random half (`public_fraction`) of the private ones, as in the SDPO
paper; the examples of the layout's own public_test_cases are in the problem statement and always
public.

Item, for the code verifier:
    kind: ``livecodebench``.
    id: The question's id, for messages.
    entry_point: "" for programs on standard input, else ``Solution.method`` or a function's name.
    starter_code: As given to the model.
    tests: ``[{"input", "output"}]``, the examples first.
    public: Indices of the tests that feedback may quote.
    opened_fence: The prompt ends inside a code fence.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from typing import Any, NoReturn

from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.lines import Line
from sdpo_megatron.tasks.task import DATA, Layout, item_options, public_indices

MAX_TEST_BYTES = 512 * 2**20  # of one question, unpacked; the largest of v6 is far below
FENCE_OPEN, FENCE_CLOSE = "```python\n", "```"
STDIN = (
    "Write a Python program that solves this problem. "
    "It reads standard input and prints to standard output. Reply with only the code."
)
FUNCTIONAL = (
    "Write a Python solution of this problem. Start from the given code and keep its names. "
    "Reply with only the code."
)


class _TextOnly(pickle.Unpickler):
    """Reads the text inside a pickle and nothing else: a task file must not be able to run code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only text is allowed")


def question(line: Line, config: TaskConfig) -> Question:
    """The instruction, the statement, any starter code: nothing else. The assistant's turn opens
    with a code fence unless `config.prefill` is none.
    """
    identifier = line.text("question_id")
    examples, tests = _cases(line, "public_test_cases"), _cases(line, "private_test_cases")
    kinds = {case["testtype"] for case in (*examples, *tests)}
    if not tests and not examples:
        line.fail("has no test cases")
    if len(kinds) != 1 or not kinds <= {"stdin", "functional"}:
        line.fail(f"test cases: expected one testtype, stdin or functional, got {sorted(kinds)}")
    kind = kinds.pop()
    starter: str = line.get("starter_code", default="")
    entry_point = _entry_point(line, starter) if kind == "functional" else ""
    drawn = public_indices(len(tests), identifier, config)
    if kind == "functional":
        _check_values(line, (*examples, *tests))
    if not config.hidden_tests:
        tests, drawn = [tests[index] for index in drawn], [*range(len(drawn))]
        if not tests and not examples:
            line.fail("has no public tests: raise task.public_fraction, or set task.hidden_tests")
    return Question(
        id=identifier,
        task=config.name,
        messages=(
            {
                "role": "user",
                "content": _prompt(line.text("question_content"), starter, kind, config),
            },
        ),
        prefill="" if config.prefill == "none" else FENCE_OPEN,
        stop=() if config.prefill == "none" else (FENCE_CLOSE,),
        item={
            "kind": "livecodebench",
            "id": identifier,
            "entry_point": entry_point,
            "starter_code": starter,
            "tests": [{"input": c["input"], "output": c["output"]} for c in (*examples, *tests)],
            "opened_fence": config.prefill != "none",
            "public": [*range(len(examples)), *(len(examples) + index for index in drawn)],
            **item_options(config),
        },
    )


def _check_values(line: Line, cases: tuple[dict[str, str], ...]) -> None:
    """A function's test is one JSON value a line of input, and one of output."""
    for number, case in enumerate(cases, start=1):
        try:
            json.loads(case["output"])
            for argument in filter(str.strip, case["input"].split("\n")):
                json.loads(argument)
        except (ValueError, RecursionError) as error:
            line.fail(f"test case {number}: not JSON, as a functional test must be: {error}")


def _entry_point(line: Line, starter: str) -> str:
    name = str(line.json("metadata", dict).get("func_name") or "")
    if not name:
        line.fail("key 'metadata': a functional question needs func_name")
    return f"Solution.{name}" if "class Solution" in starter else name


def _prompt(statement: str, starter: str, kind: str, config: TaskConfig) -> str:
    parts = [config.instruction or (STDIN if kind == "stdin" else FUNCTIONAL), statement.strip()]
    if starter.strip():
        parts.append(f"{FENCE_OPEN}{starter.rstrip()}\n{FENCE_CLOSE}")
    return "\n\n".join(parts)


def _cases(line: Line, key: str) -> list[dict[str, str]]:
    stored: Any = line.get(key, (str, list), default=[])
    if isinstance(stored, str):
        stored = _unpacked(line, key, stored)
    if not isinstance(stored, list):
        line.fail(f"key {key!r}: expected a list of test cases, got {type(stored).__name__}")
    for number, case in enumerate(stored, start=1):
        if not isinstance(case, dict) or not all(
            isinstance(case.get(k), str) for k in ("input", "output", "testtype")
        ):
            line.fail(f"key {key!r}, case {number}: expected the texts input, output and testtype")
    return stored


def _unpacked(line: Line, key: str, text: str) -> Any:
    """JSON as it stands, or base64(zlib(pickle(JSON)))."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # the packed form
    try:
        unpacker = zlib.decompressobj()
        packed = unpacker.decompress(base64.b64decode(text, validate=True), MAX_TEST_BYTES)
        if unpacker.unconsumed_tail:
            line.fail(f"key {key!r} unpacks to more than {MAX_TEST_BYTES} bytes")
        return json.loads(_TextOnly(io.BytesIO(packed)).load())
    except (
        binascii.Error,
        zlib.error,
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        RecursionError,
    ) as error:
        line.fail(f"key {key!r} is neither JSON nor base64(zlib(pickle(JSON))): {error}")
    except (
        AttributeError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
    ) as error:  # what a broken pickle raises
        line.fail(f"key {key!r} holds a broken pickle: {type(error).__name__}")


LAYOUT = Layout(
    question=question,
    verifier="code",
    packaged=lambda config: DATA / "livecodebench" / "own.jsonl",
)
