"""Finds the answer in a response: thinking removed, fences, answer tags, boxes.

Everything here is linear in the text, whatever the text is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sdpo_megatron.verifiers.harmless import is_harmless

_NAMES = r"(?:seed:)?think|thinking|thought"
# harmony (gpt-oss) has an analysis channel; whatever channel opens next closes it.
_THINK_OPEN = re.compile(
    rf"<(?:{_NAMES})>|\[think\]|\u25c1think\u25b7|<\|channel\|>analysis<\|message\|>",
    re.IGNORECASE,
)
_THINK_CLOSE = re.compile(
    rf"</(?:{_NAMES})>|\[/think\]|\u25c1/think\u25b7"
    r"|<\|channel\|>(?=final|commentary)[^\n<]{0,100}(?:<\|constrain\|>\w{0,20})?<\|message\|>",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # a backslash makes the next character text
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_FENCE = re.compile(r"[ \t]{0,40}(?:[-*+>] {1,4})?(`{3,200}|~{3,200})")


def without_thinking(text: str) -> str:
    """The response after its last closed thought; an unclosed one hides all that follows it.

    A thought is ``<think>`` (thinking, thought, seed:think), ``[THINK]``, ``◁think▷``, or the
    analysis channel of harmony. A closing tag alone counts: the opening one may be in the prompt. A
    response cut off inside its thought has not answered, whatever the thought mentions.
    """
    start = 0
    for closing in _THINK_CLOSE.finditer(text):
        start = closing.end()
    opening = _THINK_OPEN.search(text, start)
    return text[start : opening.start() if opening else None]


@dataclass(frozen=True)
class Fence:
    """A fenced block: its info word in lower case ("" without one), its text, and where it stands.

    `first_line` is the 0-based number of its text's first line; `closed` is False when the response
    ends inside it.
    """

    info: str
    text: str
    first_line: int
    closed: bool


def fences(text: str) -> Iterator[Fence]:
    """The fenced blocks of a response, as CommonMark reads them: backticks or tildes, closed by a
    line of at least as many of the same; indentation and list marks before the fence are allowed.
    """
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        at += 1
        if opening is None:
            continue
        info = lines[at - 1][opening.end() :]
        if opening[1][0] == "`" and "`" in info:
            continue  # inline code
        first = at
        while at < len(lines) and not _closes(lines[at], opening[1]):
            at += 1
        words = info.split(maxsplit=1)
        block = "".join(line + "\n" for line in lines[first:at])
        yield Fence(words[0].lower() if words else "", block, first, at < len(lines))
        at += 1


def _closes(line: str, mark: str) -> bool:
    line = line.strip(" \t\r>")
    return len(line) >= len(mark) and line == mark[0] * len(line)


def tagged_answer(text: str, *, unclosed: bool = False) -> str | None:
    """The content of the last closed ``<answer>`` element, stripped; None without one.

    `unclosed`: the last opening tag counts even if nothing closes it, and its content then ends
    with the response.
    """
    start: int | None = None
    found: str | None = None
    for tag in _TAG.finditer(text):
        if not tag.group(1):
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()].strip(), None
    return text[start:].strip() if unclosed and start is not None else found


def boxed_answer(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` that is not empty, stripped.

    None without one, and when the last one is never closed: a response cut off there has not
    answered. Escaped braces (``\{``) are text.
    """
    for box in reversed(list(_BOX.finditer(text))):
        end = _closing_brace(text, box.end())
        if end is None:
            return None
        if content := text[box.end() : end].strip():
            return content
    return None


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None


def shown(text: str, limit: int = 60) -> str | None:
    """`text` if it may be quoted in feedback as it is: short, one line, harmless; else None."""
    text = text.strip()
    fits = 0 < len(text) <= limit and text.isprintable() and "`" not in text
    return text if fits and is_harmless(text) else None
