"""load_task: picking, order, and errors that name file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError, TaskFileError
from sdpo_megatron.tasks import TaskConfig, load_task
from sdpo_megatron.tasks.task import LAYOUTS
from sdpo_megatron.verifiers.base import REVEAL_KEY, import_path_of

GOOD: dict[str, dict[str, Any]] = {
    "humaneval": {
        "task_id": "Own/0",
        "prompt": 'def one():\n    """One."""\n',
        "entry_point": "one",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
    },
    "livecodebench": {
        "question_id": "own",
        "question_content": "Print 1.",
        "starter_code": "",
        "public_test_cases": '[{"input": "", "output": "1", "testtype": "stdin"}]',
        "private_test_cases": "[]",
        "metadata": "{}",
    },
    "sciknoweval": {"idx": 1, "kind": "mcq", "system": "s", "prompt": "p", "answer": "A"},
    "toolalpaca": {"idx": 1, "prompt": "p", "answer": '[{"Action": "f", "Action_Input": "{}"}]'},
    "gsm8k": {"question": "q", "answer": "so\n#### 7"},
    "ifeval": {
        "key": 1,
        "prompt": "p",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{"num_words": None}],
    },
    "hidden_api": {
        "task_id": "own/0",
        "question": "Write a function that returns 1.",
        "entry_point": "one",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
    },
}
# Layout, what is changed in a good line, and what the error must say after file:line.
MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("humaneval", {"prompt": None}, "missing key 'prompt'"),
    ("humaneval", {"prompt": "def two():\n    pass\n"}, "does not define the entry point 'one'"),
    ("humaneval", {"prompt": "def one(:"}, "key 'prompt' is not Python"),
    ("humaneval", {"test": "def check(candidate:"}, "key 'test'"),
    ("humaneval", {"test": "def check(candidate):\n    pass"}, "asserts nothing"),
    ("humaneval", {"task_id": "  "}, "key 'task_id' is blank"),
    ("humaneval", {"entry_point": 5}, "key 'entry_point': expected str, got int '5'"),
    ("livecodebench", {"public_test_cases": "[]"}, "has no test cases"),
    ("livecodebench", {"private_test_cases": "nonsense"}, "neither JSON nor base64"),
    ("livecodebench", {"private_test_cases": '[{"input": 1}]'}, "case 1: expected the texts"),
    (
        "livecodebench",
        {"public_test_cases": '[{"input": "", "output": "", "testtype": "functional"}]'},
        "needs func_name",
    ),
    (
        "livecodebench",
        {"private_test_cases": '[{"input": "", "output": "", "testtype": "functional"}]'},
        r"expected one testtype, stdin or functional, got \['functional', 'stdin'\]",
    ),
    ("sciknoweval", {"answer": "E"}, "expected A, B, C or D, got 'E'"),
    ("sciknoweval", {"kind": "open"}, "only multiple choice"),
    ("sciknoweval", {"idx": None}, "missing key 'idx'"),
    ("toolalpaca", {"answer": "[]"}, "at least one call"),
    ("toolalpaca", {"answer": "[{"}, "a text that is not JSON"),
    (
        "toolalpaca",
        {"answer": '[{"Action": "f", "Action_Input": "{"}]'},
        "call 1: .*not valid JSON",
    ),
    ("toolalpaca", {"answer": "[5]"}, "key 'answer', call 1"),
    ("hidden_api", {"question": None}, "missing key 'question'"),
    (
        "hidden_api",
        {"entry_point": "not a name"},
        "key 'entry_point': 'not a name' is not the name",
    ),
    ("hidden_api", {"test": "def check(candidate):\n    pass"}, "asserts nothing"),
    ("gsm8k", {"answer": "7"}, "expected it to end in '#### <number>'"),
    ("gsm8k", {"question": ["q"]}, "key 'question': expected str, got list"),
    ("ifeval", {"kwargs": []}, "1 instructions but 0 kwargs"),
    ("ifeval", {"kwargs": [5]}, "expected a list of objects"),
]


def write(path: Path, *lines: Any) -> str:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return str(path)


def test_every_layout_is_covered_here() -> None:
    assert set(GOOD) == set(LAYOUTS) == {name for name, _, _ in MALFORMED}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_packaged_questions_and_a_known_verifier(name: str) -> None:
    task = load_task(TaskConfig(name=name))
    assert import_path_of(task.verifier_name)
    assert len(task.questions) >= 4
    assert len({q.id for q in task.questions}) == len(task.questions)
    for question in task.questions:
        assert question.task == name
        assert question.messages[-1]["role"] == "user"
        assert question.item[REVEAL_KEY] is False
        json.dumps(question.item)  # it must pass through a pipe and over HTTP


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_good_line_of_ones_own_file_is_read(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", "", GOOD[name])
    (question,) = load_task(
        TaskConfig(name=name, path=path, feedback_may_reveal_answer=True)
    ).questions
    assert question.item[REVEAL_KEY] is True


@pytest.mark.parametrize(("name", "change", "message"), MALFORMED)
def test_a_malformed_line_is_named_by_file_and_line(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    ids = {"task_id": "other", "question_id": "other", "idx": 9, "key": 9}
    first = {**GOOD[name], **{k: v for k, v in ids.items() if k in GOOD[name]}}
    path = write(tmp_path / "own.jsonl", first, "", {**GOOD[name], **change})
    with pytest.raises(TaskFileError, match=rf"own\.jsonl:3: .*{message}") as caught:
        load_task(TaskConfig(name=name, path=path))
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not JSON: .* at column 2"),
        ("[1]", "expected a JSON object, got list"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        (GOOD["sciknoweval"], "the id '1' is already used by an earlier line"),
    ],
)
def test_a_broken_line_is_named_whatever_the_layout(
    line: Any, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "own.jsonl", GOOD["sciknoweval"], line)
    with pytest.raises(TaskFileError, match=rf"own\.jsonl:2: ({message})"):
        load_task(TaskConfig(name="sciknoweval", path=path))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    def load(path: Path) -> None:
        load_task(TaskConfig(name="gsm8k", path=str(path)))

    with pytest.raises(TaskFileError, match=r"missing\.jsonl:1: there is no such file"):
        load(tmp_path / "missing.jsonl")
    with pytest.raises(TaskFileError, match=r"train\.jsonl:1: there is no such file"):
        load(tmp_path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(TaskFileError, match=r"empty\.jsonl:1: holds no questions"):
        load(empty)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD["gsm8k"]).encode() + b'\n{"question": "\xe9"}\n')
    with pytest.raises(TaskFileError, match=r"latin\.jsonl:2: not UTF-8"):
        load(latin)
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(json.dumps(GOOD["gsm8k"]).encode() * 50)[:-12])
    with pytest.raises(TaskFileError, match=r"torn\.jsonl\.gz:\d+: cannot be read"):
        load(torn)


def test_ids_pick_and_order_and_limit_comes_after(tmp_path: Path) -> None:
    def ids(**settings: Any) -> list[str]:
        return [q.id for q in load_task(TaskConfig(**settings)).questions]

    picked = ["HumanEval/28", "HumanEval/22", "HumanEval/35", "HumanEval/34"]
    assert ids(ids=("28", "HumanEval/22", "35", "34")) == picked
    assert ids(ids=[28, 22, 35, 34]) == picked  # as YAML gives them
    assert ids(ids=("28", "22", "35"), limit=2) == picked[:2]
    assert len(ids()) == 164
    assert ids(limit=1) == ["HumanEval/0"]
    with pytest.raises(ConfigError, match="no question '164' among its 164; the nearest is"):
        ids(ids=("164",))


def test_folders_and_gzip_are_read(tmp_path: Path) -> None:
    (tmp_path / "chemistry").mkdir()
    write(tmp_path / "chemistry" / "test.jsonl", GOOD["sciknoweval"])
    config = TaskConfig(name="sciknoweval", path=str(tmp_path), subset="chemistry", split="test")
    assert load_task(config).path == tmp_path / "chemistry" / "test.jsonl"
    packed = tmp_path / "one.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(GOOD["gsm8k"]).encode()))
    assert load_task(TaskConfig(name="gsm8k", path=str(packed))).questions[0].item["answer"] == "7"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "humanevel"}, "unknown task 'humanevel'; did you mean 'humaneval'"),
        ({"name": "xyz"}, "unknown task 'xyz'; known are humaneval"),
        ({"name": "sdpo_megatron.tasks.gsm8k:NOTHING"}, "cannot import"),
        ({"name": "sdpo_megatron.tasks.gsm8k:question"}, "expected a tasks.task.Layout"),
        (
            {"name": "sciknoweval", "subset": "physics"},
            r"physics does not come with the package .*a folder with physics/train",
        ),
        (
            {"name": "sciknoweval", "subset": "maths"},
            "chemistry, biology, material, physics; got 'maths'",
        ),
        ({"verifier": "cod"}, "unknown verifier 'cod'"),
        ({"public_fraction": 1.5}, "public_fraction=1.5: must be at most 1"),
        ({"limit": 0}, "limit=0: must be at least 1"),
        ({"prefill": "fances"}, "prefill=fances: expected one of fence, signature, none"),
        ({"ids": ("1", "1")}, "given twice: 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_task(TaskConfig(**settings))


def test_a_layout_of_ones_own_works_by_import_path(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", GOOD["gsm8k"])
    name = "sdpo_megatron.tasks.gsm8k:LAYOUT"
    task = load_task(TaskConfig(name=name, path=path, verifier="multiple_choice"))
    assert (task.name, task.verifier_name) == (name, "multiple_choice")
