r"""Mathematics: the final answer is compared by value, symbolically where needed, with
``math-verify``.

Item: ``answer`` (plain or LaTeX). The response's answer is the last ``\boxed{}``, else the last
``<answer>``, else what follows the last ``####``, else the last number.

math-verify bounds its own time with SIGALRM, which works in a main thread only, so its limits are
off here. What bounds a hostile expression is, first, `_EXPLOSIVE` (towers, huge factorials: cheap
to write, endless to evaluate) and, second, the child process in which the judge runs every verifier
(`pool`).
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from sdpo_megatron.errors import SdpoError
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.answers import boxed_answer, shown, tagged_answer, without_thinking
from sdpo_megatron.verifiers.base import BadItem, graded, library, require, wrong_answer

MAX_ANSWER_CHARS = (
    400  # longer than any final answer of the usual sets; keeps the parser's work small
)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")
_CURRENCY = re.compile(r"^\\?[$€£]\s*|\\?%$|\.$")
_POWER = r"(?:\^|\*\*)"
# a tower of powers, an exponent of six digits, a factorial of five or of a factorial
_EXPLOSIVE = re.compile(
    rf"\d{{100,}}|{_POWER}[\s{{(]*\d{{6,}}|{_POWER}[\s{{(]*[\w\\]{{0,9}}\s*{_POWER}|!\s*\)*\s*!|\d{{5,}}\s*\)*\s*!"
)


class Mathematics:
    """The last marked answer decides.

    Equal values in any notation are equal (``0.5``, ``1/2``, ``\\frac12``).
    """

    name = "mathematics"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        """Success when the extracted answer equals ``item["answer"]``."""
        expected = str(require(item, "answer", (str, int, float))).strip()
        if not expected:
            raise BadItem("item key 'answer': expected an expression, got an empty text")
        answer = final_answer(without_thinking(response))
        if answer is None:
            return graded(
                False,
                format_ok=False,
                feedback="No answer was found. Put the final answer inside \\boxed{}.",
                error="no_answer",
            )
        if len(answer) > MAX_ANSWER_CHARS or _EXPLOSIVE.search(answer):
            return graded(
                False,
                format_ok=False,
                feedback="The final answer is too long or too large to be evaluated. Simplify it.",
                error="too_complex",
            )
        try:
            equal = equal_values(expected, answer)
        except SdpoError:  # an unreadable item, or math-verify is not installed
            raise
        # sympy and latex2sympy raise anything on hostile text: the answer is unreadable
        except Exception as error:
            return _unreadable(type(error).__name__)
        if equal is None:
            return _unreadable("not_parsed")
        if equal:
            return graded(True, answer=answer)
        quoted = shown(answer)
        said = f"The answer {quoted} is not correct." if quoted else "The answer is not correct."
        return wrong_answer(item, said, expected, answer=answer)


def final_answer(text: str) -> str | None:
    """The text of the final answer; None when there is none."""
    for found in (boxed_answer(text), tagged_answer(text)):
        if found:
            return boxed_answer(found) or found
    _, marker, after = text.rpartition("####")
    if marker and (line := after.strip().split("\n", 1)[0].strip()):
        return line
    numbers = _NUMBER.findall(text[-MAX_ANSWER_CHARS:])
    return numbers[-1] if numbers else None


def plain_number(text: str) -> Fraction | None:
    """The value of a plain decimal, fraction or amount (``1,234.50``, ``$5``, ``3/4``), or None."""
    text = _CURRENCY.sub("", _CURRENCY.sub("", text.strip()).strip())
    if not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.replace(",", "").partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / int(denominator or 1)


def equal_values(expected: str, answer: str) -> bool | None:
    """Whether two expressions have the same value; None when the answer cannot be read.

    Raises:
        BadItem: The expected answer cannot be read.
    """
    left, right = plain_number(expected), plain_number(answer)
    if left is not None and right is not None:
        return left == right
    if expected == answer:
        return True
    gold = _parsed(expected)
    if not gold:
        raise BadItem(f"item key 'answer': math-verify cannot read {expected!r}")
    read = _parsed(answer)
    if not read:
        return None
    return bool(library("math_verify").verify(list(gold), list(read), timeout_seconds=None))


@functools.lru_cache(maxsize=4096)
def _parsed(expression: str) -> tuple[Any, ...]:
    math_verify = library("math_verify")  # imports sympy: 1 s, paid only by tasks that need it
    for logger in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(logger).setLevel(
            logging.ERROR
        )  # they warn once that their time limits are off: intended
    return tuple(math_verify.parse(f"\\boxed{{{expression}}}", parsing_timeout=None))


def _unreadable(error: str) -> Verdict:
    return graded(
        False,
        format_ok=False,
        feedback="The final answer could not be read as a mathematical expression.",
        error=error,
    )
