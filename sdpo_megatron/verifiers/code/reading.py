"""Finds the programs in a response, by text alone and line by line: nothing is parsed on this side.

Several readings are offered in order of preference; the sandbox takes the first that compiles and
defines what is asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sdpo_megatron.verifiers.answers import without_thinking

MAX_CHARS = 200_000
_MAX_READINGS = 64
_MARKS = ("```", "~~~")
# Tags of a fence that leave open what is inside.
_NEUTRAL = ("", "code", "solution")
# What a line that only code is likely to hold begins with; decided in time linear in the line.
_CODE = re.compile(
    r"def \w|class \w|import \w|from [\w.]+ import |@\w|return\b|yield\b|raise\b|pass$|lambda "
    r"|(?:if|elif|for|while|with|try|else|except|finally|match|async def)\b.*:"
    r"|print\(|[\w.]+\(.*\)$|[\w.,\[\] ]+(?:[-+*/|&%]|//|\*\*)?= ?\S"
)
_MAX_LINE = 400  # of a line, characters that are looked at
_TOP = re.compile(r"(?:def |class |import |from |@|async def )")


@dataclass(frozen=True)
class _Block:
    """A fenced block: the first word after its opening mark, and its text without the indent."""

    tag: str
    text: str


def readings(response: str, *, entry: str, in_fence: bool = False) -> tuple[str, ...]:
    """Possible programs, best first, without blank lines around them; () where there is no code.

    `entry` names the function that is asked for; "" asks for a program on standard input.
    `in_fence`: the prompt opened a fence, so the response begins in code. Else the order is: blocks
    tagged as Python, the last one first; untagged blocks, the longest first; and where there is no
    block at all, the words themselves if some line of them looks like code. Blocks of another tag
    are never run.
    """
    text = without_thinking(response[:MAX_CHARS].replace("\r\n", "\n"))
    blocks, outside = _blocks(text.split("\n"), in_fence)
    blocks = [block for block in blocks if block.text]
    found: list[str] = []
    if in_fence and blocks and blocks[0].tag == "opened":
        found.append(blocks[0].text)
    tagged = [block.text for block in blocks if block.tag.startswith("py")]
    if not entry:  # of several programs the last that reads what it is given
        tagged.sort(key=_reads_input)
    found += reversed(tagged)
    untagged = [block.text for block in blocks if block.tag in _NEUTRAL]
    found += sorted(untagged, key=len, reverse=True)
    bare = _bare(outside)
    if bare and (entry or not found):
        found += bare
    return tuple(dict.fromkeys(found))[:_MAX_READINGS]


def _reads_input(program: str) -> bool:
    return "input(" in program or "stdin" in program or "open(0" in program


def _blocks(lines: list[str], in_fence: bool) -> tuple[list[_Block], list[str]]:
    """Fenced blocks in order, the last one perhaps unclosed, and the lines before the first one."""
    blocks: list[_Block] = []
    outside: list[str] = []
    mark, indent, tag = ("```", 0, "opened") if in_fence else ("", 0, "")
    inside: list[str] = []
    for line in lines:
        if not mark:
            opening = _opening(line)
            if opening is not None:
                mark, indent, tag = opening
            elif not blocks:
                outside.append(line)
            continue
        before = _before_close(line, mark)
        if before is None:
            inside.append(_without_indent(line, indent))
            continue
        if before.strip():
            inside.append(_without_indent(before, indent))
        blocks.append(_Block(tag, _trimmed(inside)))
        mark, inside = "", []
        again = _opening(line)
        if again is not None and again[2] and len(line.split()) == 1:
            mark, indent, tag = again  # ```python inside of a fence: one that was opened twice
    if mark:
        blocks.append(_Block(tag, _trimmed(inside)))
    return blocks, outside


def _opening(line: str) -> tuple[str, int, str] | None:
    """(mark, indent, tag) when `line` opens a fence."""
    text = line.lstrip(" \t>")
    if not text.startswith(_MARKS):
        return None
    length = len(text) - len(text.lstrip(text[0]))
    words = text[length:].split(maxsplit=1)
    if text[0] == "`" and "`" in text[length:]:
        return None  # code in the middle of a line
    tag = words[0].strip("{}.").lower() if words else ""
    return text[:length], len(line) - len(line.lstrip(" \t")), tag


def _before_close(line: str, mark: str) -> str | None:
    """What stands before the closing mark of a line that closes the fence; None for others."""
    if line.lstrip(" \t").startswith(mark):
        return ""
    text = line.rstrip()
    return text[: -len(mark)] if text.endswith(mark) else None


def _without_indent(line: str, indent: int) -> str:
    """A fence in a list is indented, and its lines with it."""
    return line[indent:] if not line[:indent].strip() else line


def _trimmed(lines: list[str]) -> str:
    """Without blank lines around: line 1 is the first that shows."""
    start, end = 0, len(lines)
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return "\n".join(lines[start:end])


def _bare(lines: list[str]) -> list[str]:
    """Code without a fence: the lines as they are, and what is left of them without the words
    around."""
    if not any(map(_looks_like_code, lines)):
        return []
    whole = _trimmed(lines)
    start = next((number for number, line in enumerate(lines) if _TOP.match(line)), None)
    if start is None:
        return [whole]
    end = start
    for number in range(start, len(lines)):
        if lines[number][:1] in (" ", "\t", "@") or _looks_like_code(lines[number]):
            end = number
    return [whole, _trimmed(lines[start : end + 1])]


def _looks_like_code(line: str) -> bool:
    return _CODE.match(line[:_MAX_LINE].strip()) is not None
