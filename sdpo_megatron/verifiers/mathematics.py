r"""Mathematics: the final answer is compared as text, then as a quantity, then by value.

Item: ``answer`` (plain or LaTeX). Where the response's answer stands: `final_answer`.

Text comes first, so the expected answer given verbatim is right whatever it is. A number may carry
its unit (`quantities`). All else is compared symbolically with ``math-verify``, after two checks
that it lacks: that both sides have the same shape (``[18,18]`` is not 18), and that an equation
chain ends in what it says (``10+9=18``).

math-verify bounds its own time with SIGALRM, which works in a main thread only, so its limits are
off here. What bounds a hostile expression is `explosive`, and the child process in which the judge
runs every verifier.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from sdpo_megatron.errors import SdpoError
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.answers import shown, without_thinking
from sdpo_megatron.verifiers.base import BadItem, graded, library, require, wrong_answer
from sdpo_megatron.verifiers.explosive import explosive
from sdpo_megatron.verifiers.expressions import same_shape, without_name
from sdpo_megatron.verifiers.final_answer import final_answer
from sdpo_megatron.verifiers.latex import canonical, undressed
from sdpo_megatron.verifiers.quantities import quantity

MAX_ANSWER_CHARS = 2000  # beyond it an answer is not even compared as text


class Mathematics:
    """The last marked answer decides.

    Equal values in any notation are equal (``0.5``, ``1/2``, ``\\frac12``).
    """

    name = "mathematics"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        """Success when the marked answer equals ``item["answer"]``."""
        expected = str(require(item, "answer", (str, int, float))).strip()
        if not expected:
            raise BadItem("item key 'answer': expected an expression, got an empty text")
        answer = final_answer(without_thinking(response))
        if answer is None:
            return graded(
                False,
                format_ok=False,
                feedback="No final answer was found. Put the final answer inside \\boxed{}.",
                error="no_answer",
            )
        if same_text(expected, answer):
            return graded(True, answer=answer[:MAX_ANSWER_CHARS])
        if explosive(undressed(answer[:MAX_ANSWER_CHARS])):
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


def same_text(expected: str, answer: str) -> bool:
    """Whether the two are the same text, apart from dress, blanks and, in words, capitals."""
    if expected == answer.strip():
        return True
    if abs(len(expected) - len(answer)) > MAX_ANSWER_CHARS:
        return False
    left, right = canonical(expected), canonical(answer[: len(expected) + MAX_ANSWER_CHARS])
    if left.strip("()").isalpha() and right.strip("()").isalpha():
        left, right = (
            text.strip("()").lower() if len(text) > 3 else text.strip("()")
            for text in (left, right)
        )
    return left == right


def equal_values(expected: str, answer: str) -> bool | None:
    """Whether two expressions have the same value; None when the answer cannot be read.

    Raises:
        BadItem: The expected answer cannot be read.
    """
    wanted, given = quantity(expected), quantity(answer)
    if wanted is not None and given is not None:
        return wanted.same(given)
    if wanted is not None and (wanted.base != 10 or wanted.percent):
        return False
    if given is not None and given.base != 10:
        return False
    left = str(wanted.value) if wanted else undressed(expected)
    right = str(given.value) if given else undressed(answer)
    if explosive(left):
        return False  # only its text can be compared
    named = without_name(left, right)
    if named is None or not same_shape(*named):
        return False
    left, right = named
    gold = _parsed(left)
    if not gold:
        raise BadItem(f"item key 'answer': math-verify cannot read {expected!r}")
    read = _parsed(right)
    if not read:
        return None
    return bool(library("math_verify").verify(list(gold), list(read), timeout_seconds=None))


@functools.lru_cache(maxsize=4096)
def _parsed(expression: str) -> tuple[Any, ...]:
    math_verify = library("math_verify")  # imports sympy: 1 s, paid only by tasks that need it
    for logger in ("math_verify.parser", "math_verify.grader"):
        # they warn once that their time limits are off: intended
        logging.getLogger(logger).setLevel(logging.ERROR)
    return tuple(math_verify.parse(f"\\boxed{{{expression}}}", parsing_timeout=None))


def _unreadable(error: str) -> Verdict:
    return graded(
        False,
        format_ok=False,
        feedback="The final answer could not be read as a mathematical expression.",
        error=error,
    )
