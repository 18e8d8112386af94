"""The verifier protocol, the registry, and the small pieces every verifier shares.

A verifier is a pure function of (item, response). It never raises on any response text; it raises
`BadItem` when the *item* lacks what it needs, because that is a mistake of whoever wrote the task
and must not become a reward of 0.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from sdpo_megatron.errors import ConfigError, NoVerdict
from sdpo_megatron.exit_codes import USER_ERROR
from sdpo_megatron.nouns import Verdict

# item key, set by the task: may feedback contain the expected answer?
REVEAL_KEY = "feedback_may_reveal_answer"

VERIFIERS: dict[str, str] = {
    "code": "sdpo_megatron.verifiers.code:CodeVerifier",
    "multiple_choice": "sdpo_megatron.verifiers.multiple_choice:MultipleChoice",
    "mathematics": "sdpo_megatron.verifiers.mathematics:Mathematics",
    "tool_use": "sdpo_megatron.verifiers.tool_use:ToolUse",
    "instruction_following": "sdpo_megatron.verifiers.instruction_following:InstructionFollowing",
}
"""Name -> ``module:Class``. A verifier of your own needs no entry here: its import path works
wherever a name does."""


class BadItem(NoVerdict, ValueError):
    """A task item lacks a key that its verifier needs, or holds a value it cannot use."""

    exit_code = USER_ERROR


@runtime_checkable
class Verifier(Protocol):
    """Judges one response. Pure, synchronous and thread-safe; never raises on any response text.

    Runs inside a bounded child process (`pool`), so it may be slow or memory-hungry on a hostile
    response without harming the caller: the child is ended and the response judged wrong.
    """

    name: str

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        """Judge `response` against `item`.

        Raises:
            BadItem: The item, not the response, is unusable.
        """
        ...


def import_path_of(name: str) -> str:
    """The ``module:Class`` behind a registered name or an import path.

    Raises:
        ConfigError: `name` is neither.
    """
    if name in VERIFIERS:
        return VERIFIERS[name]
    if ":" in name:
        return name
    raise ConfigError(
        f"unknown verifier {name!r}: expected one of {', '.join(sorted(VERIFIERS))}, "
        "or an import path such as my_package.my_verifier:MyVerifier"
    )


@functools.cache
def load_verifier(name: str) -> Verifier:
    """The verifier of this name or import path, made once per process.

    Raises:
        ConfigError: The module or class does not exist, or is not a verifier.
    """
    path = import_path_of(name)
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"verifier {name!r}: cannot import {path}: {error}") from error
    try:
        verifier = found() if isinstance(found, type) else found
    except TypeError as error:
        raise ConfigError(f"verifier {name!r}: {path}() must need no arguments: {error}") from error
    if not isinstance(verifier, Verifier):
        raise ConfigError(
            f"verifier {name!r}: {path} has no `name` and `verify(item, response)`; "
            "see docs/verifiers.md"
        )
    return verifier


def require(item: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    """`item[key]`, checked.

    Raises:
        BadItem: The key is missing or its value is not of `kind`.
    """
    if key not in item:
        raise BadItem(f"item has no key {key!r}; it has {sorted(map(str, item))}")
    value = item[key]
    if not isinstance(value, kind):
        raise BadItem(f"item key {key!r}: expected {kind}, got {type(value).__name__}")
    return value


def library(name: str) -> ModuleType:
    """An optional library that one verifier needs, imported when it is first used.

    Raises:
        ConfigError: It is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"this verifier needs {name.partition('.')[0]}: {error}; install the extra: "
            "pip install 'sdpo-megatron[verifier]'"
        ) from error


def graded(
    success: bool,
    *,
    feedback: str = "",
    format_ok: bool = True,
    reveals_answer: bool = False,
    reward: float | None = None,
    **details: Any,
) -> Verdict:
    """A Verdict whose reward is 1.0 or 0.0 unless `reward` is given; a success carries no feedback
    of its own."""
    return Verdict(
        reward=(1.0 if success else 0.0) if reward is None else reward,
        success=success,
        format_ok=format_ok,
        feedback=feedback,
        reveals_answer=reveals_answer,
        details=details,
    )


def wrong_answer(item: Mapping[str, Any], said: str, expected: str, **details: Any) -> Verdict:
    """A readable but wrong answer; `expected` enters feedback only if the item's task allows it."""
    reveal = bool(item.get(REVEAL_KEY, False))
    feedback = f"{said} The correct answer is {expected}." if reveal else said
    return graded(False, feedback=feedback, reveals_answer=reveal, **details)
