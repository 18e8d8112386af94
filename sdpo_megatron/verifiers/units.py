"""Reads what stands after a number: its unit, a per cent sign, a scale ("thousand").

Units are not known by name: any few words are one, but for those that change what the number says
(an alternative, a denial, another number, an operation) and for single letters, which are variables
unless they are among the common units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARS, MAX_WORDS = 100, 12
_ALLOWED = re.compile(r"[\w\s.'^{}()/\u00b0\u00a2-]{0,100}")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_PERCENT = re.compile(r"\s?(?:%|percent\b|per cent\b)")
_OPERATOR = re.compile(r"\s?[-.'^_]\s|['^_{}(]")
_NEW_SENTENCE = re.compile(r"(?<!\bsq)(?<!\bcu)(?<!\bft)(?<!\bin)(?<!\bhr)(?<!\bmin)[.']\s")
_BETWEEN = re.compile(r"[\s()/\u00b0\u00a2-]{1,8}")
_WORD = re.compile(r"([^\W\d_]{1,40})[.']?(?:s(?![a-z]))?(?:\^(?:\{[23]\}|[23]))?")
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ONE_LETTER = frozenset("mgshlLJNVW")  # metre, gram, second, hour, litre, joule, newton, volt, watt
_REFUSED_AFTER = frozenset(
    """or nor not no never neither none but instead except unless versus vs wrong incorrect false
    unsure maybe perhaps possibly actually wait squared cubed factorial mod modulo between negative
    root pi sqrt log ln sin cos tan exp half halves thirds tenths hundredths thousandths remainder
    k mil mn bn crore lakh one two three four five six seven eight nine ten eleven twelve thirteen
    fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy
    eighty ninety zero""".split()  # noqa: SIM905
)
REFUSED_BEFORE = frozenset(
    """not no never wrong incorrect false less more than least most twice double half if unless
    maybe perhaps""".split()  # noqa: SIM905
)
"""Words of a label ("The total is") that deny or change the number after it."""


@dataclass(frozen=True)
class Unit:
    """`scale` multiplies the number; `name` is the unit's words in lower case without blanks."""

    scale: int = 1
    percent: bool = False
    name: str = ""


def read_unit(rest: str, *, money: bool) -> Unit | None:
    """The unit that `rest`, all that follows a number, is; None when it is anything else.

    `money`: a currency stands before the number, so a single letter is no unit ($18m).
    """
    if ordinal := _ORDINAL.match(rest):
        rest = rest[ordinal.end() :]
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
    if rest.count("(") != rest.count(")") or not _ALLOWED.fullmatch(rest):
        return None
    if _OPERATOR.match(rest) or _NEW_SENTENCE.search(rest):
        return None
    words = [word for word in _BETWEEN.split(rest) if word]
    scale = 1
    if words and words[0].lower() in _SCALES:
        scale = _SCALES[words.pop(0).lower()]
    if len(words) > MAX_WORDS or not all(
        _names_a_unit(word, last=at == len(words) - 1, money=money) for at, word in enumerate(words)
    ):
        return None
    letters = "".join(found[1].lower() for word in words if (found := _WORD.fullmatch(word)))
    return Unit(scale, percent is not None, letters)


def _names_a_unit(word: str, *, last: bool, money: bool) -> bool:
    found = _WORD.fullmatch(word)
    if found is None or found[1].lower() in _REFUSED_AFTER or word.lower().endswith("n't"):
        return False
    if len(found[1]) > 1:
        return True
    return (found[1] == "a" and not last) or (found[1] in _ONE_LETTER and not money)
