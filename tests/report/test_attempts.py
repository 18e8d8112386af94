"""What a run folder says of its attempts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sdpo_megatron.nouns import Group, Question
from sdpo_megatron.report.attempts import attempts_of_step, changed, recorded_steps
from tests.report.runs import attempt, score, verdict, write_rollouts, write_run, write_scores


def test_every_attempt_is_there_and_the_scored_ones_token_by_token(tmp_path: Path) -> None:
    run = write_run(tmp_path, steps=2, questions=2, attempts=4, tokens=5)
    found = attempts_of_step(run, 2)
    assert recorded_steps(run) == [1, 2]
    assert [(a["question"], a["index"], a["success"]) for a in found] == [
        (f"q/{q}", i, i >= 2) for q in range(2) for i in range(4)
    ]
    assert ["gap" in a for a in found] == [True, False, False, False] * 2
    first, second = found[:2]
    assert first["feedback"] == "wrong in step 2"
    assert first["details"] == "outcome: wrong"
    assert first["version"] == 1
    assert len(first["pieces"]) == len(first["gap"]) == 5
    assert first["teacher_prompt"] == "<user>What of q/0? Feedback: no.<assistant>"
    assert second["pieces"] == ["".join(second["pieces"])]
    assert second["prompt"] == "[user]\nWhat of q/0?\n\n[assistant]\n"


def of_two(tmp_path: Path, alternatives: list[list[tuple[str, float, float]]]) -> dict:
    """An attempt of two tokens with log pi -1 and -2, log q -3 and -2."""
    made = attempt("q", 0, "ab", (7, 8))
    question = Question(id="q", task="t", messages=())
    group = Group(question=question, attempts=(made,), verdicts=(verdict(False, "no"),))
    write_rollouts(tmp_path, 1, [group])
    line = score(made, ["a", "b"], random.Random(0))
    line |= {"student": [-1.0, -2.0], "teacher": [-3.0, -2.0], "alternatives": alternatives}
    write_scores(tmp_path, 1, [line])
    (found,) = attempts_of_step(tmp_path, 1)
    return found


def test_scores_are_thousandths_of_a_nat(tmp_path: Path) -> None:
    found = of_two(tmp_path, [[("x", -0.1234, -1.5)], [("y", -0.01, -0.02), ("z", -4.5, -4.0)]])
    assert (found["student"], found["gap"], found["gain"]) == ([-1000, -2000], [-2000, 0], -1.0)
    assert found["alternatives"] == {
        "0": [["x", -123, -1500]],
        "1": [["y", -10, -20], ["z", -4500, -4000]],
    }


def test_a_token_of_which_both_are_sure_has_no_alternatives(tmp_path: Path) -> None:
    found = of_two(tmp_path, [[("x", -0.1, -1.5)], [("b", -0.001, -0.002)]])
    assert list(found["alternatives"]) == ["0"]


def test_a_question_that_a_batch_holds_twice(tmp_path: Path) -> None:
    """Its attempts have equal indices: the tokens say whose scores they are."""
    question = Question(id="q", task="t", messages=())
    groups = [
        Group(
            question=question,
            attempts=(attempt("q", 0, text, ids),),
            verdicts=(verdict(False, text),),
        )
        for text, ids in (("a", (1,)), ("b", (2,)))
    ]
    write_rollouts(tmp_path, 1, groups)
    line = score(groups[1].attempts[0], ["b"], random.Random(0)) | {"index": 1}
    write_scores(tmp_path, 1, [line])
    assert ["gap" in a for a in attempts_of_step(tmp_path, 1)] == [False, True]


def test_texts_without_end_are_cut_in_the_middle_and_say_so(tmp_path: Path) -> None:
    long = "a" * 80_000 + "b" * 80_000
    made = attempt("q", 0, long, (1,))
    group = Group(
        question=Question(id="q", task="t", messages=()),
        attempts=(made,), verdicts=(verdict(False, long),),
    )  # fmt: skip
    write_rollouts(tmp_path, 1, [group])
    (found,) = attempts_of_step(tmp_path, 1)
    for text in (found["feedback"], *found["pieces"]):
        assert len(text) < 100_100
        assert "60000 characters are left out" in text
        assert text[0] == "a"
        assert text[-1] == "b"


@pytest.mark.parametrize("torn", ["rollouts", "token_scores"])
def test_a_torn_file_costs_its_step_or_its_colours_alone(tmp_path: Path, torn: str) -> None:
    run = write_run(tmp_path, steps=2)
    before = changed(run, 1)
    path = next((run / torn).glob("step-000001*"))
    path.write_bytes(path.read_bytes()[:-9])
    assert changed(run, 1) != before
    found = attempts_of_step(run, 1)
    assert len(found) == (0 if torn == "rollouts" else 8)
    assert not any("gap" in attempt for attempt in found)
    assert len(attempts_of_step(run, 2)) == 8
