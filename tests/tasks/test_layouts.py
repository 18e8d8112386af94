"""What each layout makes of its lines: prompts, prefills, items and the public half."""

from __future__ import annotations

import ast
import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron import config
from sdpo_megatron.errors import ConfigError, TaskFileError
from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks import TaskConfig, load_task
from sdpo_megatron.tasks.task import DATA
from sdpo_megatron.tasks.toolalpaca import offered_tools
from sdpo_megatron.verifiers.base import load_verifier
from sdpo_megatron.verifiers.code.asserts import split_asserts

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the full public sets are not here ({SHARED}); packaged ones are"
)


def humaneval(**settings: Any) -> tuple[Question, ...]:
    return load_task(TaskConfig(**settings)).questions


def test_humaneval_asks_in_a_fence_and_opens_one() -> None:
    (question,) = humaneval(ids=("28",))
    (message,) = question.messages
    assert message["content"] == (
        "Complete this Python function. Reply with only the code, without the docstring.\n\n"
        "```python\n"
        "from typing import List\n\n\n"
        "def concatenate(strings: List[str]) -> str:\n"
        '    """ Concatenate list of strings into a single string\n'
        "    >>> concatenate([])\n    ''\n    >>> concatenate(['a', 'b', 'c'])\n    'abc'\n"
        '    """\n```'
    )
    assert (question.prefill, question.stop) == ("```python\n", ("```",))
    assert "canonical" not in json.dumps(question.item)


def test_a_signature_prefill_ends_at_its_colon_never_in_a_line_break() -> None:
    for question in humaneval(prefill="signature"):
        code = question.prefill.removeprefix("```python\n")
        assert question.prefill.startswith("```python\n")
        assert code.endswith(":")
        assert str(question.item["prompt"]).startswith(code)
        (*_, last) = ast.parse(code + "\n    pass").body
        assert isinstance(last, ast.FunctionDef)
        assert last.name == question.item["entry_point"]


def test_no_prefill_leaves_the_turn_to_the_model_and_has_no_stop() -> None:
    (question,) = humaneval(prefill="none", limit=1)
    assert (question.prefill, question.stop) == ("", ())


def test_an_instruction_of_ones_own_replaces_the_layouts() -> None:
    (question,) = humaneval(instruction="Write it.", limit=1)
    assert question.messages[0]["content"].startswith("Write it.\n\n```python\n")


def test_the_public_half_is_seeded_by_item_and_leaves_some_hidden() -> None:
    first, again = humaneval(), humaneval()
    other = humaneval(split_seed=1)
    assert [q.item["public"] for q in first] == [q.item["public"] for q in again]
    assert [q.item["public"] for q in first] != [q.item["public"] for q in other]
    for question in first:
        total = len(split_asserts(question.item["test"]).tests)
        expected = 1 if total == 1 else min(total - 1, -(-total // 2))
        assert len(question.item["public"]) == expected
    assert all(q.item["public"] == [] for q in humaneval(public_fraction=0.0, limit=5))
    for question in humaneval(public_fraction=1.0, limit=5):
        assert len(question.item["public"]) == len(split_asserts(question.item["test"]).tests)


def test_one_item_alone_has_the_same_public_half_as_among_all() -> None:
    (alone,) = humaneval(ids=("28",))
    assert alone.item["public"] == humaneval()[28].item["public"]


def lcb_line(**changes: Any) -> dict[str, Any]:
    cases = [{"input": f"{n}\n", "output": f"{n}\n", "testtype": "stdin"} for n in range(6)]
    line = {
        "question_id": "q",
        "question_content": "Echo.",
        "starter_code": "",
        "public_test_cases": json.dumps(cases[:2]),
        "private_test_cases": base64.b64encode(
            zlib.compress(pickle.dumps(json.dumps(cases[2:])))
        ).decode(),
        "metadata": "{}",
    }
    return {**line, **changes}


def lcb(tmp_path: Path, line: dict[str, Any], **settings: Any) -> Question:
    path = tmp_path / "lcb.jsonl"
    path.write_text(json.dumps(line) + "\n")
    (question,) = load_task(TaskConfig(name="livecodebench", path=str(path), **settings)).questions
    return question


def test_livecodebench_unpacks_private_tests_and_makes_half_of_them_public(tmp_path: Path) -> None:
    item = lcb(tmp_path, lcb_line()).item
    assert [case["input"] for case in item["tests"]] == [f"{n}\n" for n in range(6)]
    assert item["public"][:2] == [0, 1]  # the examples of the statement
    assert len(item["public"]) == 4  # and two of the four private ones
    assert set(item["public"]) <= set(range(6))
    assert (item["kind"], item["entry_point"]) == ("livecodebench", "")


def test_livecodebench_asks_what_the_instruction_says_and_no_more(tmp_path: Path) -> None:
    statement = lcb_line()["question_content"].strip()
    asked = lcb(tmp_path, lcb_line()).messages[0]["content"]
    assert asked.endswith(statement)
    assert "Reply with only the code." in asked.removesuffix(statement)
    own = lcb(tmp_path, lcb_line(), instruction="Think first.", prefill="none")
    assert own.messages[0]["content"] == f"Think first.\n\n{statement}"
    assert (own.prefill, own.stop) == ("", ())


def test_livecodebench_as_the_recipe_asks_it_invites_an_outline_and_a_block(tmp_path: Path) -> None:
    recipe = config.load(["task=livecodebench"]).task
    question = lcb(tmp_path, lcb_line(), instruction=recipe.instruction, prefill=recipe.prefill)
    content = question.messages[0]["content"]
    assert "only the code" not in content
    assert "outline" in content
    assert "code block" in content
    assert "\n" not in content.removesuffix(lcb_line()["question_content"].strip()).strip()
    assert (question.prefill, question.stop) == ("", ())


def test_without_hidden_tests_the_public_ones_decide(tmp_path: Path) -> None:
    """As in the paper's training: the half that feedback may quote, no more, all of it public."""
    whole, public = (lcb(tmp_path, lcb_line(), hidden_tests=flag).item for flag in (True, False))
    assert public["tests"] == [whole["tests"][index] for index in whole["public"]]
    assert public["public"] == [*range(4)]
    line = lcb_line(public_test_cases="[]")
    with pytest.raises(TaskFileError, match="has no public tests"):
        lcb(tmp_path, line, hidden_tests=False, public_fraction=0.0)
    with pytest.raises(ConfigError, match="humaneval runs the whole check"):
        humaneval(hidden_tests=False, limit=1)


def test_livecodebench_functions_are_called_by_their_name(tmp_path: Path) -> None:
    cases = json.dumps([{"input": "1", "output": "1", "testtype": "functional"}])
    functional = {
        "public_test_cases": cases,
        "private_test_cases": cases,
        "metadata": '{"func_name": "same"}',
    }
    method = "class Solution:\n    def same(self, n: int) -> int:\n        "
    question = lcb(tmp_path, lcb_line(starter_code=method, **functional))
    assert question.item["entry_point"] == "Solution.same"
    assert "class Solution:" in question.messages[0]["content"]
    plain = lcb(tmp_path, lcb_line(starter_code="def same(n):\n", **functional))
    assert plain.item["entry_point"] == "same"


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/sdpo-this-must-not-exist"),))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    packed = base64.b64encode(zlib.compress(pickle.dumps(Bomb()))).decode()
    with pytest.raises(TaskFileError, match=r"lcb\.jsonl:1: .*only text is allowed"):
        lcb(tmp_path, lcb_line(private_test_cases=packed))
    assert not Path("/tmp/sdpo-this-must-not-exist").exists()


def test_toolalpaca_knows_what_was_offered_and_what_is_optional() -> None:
    *_, last = load_task(TaskConfig(name="toolalpaca")).questions
    assert set(last.item["tools"]) == {"searchBooks", "reserveBook", "renewLoan", "getOpeningHours"}
    assert last.item["tools"]["reserveBook"] == ["bookId", "readerId"]
    assert [(c["name"], c["optional"]) for c in last.item["calls"]] == [
        ("reserveBook", False),
        ("getOpeningHours", True),
    ]
    assert last.stop == ("\nObservation:",)
    assert offered_tools("f: does\nParameters: {broken\ng: does\nParameters: {}") == {"g": []}


def test_an_item_whose_call_is_not_offered_is_left_out_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (DATA / "toolalpaca" / "own.jsonl").read_text("utf-8").splitlines()
    unanswerable = {**json.loads(lines[0]), "answer": '[{"Action": "f", "Action_Input": "{}"}]'}
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join([lines[1], json.dumps(unanswerable)]))
    task = load_task(TaskConfig(name="toolalpaca", path=str(path)))
    assert [q.id for q in task.questions] == ["1"]
    (reason,) = task.left_out
    assert reason.startswith(
        f"{path}:2: the answer calls f, but the prompt offers only getForecast"
    )
    assert "1 of 2 items were left out" in caplog.text
    path.write_text(json.dumps(unanswerable))
    with pytest.raises(TaskFileError, match="the answer calls f"):
        load_task(TaskConfig(name="toolalpaca", path=str(path)))


def test_sciknoweval_knows_what_each_letter_stands_for() -> None:
    first, *_ = load_task(TaskConfig(name="sciknoweval", subset="biology")).questions
    assert first.item["options"] == {
        "A": "The relation is activation.",
        "B": "The relation is binding.",
        "C": "The relation is ptmod.",
        "D": "The relation is post-translational.",
    }


def test_gsm8k_takes_the_number_after_the_mark() -> None:
    first, *_ = load_task(TaskConfig(name="gsm8k")).questions
    assert (first.id, first.item["answer"]) == ("gsm8k/0", "72")
    assert first.messages[0]["content"].endswith("put the final answer inside \\boxed{}.")


def test_ifeval_drops_the_nulls_of_the_public_file() -> None:
    questions = {q.id: q for q in load_task(TaskConfig(name="ifeval")).questions}
    assert questions["ifeval/3"].item["kwargs"][0] == {"keywords": ["arch", "river"]}


@needs_real_data
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("subset", ["biology", "chemistry", "material"])
def test_the_full_science_sets_load_and_their_answers_are_right(subset: str, split: str) -> None:
    path = str(SHARED / "sciknoweval")
    task = load_task(TaskConfig(name="sciknoweval", path=path, subset=subset, split=split))
    verify = load_verifier(task.verifier_name).verify
    numbers = {"biology": (450, 50), "chemistry": (1890, 210), "material": (841, 94)}
    assert len(task.questions) == numbers[subset][split == "test"]
    for question in task.questions:
        for letter in "ABCD":
            right = letter == question.item["answer"]
            assert verify(question.item, f"<answer>{letter}</answer>").success == right


@needs_real_data
def test_the_full_gsm8k_loads_and_its_solutions_are_right() -> None:
    task = load_task(TaskConfig(name="gsm8k", path=str(SHARED / "gsm8k")))
    verify = load_verifier(task.verifier_name).verify
    lines = (SHARED / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines()
    assert len(task.questions) == len(lines) == 7473
    for question, line in zip(task.questions, lines, strict=True):
        assert verify(question.item, json.loads(line)["answer"]).success, question.id
        wrong = f"\\boxed{{{question.item['answer']}1}}"
        assert not verify(question.item, wrong).success, question.id


@needs_real_data
def test_the_real_tool_calls_load_and_their_answers_are_right_in_any_layout() -> None:
    task = load_task(TaskConfig(name="toolalpaca", path=str(SHARED / "tooluse")))
    verify = load_verifier(task.verifier_name).verify
    assert len(task.questions) == 40
    lines = (SHARED / "tooluse" / "train.jsonl").read_text("utf-8").splitlines()
    for question, line in zip(task.questions, lines, strict=True):
        calls = [
            (call["Action"].removeprefix("[Optional]"), call["Action_Input"])
            for call in json.loads(json.loads(line)["answer"])
        ]
        react = [f"Action: {name}\nAction Input: {text}" for name, text in calls]
        assert verify(question.item, "\n".join(react)).success
        assert verify(question.item, "\n".join(react[::-1])).success
        assert verify(question.item, json.loads(line)["answer"].replace("[Optional]", "")).success
        assert not verify(question.item, "\n".join([*react, react[0]])).success
        assert {name for name, _ in calls} <= set(question.item["tools"])
