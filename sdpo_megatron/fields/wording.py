"""pydantic's findings in one wording: ``optimizer.beta1=7: must be below 1``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from sdpo_megatron.errors import ConfigError

_RANGES = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
    "missing": "must be given",
    "missing_argument": "must be given",
    "missing_keyword_only_argument": "must be given",
}
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dataclass": "a group of settings",
    "model_attributes": "a group of settings",
    "dict": "a mapping",
}
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_REFERENCE = re.compile(r"\{\{(\w+)\}\}|\{([\w.]+)(:key)?\}")


class Contradiction(ValueError):
    """Fields of one config dataclass that cannot go together; see `declare.refuse`."""

    def __init__(self, config: object, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in problems))
        self._config, self._problems = config, problems

    def lines(self, prefix: str) -> Iterator[str]:
        """One line a problem, for a group whose keys begin with `prefix`."""
        for name, text in self._problems:
            yield f"{self._assignment(name, prefix)}: {self._filled(text, prefix)}"

    def _filled(self, text: str, prefix: str) -> str:
        def named(match: re.Match[str]) -> str:
            if match[1]:
                return f"{{{match[1]}}}"
            return f"{prefix}{match[2]}" if match[3] else self._assignment(match[2], prefix)

        return _REFERENCE.sub(named, text)

    def _assignment(self, name: str, prefix: str) -> str:
        value: Any = self._config
        for part in name.split("."):
            value = getattr(value, part)
        return assignment(f"{prefix}{name}", value)


def complaints(
    error: ValidationError, given: Any, unknown: Callable[[str, Any], str] | None = None
) -> list[str]:
    """One line for each finding.

    Args:
        given: The plain data that was validated: pydantic's paths name variants as well, which are
            no keys of it.
        unknown: The line for a key that does not exist, from the key and its value.
    """
    lines: list[str] = []
    for found in error.errors(include_url=False):
        key = _key(found["loc"], given)
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, Contradiction):
            lines += cause.lines(f"{key}." if key else "")
        elif isinstance(cause, ConfigError):
            lines.append(f"{key}: {cause}" if key else str(cause))
        elif cause is not None:
            raise cause  # a mistake of a check, not of its user
        elif unknown and found["type"] in _UNKNOWN:
            lines.append(unknown(key, found["input"]))
        else:
            lines.append(_line(found, key))
    return lines


def assignment(key: str, value: Any) -> str:
    """``key=value`` as a person types it; the key alone for a whole group."""
    if isinstance(value, Mapping) or hasattr(value, "__dataclass_fields__"):
        return key
    return f"{key}={shown(value)}"


def shown(value: Any) -> str:
    """A value as hydra's overrides write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(shown(item) for item in value)}]"
    text = str(value)
    return repr(text) if not text or text != text.strip() or "\n" in text else text


def _key(loc: tuple[int | str, ...], given: Any) -> str:
    """The dotted key of a path; names of variants are left out."""
    key, here = "", given
    for position, part in enumerate(loc):
        if isinstance(here, Mapping) and part not in here and position < len(loc) - 1:
            continue
        if isinstance(part, int):
            key += f"[{part}]"
            here = here[part] if isinstance(here, list | tuple) and part < len(here) else None
            continue
        key += f".{part}" if key else part
        here = here.get(part) if isinstance(here, Mapping) else getattr(here, part, None)
    return key


def _line(found: Any, key: str) -> str:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    if kind in _UNKNOWN:
        return f"{key}: there is no such setting"
    if kind.startswith("missing"):
        return f"{key}: {_RANGES[kind]}"
    if kind == "union_tag_not_found":
        return f"{key}.{_bare(context['discriminator'])}: must be given"
    if kind == "union_tag_invalid":
        expected = context["expected_tags"].replace("'", "")
        tag = assignment(f"{key}.{_bare(context['discriminator'])}", context["tag"])
        return f"{tag}: expected one of {expected}"
    return f"{assignment(key, value)}: {_reason(kind, value, context, key, found['msg'])}"


def _reason(kind: str, value: Any, context: Mapping[str, Any], key: str, message: str) -> str:
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"expected one of {choices}"
    if kind in _RANGES:
        numbers = {
            name: f"{limit:g}" if isinstance(limit, float) else limit
            for name, limit in context.items()
        }
        return _RANGES[kind].format(**numbers)
    if kind in ("tuple_type", "list_type"):
        return f"expected a list, written as {key}=[a,b]"
    family = kind.partition("_")[0]
    if family in _TYPES and kind.endswith(("_type", "_parsing", "_exact_type", "_from_float")):
        return f"expected {_TYPES[family]}, got {_name_of_type(value)}"
    return message[:1].lower() + message[1:]


def _name_of_type(value: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _bare(name: str) -> str:
    return name.strip("'")
