"""Mistakes in an item's tests are found when the task is loaded, by file and line; prompts of any
form work, and none of it runs outside the sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import SandboxRefused, TaskFileError
from sdpo_megatron.sandbox import Sandbox, SandboxConfig
from sdpo_megatron.tasks import TaskConfig, load_task
from sdpo_megatron.verifiers.base import BadItem
from sdpo_megatron.verifiers.code import CodeVerifier, rehearsal

PROMPT = 'def add(a, b):\n    """Add."""\n'
TEST = "def check(candidate):\n    assert candidate(1, 2) == 3\n"


def load(tmp_path: Path, *changes: dict[str, str]) -> Any:
    """A task file of one good line and a line for each of `changes`."""
    good = {"task_id": "0", "prompt": PROMPT, "entry_point": "add", "test": TEST}
    lines = [good, *({**good, "task_id": str(n), **new} for n, new in enumerate(changes, 1))]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_task(TaskConfig(path=str(path)))


BROKEN = {
    "a name that is nowhere": ("    assert candidate(1, 2) == missing\n", "name 'missing'"),
    "a module that is nowhere": (
        "    import missing\n    assert candidate(1, 2) == 3\n",
        "missing",
    ),
    "an error before the call": ("    assert candidate([][0], 2) == 3\n", "IndexError"),
    "a check of its own that fails": ("    assert len('x') == 2\n", "before it calls"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tests_are_named_by_file_and_line(tmp_path: Path, name: str) -> None:
    body, words = BROKEN[name]
    with pytest.raises(TaskFileError, match=rf"own\.jsonl:3: key 'test': .*{words}"):
        load(tmp_path, {}, {"test": f"def check(candidate):\n{body}"})


def test_tests_without_an_end_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_LIMITS", {"cpu_s": 0.5, "wall_s": 20.0})
    body = "    for n in iter(int, 1): pass\n    assert candidate(1, 2) == 3\n"
    with pytest.raises(TaskFileError, match=r"own\.jsonl:2: .* do not end .*\(cpu_time\)"):
        load(tmp_path, {"test": f"def check(candidate):\n{body}"})


def test_where_nothing_can_be_confined_they_are_compiled_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise SandboxRefused("not here")

    monkeypatch.setattr(Sandbox, "start", refuse)
    marker = tmp_path / "ran"
    test = f"open({str(marker)!r}, 'w')\n{TEST}"
    assert len(load(tmp_path, {"test": test}).questions) == 2
    assert not marker.exists()
    with pytest.raises(TaskFileError, match=r"own\.jsonl:2: key 'test'"):
        load(tmp_path, {"test": f"{TEST}    assert candidate(1, 2) == (yield) or return\n"})


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        yield CodeVerifier(sandbox)


@pytest.mark.parametrize(
    "prompt",
    [
        PROMPT,
        "def add(a, b):\n",
        "def add(a, b):",
        "def add(a, b):\n    # adds\n",
        "def add(a, b):\n\t'''Add.'''\n",
        'def add(a, b):\n    """Add."""\n    # your code\n',
        'import math\n\ndef add(a, b):\n    r"""Add."""\n\n',
        "def helper(a):\n    return a\n\ndef add(a, b) -> int:\n",
        "X = 1\ndef add(\n    a,\n    b,\n):\n    'Add.'\n",
    ],
)
def test_prompts_of_any_form(tmp_path: Path, verifier: CodeVerifier, prompt: str) -> None:
    item = load(tmp_path, {"prompt": prompt}).questions[1].item
    indent = "\t" if "\t" in prompt else "    "
    assert verifier.verify(item, f"{indent}return a + b").success
    assert verifier.verify(item, "def add(a, b): return a + b").success
    assert verifier.verify(item, f"{indent}return a - b").reward == 0.0


def test_a_service_refuses_broken_tests_before_anything_has_run(verifier: CodeVerifier) -> None:
    item = {
        "kind": "humaneval",
        "prompt": PROMPT,
        "entry_point": "add",
        "test": "import missing\n" + TEST,
        "public": [0],
    }
    for response in ("    return a + b", "    return 0", "import os; os._exit(0)\ndef add(): 0"):
        with pytest.raises(BadItem, match="ModuleNotFoundError: No module named 'missing'"):
            verifier.verify(item, response)


def test_functional_tests_that_are_not_json_are_named(tmp_path: Path) -> None:
    case = {"input": "[1", "output": "1", "testtype": "functional"}
    line = {
        "question_id": "q",
        "question_content": "Same.",
        "starter_code": "def same(x):\n",
        "public_test_cases": json.dumps([case]),
        "private_test_cases": "[]",
        "metadata": '{"func_name": "same"}',
    }
    path = tmp_path / "lcb.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(TaskFileError, match=r"lcb\.jsonl:1: test case 1: not JSON"):
        load_task(TaskConfig(name="livecodebench", path=str(path)))
