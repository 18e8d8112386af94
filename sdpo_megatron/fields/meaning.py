"""What a setting means and may be, in words: its docstring, its type, its range."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic.fields import FieldInfo

_NAMES = {int: "whole number", float: "number", bool: "true, false", str: "text"}


def meaning(owner: type, name: str) -> str:
    """The docstring below a field, of the class that declares it or else of its base; one line."""
    for cls in owner.__mro__:
        if text := _docstrings(cls).get(name):
            return text
    return ""


def allowed(info: FieldInfo) -> str:
    """The values that a field takes, e.g. ``number in [0, 1)`` or ``ema, frozen``."""
    return _allowed(info.annotation, info.metadata)


@functools.cache
def _docstrings(cls: type) -> dict[str, str]:
    if cls.__module__ == "builtins":
        return {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _allowed(annotation: Any, metadata: Iterable[Any]) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = [
            m for a in arguments[1:] for m in (a.metadata if isinstance(a, FieldInfo) else [a])
        ]
        return _allowed(arguments[0], [*inner, *metadata])
    if origin in (typing.Union, types.UnionType):
        return ", ".join(
            "null" if one is type(None) else _allowed(one, metadata) for one in arguments
        )
    if origin is typing.Literal:
        return ", ".join(str(choice) for choice in arguments)
    if origin is tuple:
        return f"list of {_allowed(arguments[0], [])}"
    return f"{_NAMES[annotation]}{_range(annotation, list(metadata))}"


def _range(annotation: Any, metadata: list[Any]) -> str:
    bounds = {
        name: value
        for constraint in metadata
        for name in ("ge", "gt", "le", "lt", "min_length")
        if (value := getattr(constraint, name, None)) is not None
    }
    if annotation is str:
        return ", not empty" if bounds.get("min_length") else ""
    low = f"[{bounds['ge']}" if "ge" in bounds else f"({bounds['gt']}" if "gt" in bounds else ""
    high = f"{bounds['le']}]" if "le" in bounds else f"{bounds['lt']})" if "lt" in bounds else ""
    if low and high:
        return f" in {low}, {high}"
    if low:
        return f", at least {bounds['ge']}" if "ge" in bounds else f" above {bounds['gt']}"
    return ""
