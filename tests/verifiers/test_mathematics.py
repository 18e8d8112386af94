"""Equal values are equal in any notation; nothing else is; nothing runs for ever."""

from __future__ import annotations

import pytest

from sdpo_megatron.verifiers.base import BadItem
from sdpo_megatron.verifiers.mathematics import Mathematics, final_answer, plain_number

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
        ("\\boxed{\\frac{1}{2}} and \\boxed{", "\\frac{1}{2}"),
        ("<answer> 5 </answer>", "5"),
        ("<answer>\\boxed{5}</answer>", "5"),
        ("so\n#### 18\n", "18"),
        ("It makes 3 + 15 = 18 dollars.", "18"),
        ("about 1,234.5 of them", "1,234.5"),
        ("\\boxed{7} but 8 was near", "7"),
        ("", None),
        ("no idea", None),
        ("\\boxed{}", None),
    ],
)
def test_the_marked_answer_wins_then_the_last_number(response: str, answer: str | None) -> None:
    assert final_answer(response) == answer


def test_plain_numbers_are_exact() -> None:
    assert plain_number("0.1") * 3 == plain_number("0.3")  # type: ignore[operator]
    assert plain_number("1,234,567") == 1234567
    assert plain_number("$3/4") == plain_number("0.75")
    for text in ("1,23", "1/0", "x", "", "1e5", "--1"):
        assert plain_number(text) is None


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
