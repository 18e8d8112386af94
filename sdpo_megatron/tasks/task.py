"""Task and `load_task`: from a TaskConfig to Questions."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import ConfigError, TaskFileError
from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.lines import LeftOut, Line, read_lines
from sdpo_megatron.tasks.tool import with_tool
from sdpo_megatron.verifiers.base import REVEAL_KEY, import_path_of
from sdpo_megatron.verifiers.code.asserts import public_split

_log = logging.getLogger(__name__)
DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one public data layout becomes questions.

    Attributes:
        question: Makes a Question of one line; calls `line.fail` on what it cannot use, and
            `line.leave_out` where the item is well formed but no answer to it can be right.
        verifier: Name of the verifier that judges it.
        packaged: File to read when the config gives no path; called with the config.
        id_prefix: Put before a bare id, e.g. ``HumanEval/``.
        check: Looks at all picked questions at once, for what is costly to find one by one; calls
            `line.fail` like `question`.
    """

    question: Callable[[Line, TaskConfig], Question]
    verifier: str
    packaged: Callable[[TaskConfig], Path]
    id_prefix: str = ""
    check: Callable[[Sequence[tuple[Line, Question]]], None] | None = None


LAYOUTS: dict[str, str] = {
    name: f"sdpo_megatron.tasks.{name}:LAYOUT"
    for name in (
        "humaneval",
        "livecodebench",
        "sciknoweval",
        "toolalpaca",
        "gsm8k",
        "ifeval",
        "hidden_api",
    )
}
"""Name -> ``module:LAYOUT``. Your own layout needs no entry: its import path works as a name."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The questions of one task, in order, and the name of the verifier that judges them.

    Attributes:
        name: The layout's name.
        questions: At least one; ids are unique.
        verifier_name: For `verifiers.base.load_verifier`.
        path: The file they came from.
        left_out: Items of the file that nobody can answer, each as ``file:line: why``. They are
            logged as a warning, too.
        difficulties: By question id, what the file's ``difficulty`` or ``level`` says.
    """

    name: str
    questions: tuple[Question, ...]
    verifier_name: str
    path: Path
    left_out: tuple[str, ...] = ()
    difficulties: Mapping[str, str] = field(default_factory=dict)


def load_task(config: TaskConfig) -> Task:
    """Read the file, make the questions, and pick those that the config asks for.

    Raises:
        TaskFileError: The file is missing or a line is malformed; begins with ``file:line``.
        ConfigError: Unknown layout, subset, verifier or id.
    """
    layout = _layout(config.name)
    path = _file(config, layout)
    verifier = config.verifier or layout.verifier
    import_path_of(verifier)  # an unknown name is found here, before anything starts
    questions, left_out = _unique(read_lines(path), layout, config)
    if left_out:
        _log.warning(
            "%d of %d items were left out, since no answer can be right; the first: %s",
            len(left_out),
            len(left_out) + len(questions),
            left_out[0],
        )
    if not questions:
        raise TaskFileError(left_out[0] if left_out else f"{path}:1: holds no questions")
    picked = _picked(questions, config, layout, path)[: config.limit]
    if layout.check is not None:
        layout.check(picked)
    return Task(
        name=config.name,
        questions=tuple(with_tool(question, config) for _, question in picked),
        verifier_name=verifier,
        path=path,
        left_out=tuple(left_out),
        difficulties={
            question.id: str(line.data[key])
            for line, question in picked
            for key in ("difficulty", "level")
            if line.data.get(key) is not None
        },
    )


def _layout(name: str) -> Layout:
    path = LAYOUTS.get(name, name)
    if ":" not in path:
        near = difflib.get_close_matches(name, LAYOUTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(LAYOUTS)}"
        raise ConfigError(f"task.name: unknown task {name!r}{hint}")
    module, _, attribute = path.partition(":")
    try:
        layout: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"task.name: cannot import {path}: {error}") from error
    if not isinstance(layout, Layout):
        raise ConfigError(
            f"task.name: {path} is a {type(layout).__name__}, expected a tasks.task.Layout"
        )
    return layout


def _file(config: TaskConfig, layout: Layout) -> Path:
    if config.path is None:
        return layout.packaged(config)
    path = Path(config.path).expanduser()
    if path.is_dir():
        path = path.joinpath(*([config.subset] if config.subset else []), f"{config.split}.jsonl")
    if not path.is_file():
        raise TaskFileError(
            f"{path}:1: there is no such file; set task.path to a .jsonl file or its folder"
        )
    return path


def _unique(
    lines: Iterable[Line], layout: Layout, config: TaskConfig
) -> tuple[dict[str, tuple[Line, Question]], list[str]]:
    questions: dict[str, tuple[Line, Question]] = {}
    left_out = []
    for line in lines:
        try:
            question = layout.question(line, config)
        except LeftOut as reason:
            left_out.append(str(reason))
            continue
        if question.id in questions:
            line.fail(f"the id {question.id!r} is already used by an earlier line")
        questions[question.id] = line, question
    return questions, left_out


def _picked(
    questions: dict[str, tuple[Line, Question]], config: TaskConfig, layout: Layout, path: Path
) -> list[tuple[Line, Question]]:
    if not config.ids:
        return list(questions.values())
    picked = []
    for wanted in config.ids:
        found = questions.get(wanted) or questions.get(layout.id_prefix + wanted)
        if found is None:
            near = difflib.get_close_matches(layout.id_prefix + wanted, questions, n=1)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ConfigError(
                f"task.ids: {path} has no question {wanted!r} among its {len(questions)}{hint}"
            )
        picked.append(found)
    return picked


def item_options(config: TaskConfig) -> dict[str, Any]:
    """What every item carries from the config to its verifier."""
    return {REVEAL_KEY: config.feedback_may_reveal_answer}


def public_indices(num_tests: int, identifier: str, config: TaskConfig) -> list[int]:
    """Which of a question's tests are public; the same on every machine. Empty for fraction 0."""
    if config.public_fraction == 0.0 or num_tests == 0:
        return []
    return list(public_split(num_tests, config.public_fraction, config.split_seed, identifier))
