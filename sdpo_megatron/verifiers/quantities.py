r"""Reads a number with its unit: ``\$1,080 per week``, ``18\%``, ``3\frac12 hours``, ``2516_8``.

A number may be followed by words that name its unit; by another number, an operator, an alternative
or a denial it may not. Values are exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from sdpo_megatron.verifiers.latex import CURRENCY, undressed
from sdpo_megatron.verifiers.units import REFUSED_BEFORE, read_unit

MAX_CHARS = 200  # of a quantity with its label and unit
_LABEL = re.compile(
    r"(?:[^\W\d_]|[ '()\-]){1,100}?(?::|=|\b(?:is|are|was|were|equals|equal to)\b)\s{0,4}"
)
_LABEL_NAMES = re.compile(r"[a-zA-Z](?:_\{?\w{1,8}\}?)?\s?=\s{0,4}|[a-zA-Z]\(\d{1,6}\)\s?=\s{0,4}")
_MONEY = rf"(?:US\s?)?[{CURRENCY}$\u20ac\u00a3\u00a5\u20b9]|USD|EUR|GBP|Rs\.?"
_DIGITS = "|".join(
    (
        *(rf"\d{{1,3}}(?:{separator}\d{{3}}){{1,12}}" for separator in ",_ '"),
        r"\d{1,3}(?:\.\d{3}){2,12}",  # one point alone is a decimal point
        r"\d{1,2}(?:,\d{2}){1,6},\d{3}",  # lakh and crore
        r"\d{1,60}",
    )
)
_NUMBER = re.compile(
    rf"""
    (?P<about>(?:\\approx|\\sim|\u2248|=)\s?|(?:about|approximately|exactly|around)\s)?
    (?P<sign>[-+]\s?)?
    (?:(?P<money>{_MONEY})\s?(?P<late_sign>-\s?)?)?
    (?:
      (?P<whole>\d{{1,60}})?\s?\\frac\s?(?:\{{(?P<top>-?\d{{1,60}})\}}\s?\{{(?P<bottom>\d{{1,60}})\}}|(?P<top1>\d)(?P<bottom1>\d))
      |(?P<mixed>\d{{1,60}})\s(?P<over>\d{{1,60}})/(?P<under>\d{{1,60}})
      |(?P<european>\d{{1,3}}(?:\.\d{{3}}){{1,12}},\d{{1,2}})
      |(?P<digits>(?:{_DIGITS})(?!\d))(?P<decimals>\.\d{{0,60}})?(?P<power>[eE][-+]?\d{{1,2}}(?![a-zA-Z\d]))?
       (?:\s?/\s?(?P<denominator>\d{{1,60}}))?
      |(?P<bare_decimals>\.\d{{1,60}})
    )
    """,
    re.VERBOSE,
)
_BASE_NAME = r"([1-9]\d?|[a-z]{3,8})"
_BASE = re.compile(
    rf"([0-9A-Fa-f]{{1,60}})\s?(?:_\s?\{{?\s?{_BASE_NAME}\s?\}}?|\s\(?base[ -]{_BASE_NAME}\)?)"
)
_NAMES = "two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
_BASES = {name: str(base) for base, name in enumerate(_NAMES, start=2)} | {"sixteen": "16"}


@dataclass(frozen=True)
class Quantity:
    """A value with what was written around it.

    `value` is the number as written; `percent` whether a per cent sign follows; `unit` the words
    after it in lower case without blanks; `base` its base, 10 unless written, and then `digits`.
    """

    value: Fraction
    percent: bool = False
    unit: str = ""
    base: int = 10
    digits: str = ""

    def same(self, answer: Quantity) -> bool:
        """Whether `answer` says the same as this expected quantity.

        18% is 18 and 0.18, the two ways in which it is asked for. Units count where both have one;
        another base is another answer.
        """
        if (self.base, self.digits) != (answer.base, answer.digits):
            return False
        if self.unit and answer.unit and not _abbreviates(self.unit, answer.unit):
            return False
        if self.percent == answer.percent:
            return self.value == answer.value
        share = self.value / 100 if self.percent else answer.value / 100
        return self.value == answer.value or share == (answer.value if self.percent else self.value)


def quantity(text: str) -> Quantity | None:
    """The quantity that `text` is as a whole; None when it is anything else, or several."""
    if len(text) > 2 * MAX_CHARS:
        return None
    text = undressed(text)
    if len(text) > MAX_CHARS:
        return None
    start = _label_end(text)
    if start is None:
        return None
    if based := _BASE.fullmatch(text, start):
        return _in_base(based)
    number = _NUMBER.match(text, start)
    if number is None:
        return None
    value = _value(number)
    if value is None:
        return None
    unit = read_unit(text[number.end() :], money=bool(number["money"]))
    if unit is None:
        return None
    return Quantity(value * unit.scale, percent=unit.percent, unit=unit.name)


def _label_end(text: str) -> int | None:
    """Where the number starts: after ``x =``, ``Total:``, ``The total is``; None after a denial."""
    if name := _LABEL_NAMES.match(text):
        return name.end()
    label = _LABEL.match(text)
    if label is None:
        return 0
    words = re.findall(r"[a-z']{1,40}", label[0].lower())
    if any(word in REFUSED_BEFORE or "n't" in word for word in words):
        return None
    return label.end()


def _value(number: re.Match[str]) -> Fraction | None:
    part = number.groupdict()
    top, bottom = part["top"] or part["top1"], part["bottom"] or part["bottom1"]
    if top is not None:
        value = _over(Fraction(part["whole"] or 0), top, bottom)
        if part["whole"] and value is not None and not 0 < value - int(part["whole"]) < 1:
            return None
    elif part["mixed"]:
        value = _over(Fraction(part["mixed"]), part["over"], part["under"])
        if value is not None and not 0 < value - int(part["mixed"]) < 1:
            return None
    elif part["european"]:
        value = Fraction(part["european"].replace(".", "").replace(",", "."))
    elif part["bare_decimals"]:
        value = Fraction("0" + part["bare_decimals"])
    else:
        digits = re.sub(r"[,' _]", "", part["digits"])
        if digits.count("."):
            digits = digits.replace(".", "")
        decimals = part["decimals"] or ""
        value = Fraction(digits + (decimals if len(decimals) > 1 else "") + (part["power"] or ""))
        if part["denominator"]:
            value = _over(Fraction(0), value, part["denominator"])
    signs = [sign for sign in (part["sign"], part["late_sign"]) if sign and sign[0] == "-"]
    return None if value is None else value * (-1) ** len(signs)


def _over(whole: Fraction, top: str | Fraction, bottom: str) -> Fraction | None:
    return whole + Fraction(top) / int(bottom) if int(bottom) else None


def _in_base(found: re.Match[str]) -> Quantity | None:
    written = (found[2] or found[3]).lower()
    base = _BASES.get(written, written)
    if not base.isascii() or not base.isdigit() or not 2 <= int(base) <= 36:
        return None
    digits = found[1].lower().lstrip("0") or "0"
    try:
        value = Fraction(int(digits, int(base)))
    except ValueError:
        return None
    return Quantity(value) if base == "10" else Quantity(value, base=int(base), digits=digits)


def _abbreviates(one: str, other: str) -> bool:
    """Whether the letters of the shorter unit stand in the longer one in order: cm, centimeters."""
    short, long = sorted((one.rstrip("s."), other.rstrip("s.")), key=len)
    letters = iter(long)
    return short[:1] == long[:1] and all(letter in letters for letter in short)
