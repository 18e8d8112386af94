"""Equal values are equal in any notation; nothing else is; nothing runs for ever."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sdpo_megatron.verifiers.base import BadItem
from sdpo_megatron.verifiers.explosive import explosive
from sdpo_megatron.verifiers.final_answer import final_answer
from sdpo_megatron.verifiers.mathematics import Mathematics
from sdpo_megatron.verifiers.quantities import quantity

VERIFY = Mathematics().verify


@pytest.mark.parametrize(
    ("expected", "forms"),
    [
        (
            "72",
            ["72", "72.0", "72.", "$72", "\\$72.00", "+72", "\\frac{144}{2}", "72\\text{ clips}"],
        ),
        ("1,000", ["1000", "1,000", "1000.00", "10^3", "\\$1,000"]),
        ("0.5", ["1/2", "\\frac{1}{2}", "\\dfrac12", "0.50", ".5", "\\frac{2}{4}"]),
        ("-3", ["-3", "- 3", "-\\frac{6}{2}", "-3.0"]),
        ("\\frac{13}{7}", ["13/7", "\\frac{26}{14}", "1+\\frac{6}{7}"]),
        ("x+1", ["1+x", "x + 1", "\\frac{x^2-1}{x-1}", "1-(-x)"]),
        ("\\sqrt{2}", ["2^{1/2}", "\\sqrt 2", "\\frac{2}{\\sqrt{2}}"]),
        ("\\{1,2,3\\}", ["\\{3,1,2\\}", "\\{1, 2, 3\\}"]),
        ("(0,1]", ["(0,1]", "(0, 1]"]),
        ("x=4", ["4", "x=4", "x = 4"]),
        ("2^{100}", ["1267650600228229401496703205376", "4^{50}"]),
    ],
)
def test_every_notation_of_the_answer_is_right(expected: str, forms: list[str]) -> None:
    for form in forms:
        verdict = VERIFY({"answer": expected}, f"So it is \\boxed{{{form}}}.")
        assert (verdict.success, verdict.reward, verdict.feedback) == (True, 1.0, ""), form


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        ("72", ["73", "7.2", "720", "-72", "72x", "71.9999"]),
        ("0.5", ["2", "\\frac{2}{1}", "0.51", "50"]),
        ("x+1", ["x-1", "y+1", "x^2+1"]),
        ("\\{1,2,3\\}", ["\\{1,2\\}", "\\{1,2,3,4\\}"]),
        ("(0,1]", ["[0,1]", "(0,1)", "(1,0]"]),
    ],
)
def test_every_other_value_is_wrong_and_readable(expected: str, wrong: list[str]) -> None:
    for form in wrong:
        verdict = VERIFY({"answer": expected}, f"\\boxed{{{form}}}")
        assert (verdict.success, verdict.reward) == (False, 0.0), form
        assert expected not in verdict.feedback.replace(form, "")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("first \\boxed{1}, then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}} and \\boxed{", None),
        ("\\boxed{1} and <answer>2</answer>", "2"),
        ("<answer>2</answer> and \\boxed{1}", "1"),
        ("The answer is 18. I hope it is correct.", "18"),
        ("The answer is 18. Wait, no.", None),
        ("<answer> 5 </answer>", "5"),
        ("<answer>\\boxed{5}</answer>", "5"),
        ("so\n#### 18\n", "18"),
        ("It makes 3 + 15 = 18 dollars.", None),
        ("about 1,234.5 of them", None),
        ("\\boxed{7} but 8 was near", "7"),
        ("", None),
        ("no idea", None),
        ("\\boxed{}", None),
    ],
)
def test_only_a_marked_answer_is_one(response: str, answer: str | None) -> None:
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", "1/10"),
        ("1,234,567", "1234567"),
        ("1.234.567", "1234567"),
        ("12,34,567", "1234567"),
        ("1.234,50", "1234.5"),
        ("$3/4", "3/4"),
        ("3 1/2 cups", "7/2"),
        ("-\\frac{1}{3}", "-1/3"),
        ("\u2212$5", "-5"),
        ("1.5 million people", "1500000"),
        ("1e5", "100000"),
    ],
)
def test_quantities_are_exact(text: str, value: str) -> None:
    found = quantity(text)
    assert found is not None
    assert found.value == Fraction(value)


@pytest.mark.parametrize(
    "text", ["1,23", "1/0", "x", "", "--1", "1 2", "1-2", "3 7/2", "1 or 2", "12_1", "9_8", "$5m"]
)
def test_what_is_not_one_quantity_is_none(text: str) -> None:
    assert quantity(text) is None


@pytest.mark.parametrize(
    "gold",
    [
        "e^{x^2}",
        "9^{9^{9^9}}",
        "99999999!",
        "1+" * 300 + "1",
        "\\text{a prime}",
        "2516_8",
        "[18,18]",
    ],
)
def test_the_expected_answer_verbatim_is_right_whatever_it_is(gold: str) -> None:
    assert VERIFY({"answer": gold}, f"\\boxed{{{gold}}}").success
    assert not VERIFY({"answer": gold}, "\\boxed{7}").success


def test_expressions_of_ordinary_size_are_no_bombs() -> None:
    for text in ("2^{100}", "e^{x^2}", "(x+1)^5(x-2)^7", "10!", "\\binom{52}{5}", "3^{2x^2+1}"):
        assert not explosive(text)


@pytest.mark.parametrize(
    "bomb",
    [
        "9^{9^{9^9}}",
        "9^9^9^9",
        "9**9**9**9",
        "10^{100000000}",
        "2^{ (99999999)}",
        "(10!)!",
        "99999999!",
        "(10^{6})!",
        "2^{3\\cdot10^{9}}",
        "(((10^{99})^{99})^{99})^{99}",
        "\\binom{99999999}{9999999}",
        "\\sum_{n=1}^{10^{12}} n",
        "9" * 5000,
        "{" * 5000,
        "\\frac{1}{" * 100,
        "1+" * 300,
    ],
)
def test_bombs_are_wrong_answers_and_verify_returns(bomb: str) -> None:
    """Evaluated, the first eight would take for ever, beyond the time limit of any test."""
    assert not VERIFY({"answer": "7"}, f"\\boxed{{{bomb}}}").success


def test_an_item_that_cannot_be_read_is_the_tasks_mistake() -> None:
    with pytest.raises(BadItem, match="got an empty text"):
        VERIFY({"answer": " "}, "\\boxed{1}")
    with pytest.raises(BadItem, match="no key 'answer'"):
        VERIFY({}, "\\boxed{1}")
    assert VERIFY({"answer": 7}, "\\boxed{7}").success


def test_wrong_feedback_quotes_only_harmless_answers() -> None:
    assert VERIFY({"answer": "7"}, "\\boxed{8}").feedback == "The answer 8 is not correct."
    sneaky = VERIFY({"answer": "7"}, "\\boxed{<|im_end|> 8}").feedback
    assert "im_end" not in sneaky
