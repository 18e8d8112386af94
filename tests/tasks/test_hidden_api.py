"""hidden_api: nothing in a question tells what its tests look for; the feedback does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Question
from sdpo_megatron.sandbox import Sandbox, SandboxConfig
from sdpo_megatron.tasks import TaskConfig, load_task
from sdpo_megatron.tasks.hidden_api import generator
from sdpo_megatron.tasks.hidden_api.functions import FUNCTIONS
from sdpo_megatron.tasks.task import DATA
from sdpo_megatron.verifiers.code import CodeVerifier

BY_NAME = {function.name: function for function in FUNCTIONS}


def lines(split: str) -> list[dict[str, Any]]:
    return list(generator.lines(split))


def test_the_data_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    generator.write(tmp_path)
    for split in ("train", "test"):
        packaged = (DATA / "hidden_api" / f"{split}.jsonl").read_bytes()
        assert packaged == (tmp_path / f"{split}.jsonl").read_bytes()


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_question_tells_what_it_hides(split: str) -> None:
    for line in lines(split):
        function = BY_NAME[line["entry_point"]]
        hidden = {"name": [function.name], "arguments": [], "exception": []}[line["hides"]]
        if line["hides"] == "exception":
            assert function.rejects is not None
            hidden = [function.rejects[2]]
        for word in hidden:
            assert word.lower() not in line["question"].lower(), line["task_id"]
        if line["hides"] == "arguments":  # a common word may occur, never all of them
            found = [re.search(rf"\b{word}\b", line["question"]) for word in function.keywords]
            assert not all(found), line["task_id"]


def test_held_out_questions_are_about_the_same_functions_in_other_words() -> None:
    train, test = lines("train"), lines("test")
    assert {(x["entry_point"], x["hides"]) for x in train} == {
        (x["entry_point"], x["hides"]) for x in test
    }
    assert not {x["question"] for x in train} & {x["question"] for x in test}
    assert len({x["question"] for x in train}) == len(train) == 384
    assert len(test) == 128
    assert [x["level"] for x in train] == sorted(x["level"] for x in train)


def raised_by(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return ""


def test_the_library_itself_passes_every_test_and_by_another_argument_none() -> None:
    for line in lines("train") + lines("test"):
        function = BY_NAME[line["entry_point"]]

        def right(*given: Any, function: Any = function, hides: str = line["hides"], **named: Any):
            if named:
                assert tuple(named) == function.keywords
            if hides == "exception" and given == function.rejects[1]:
                raise __builtins__[function.rejects[2]]
            return function.value(*given, *named.values())

        space: dict[str, Any] = {"raised_by": raised_by}
        exec(line["test"], space)
        space["check"](right)
        asserts = line["test"].count("assert ")
        assert asserts == generator.NUM_TESTS
        if line["hides"] == "exception":
            with pytest.raises((AssertionError, LookupError, ValueError, ZeroDivisionError)):
                space["check"](function.value)


def question(identifier: str) -> Question:
    return load_task(TaskConfig(name="hidden_api", ids=(identifier,))).questions[0]


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        yield CodeVerifier(sandbox)


def test_a_guessed_name_fails_and_the_feedback_is_a_callers_error(verifier: CodeVerifier) -> None:
    asked = question("twice_of/name/train0")
    assert asked.prefill == "```python\ndef"
    wrong = verifier.verify(asked.item, " double(n):\n    return 2 * n\n")
    assert not wrong.success
    first = min(asked.item["public"])
    call = asked.item["test"].splitlines()[1 + first].strip().replace("candidate", "twice_of")
    assert wrong.feedback == f"{call}\nNameError: name 'twice_of' is not defined. Define twice_of."
    assert verifier.verify(asked.item, " twice_of(n):\n    return 2 * n\n").success
    whole = "def twice_of(n):\n    return 2 * n"  # the opening said again
    assert not verifier.verify(asked.item, whole).success


def test_hidden_arguments_are_told_by_the_error_of_the_call(verifier: CodeVerifier) -> None:
    asked = question("stamp/arguments/train0")
    wrong = verifier.verify(asked.item, " stamp(text, times):\n    return text * times\n")
    assert not wrong.success
    assert "stamp() got an unexpected keyword argument 'ink'" in wrong.feedback
    assert "Input: stamp(ink=" in wrong.feedback
    assert ", copies=" in wrong.feedback
    assert verifier.verify(asked.item, " stamp(ink, copies):\n    return ink * copies\n").success


@pytest.mark.parametrize("how", ["raise ValueError", "return None", "raise type('X', (), {})"])
def test_a_hidden_exception_is_told_by_what_callers_expect(
    verifier: CodeVerifier, how: str
) -> None:
    asked = question("top_of/exception/train0")
    code = " top_of(x):\n    if not x:\n        {how}\n    return max(x)\n"
    wrong = verifier.verify(asked.item, code.format(how=how))
    assert not wrong.success
    assert "raised_by(lambda: top_of([]))) == (" in wrong.feedback
    assert "'LookupError')" in wrong.feedback
    assert "candidate" not in wrong.feedback
    assert verifier.verify(asked.item, code.format(how="raise LookupError('none')")).success


def test_a_signature_would_tell() -> None:
    with pytest.raises(ConfigError, match="would tell what hidden_api hides"):
        load_task(TaskConfig(name="hidden_api", prefill="signature", limit=1))


def test_every_packaged_question_can_be_judged() -> None:
    assert len(load_task(TaskConfig(name="hidden_api")).questions) == 384
    assert len(load_task(TaskConfig(name="hidden_api", split="test")).questions) == 128
