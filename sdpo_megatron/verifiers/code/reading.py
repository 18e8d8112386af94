"""Finds the program in a hostile response, by text alone: nothing is parsed on this side.

Several readings are offered in order of preference; the sandbox takes the first that compiles and
defines the function.
"""

from __future__ import annotations

import re
import textwrap

_FENCED = re.compile(r"^[ \t]*```[ \t]*([\w+.-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.M | re.S)
_THOUGHT = re.compile(r"<think>.*?</think>", re.S)
MAX_CHARS = 200_000


def readings(response: str, prompt: str, entry_point: str) -> tuple[tuple[str, str], ...]:
    """(prefix, text) pairs, best first; empty when the response holds no text at all.

    A response may be code inside a fence that the prompt opened (so it begins in code), fenced code
    among words, bare code, or, when `entry_point` is given, the body that continues `prompt`. Line
    numbers count within `text`.
    """
    response = _THOUGHT.sub("", response[:MAX_CHARS]).replace("\r\n", "\n")
    texts = [text for text in _texts(response) if text.strip()]
    whole = [("", text) for text in texts]
    whole += [("", dedented) for text in texts if (dedented := _dedent(text)) != text]
    if not entry_point:
        return tuple(dict.fromkeys(whole))
    continuing = []
    for text in texts:
        body = text.strip("\n")
        prefix = prompt if prompt.endswith("\n") else prompt + "\n"
        continuing.append((prefix, body))
        continuing.append((prefix, "    " + body.lstrip(" \t")))
        continuing.append((prefix, textwrap.indent(_dedent(body), "    ")))
    return tuple(dict.fromkeys(whole + continuing))


def _dedent(text: str) -> str:
    return textwrap.dedent(text.strip("\n"))


def _texts(response: str) -> list[str]:
    before, fence, _ = response.partition("```")
    blocks = [match.group(2) for match in _FENCED.finditer(response)]
    inside_opened_fence = [before] if fence and before.strip() else []
    bare = [] if response.lstrip().startswith("```") else [response]
    return [*inside_opened_fence, *reversed(blocks), *bare]
