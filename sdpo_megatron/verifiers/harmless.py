"""Makes text that a response influenced safe to put into a prompt or onto a terminal.

Feedback becomes part of the teacher's prompt, and a tokenizer turns the text of a control token
into the token itself. Control tokens differ from model to model, so their shape is broken and not a
list of names: anything in angle brackets without a blank, bars in angle brackets, words of capitals
in square brackets, and the few that look like nothing else.
"""

from __future__ import annotations

import re
import unicodedata

from sdpo_megatron.sandbox.inside.verdict.render import shorten_middle

_ADDRESS = re.compile(r"(?<= at )0x[0-9a-fA-F]{6,64}\b")  # of an object, not a number
# Every repetition is bounded, so the work is linear in the text whatever the text is.
_BREAKS = re.compile(
    "|".join(
        (
            r"<(?=/?[|\uff5c])",  # <|im_end|>, <｜User｜>, </｜DSML｜invoke>
            r"(?<=[|\uff5c])(?=>)",  # their other end, and Gemma's <turn|>
            # <s>, </think>, <file_sep>, <seed:think>, <function=f>, <0x0A>, <<SYS>>
            r"<(?=/?[^\s<>]{1,80}[ \t]{0,4}/?>)",
            # the same with attributes: <parameter name="city">
            r"<(?=/?[a-zA-Z][\w:.-]{0,40}(?:\s{1,4}[\w:-]{1,40}\s?=\s?[\"'][^\"'<>\n]{0,80}[\"']){1,4}\s{0,4}/?>)",
            r"\[(?=/?[A-Z][A-Z0-9_]{2,40}\])",  # [INST], [/THINK], [TOOL_CALLS], [PAD]
            r"\[(?=/?(?:[gs]MASK|unused_?\d{1,5}|control_\d{1,5}|multimodal|@[A-Z]{1,8}@|think|inst)\])",
            r"\](?=[~!])|\[(?=e~\[)",  # MiniMax: ]~!b[, ]~b], [e~[
            r"[\u25c1](?=/?\w{1,40}\u25b7)",  # Kimi-VL: ◁think▷
            r"\|(?=\|\|[A-Z_]{1,40}\|\|\|)",  # OLMo: |||EMAIL_ADDRESS|||
            r">(?=>[A-Z_]{1,40}<<)",  # Falcon: >>QUESTION<<
        )
    )
)


def harmless(text: str, limit: int = 600) -> str:
    """`text` without anything that a terminal or a chat template could obey.

    Control characters, escape sequences and invisible characters are spelled out; a blank goes into
    whatever has the shape of a control token; fences become quotes; addresses are masked, so that
    the text is the same on every run. At most about `limit` characters: the middle is cut.
    Idempotent; linear in `limit`.
    """
    text = shorten_middle(text, limit)
    text = "".join(character if _is_plain(character) else _spelled(character) for character in text)
    text = _ADDRESS.sub("0x...", text).replace("```", "'''")
    return _BREAKS.sub(lambda found: found.group() + " ", text)


def is_harmless(text: str) -> bool:
    """Whether `text` may be quoted as it is."""
    return harmless(text, len(text)) == text


def _is_plain(character: str) -> bool:
    if character in "\n\t":
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _spelled(character: str) -> str:
    code = ord(character)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
