r"""Finds the final answer of a worked solution: the mark that says "this is it".

A mark is, best first: the last ``\boxed{}`` or the last ``<answer>``, whichever stands later; the
last line that begins with ``####``; a closing sentence "The answer is ...". A number without a mark
is not an answer: which one of many would be a guess, and a response cut off in the middle of its
work has some too.
"""

from __future__ import annotations

import re

from sdpo_megatron.verifiers.answers import boxed_answer, tagged_answer

MAX_SENTENCE_CHARS = 400  # of a closing sentence
MAX_TAIL_CHARS = 300  # of what may follow it: "I hope it is correct."
_MARK = "####"
_SAYS = re.compile(
    r"\banswers?\b(?:[ \w,'()*$\\]{0,80}?)(?:\bis\b|\bare\b|\bequals\b|:|=|\u2248)[ :*_]{0,6}",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=[*_$\"')\s]{0,4}(?:\s|$))")
_DOUBT = re.compile(
    r"\b(?:not|no|nor|wrong|incorrect|actually|wait|hmm|however|but|mistake|error|unless|or|alternatively"
    r"|correction|instead|rather|recheck|double-check)\b|n't\b|\d",
    re.IGNORECASE,
)
_TURN_END = re.compile(
    r"<\|(?:im_end|end|return|eot_id|endoftext|end_of_text)\|>|</s>|<eos>|<end_of_turn>"
)


def final_answer(text: str) -> str | None:
    """The text of the final answer of a response without its thinking; None when none is marked."""
    text = without_turn_end(text)
    boxed, tagged = boxed_answer(text), tagged_answer(text)
    if boxed is not None or tagged:
        if not tagged or (boxed is not None and _later_box(text)):
            return boxed
        return boxed_answer(tagged) or said(tagged) or tagged
    return _marked_line(text) or _closing_sentence(text)


def without_turn_end(text: str) -> str:
    """`text` without tokens that end a turn, which some engines leave in it."""
    return _TURN_END.sub("", text)


def _later_box(text: str) -> bool:
    lower = text.lower()
    return max(text.rfind("\\boxed"), text.rfind("\\fbox")) > lower.rfind("<answer>")


def _marked_line(text: str) -> str | None:
    """What stands after ``####`` at the start of the last line that begins so."""
    at = text.rfind(_MARK)
    if at < 0:
        return None
    line = text[at + len(_MARK) :].strip().split("\n", 1)[0].strip()
    if not line or line.startswith("#"):
        return None
    return said(line) or line


def said(text: str) -> str | None:
    """What a sentence such as ``The final answer is $18`` gives as the answer; None without one."""
    if len(text) > 2 * MAX_SENTENCE_CHARS:
        return None
    phrases = list(_SAYS.finditer(text))
    if not phrases or re.search(r"\bnot\b|n't\b", phrases[-1][0]):
        return None
    return text[phrases[-1].end() :].strip() or None


def _closing_sentence(text: str) -> str | None:
    """The answer given by the last line that gives one, if nothing after it takes it back."""
    at = text.lower().rfind("answer")
    if at < 0 or len(text) - at > MAX_SENTENCE_CHARS + MAX_TAIL_CHARS:
        return None
    start = text.rfind("\n", 0, at) + 1
    line, _, after = text[max(start, at - MAX_SENTENCE_CHARS) :].partition("\n")
    given = said(line[:MAX_SENTENCE_CHARS])
    if given is None:
        # "**Answer:**" on a line of its own
        if not re.search(r"answer\b[ *_]{0,4}:[ *_]{0,4}$", line[-200:], re.IGNORECASE):
            return None
        given, _, after = after.strip().partition("\n")
    sentence = given
    if end := _SENTENCE_END.search(given):
        sentence, after = given[: end.start()], given[end.end() :] + "\n" + after
        if given[end.start()] == "?":
            return None
    if len(after) > MAX_TAIL_CHARS or _DOUBT.search(after):
        return None
    return sentence.strip() or None
