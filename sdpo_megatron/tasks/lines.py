"""JSON Lines with errors that begin with ``file:line``."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sdpo_megatron.errors import TaskFileError


class LeftOut(Exception):
    """An item that cannot be used, in a file that can; begins with ``file:line``."""


@dataclass(frozen=True)
class Line:
    """One parsed line of a task file: `data` and where it stands."""

    path: Path
    number: int
    data: Mapping[str, Any]

    def fail(self, problem: str) -> NoReturn:
        """Refuse this line.

        Raises:
            TaskFileError: Always; begins with ``file:line``.
        """
        raise TaskFileError(f"{self.path}:{self.number}: {problem}")

    def leave_out(self, problem: str) -> NoReturn:
        """Refuse the item, not the file: well formed, but no response to it can be right.

        Raises:
            LeftOut: Always; `load_task` leaves the item out, counts it and says so.
        """
        raise LeftOut(f"{self.path}:{self.number}: {problem}")

    def get(self, key: str, kind: type | tuple[type, ...] = str, *, default: Any = ...) -> Any:
        """`data[key]`, checked to be of `kind`; `default` when the key is missing or null.

        Raises:
            TaskFileError: The key is missing and there is no default, or the value is of another
                kind.
        """
        value = self.data.get(key)
        if value is None:
            if default is ...:
                self.fail(f"missing key {key!r}; the line has {sorted(self.data)}")
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            expected = (
                kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
            )
            self.fail(
                f"key {key!r}: expected {expected}, got {type(value).__name__} {str(value)[:60]!r}"
            )
        return value

    def text(self, key: str) -> str:
        """A text that is not blank.

        Raises:
            TaskFileError: It is missing, not a text, or blank.
        """
        value: str = self.get(key)
        if not value.strip():
            self.fail(f"key {key!r} is blank")
        return value

    def json(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """A value stored as itself or as a text of JSON (both are found in public files).

        Raises:
            TaskFileError: It is neither, or not of `kind`.
        """
        value = self.get(key, object)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                self.fail(f"key {key!r} holds a text that is not JSON: {error}")
        if not isinstance(value, kind):
            self.fail(f"key {key!r}: expected {kind}, got {type(value).__name__}")
        return value


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a .jsonl or .jsonl.gz file; blank lines are skipped but counted.

    Raises:
        TaskFileError: The file cannot be read, or a line is not a JSON object in UTF-8.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield _parsed(path, number, raw)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskFileError(f"{path}:{number + 1}: cannot be read: {error}") from error


def _parsed(path: Path, number: int, raw: bytes) -> Line:
    try:
        data = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise TaskFileError(f"{path}:{number}: not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise TaskFileError(
            f"{path}:{number}: not JSON: {error.msg} at column {error.colno}"
        ) from error
    except RecursionError as error:
        raise TaskFileError(f"{path}:{number}: nested too deeply") from error
    if not isinstance(data, dict):
        raise TaskFileError(f"{path}:{number}: expected a JSON object, got {type(data).__name__}")
    return Line(path, number, data)
