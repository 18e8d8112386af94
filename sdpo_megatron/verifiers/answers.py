"""Finds the answer in a response: thinking removed, answer tags, boxes.

Linear in the text, no backtracking regexes.
"""

from __future__ import annotations

import re

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
BOX = "\\boxed{"
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)


def without_thinking(text: str) -> str:
    """The response after its last closed ``<think>`` block; an unclosed one hides all after it.

    A response cut off inside its thought has not answered, whatever the thought mentions.
    """
    _, closed, after = text.rpartition(THINK_CLOSE)
    return (after if closed else text).split(THINK_OPEN, 1)[0]


def tagged_answer(text: str) -> str | None:
    """The content of the last closed ``<answer>`` element, stripped; None without one."""
    start: int | None = None
    found: str | None = None
    for tag in _TAG.finditer(text):
        if not tag.group(1):
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()].strip(), None
    return found


def boxed_answer(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` with balanced braces, stripped; None without one."""
    end = len(text)
    while (start := text.rfind(BOX, 0, end)) >= 0:
        depth = 1
        for position in range(start + len(BOX), end):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start + len(BOX) : position].strip()
        end = start  # unbalanced: an earlier one may be whole; each character is read once
    return None


def shown(text: str, limit: int = 60) -> str | None:
    """`text` if it may be quoted in feedback: short, one line, printable, no markup; else None.

    Feedback becomes part of a prompt, so nothing in it may look like a chat-control token or a
    terminal escape.
    """
    text = text.strip()
    harmless = 0 < len(text) <= limit and text.isprintable() and not re.search(r"[<>\[\]|`]", text)
    return text if harmless else None
