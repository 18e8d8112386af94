"""The folder of an evaluation, its numbers by task and difficulty, and before against after."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.evaluation.records import Evaluation, JudgedQuestion
from sdpo_megatron.evaluation.summary import changes, summaries
from sdpo_megatron.evaluation.tables import changes_table, summary_table
from sdpo_megatron.loops.evaluate.command import write_tables
from tests.evaluation.test_estimates import question
from tests.report.runs import made_up_group

ASKED = {"model": "m", "tasks": [{"name": "t"}], "sampling": {"num_attempts": 4}}


def test_what_is_judged_is_there_when_the_command_goes_on(tmp_path: Path) -> None:
    import random

    group = made_up_group("q/1", 1, 4, 5, random.Random(0))
    evaluation = Evaluation(tmp_path / "e")
    evaluation.begin(ASKED)
    judged = JudgedQuestion.of("t", group, "hard")
    assert [a.success for a in judged.attempts] == [v.success for v in group.verdicts]
    assert [a.text for a in judged.attempts] == [a.text for a in group.attempts]
    evaluation.append([judged])
    with (tmp_path / "e" / "attempts.jsonl").open("a") as file:
        file.write('{"task": "t", "question": "torn')
    again = Evaluation(tmp_path / "e")
    assert again.questions() == [judged]
    again.begin(ASKED)
    again.append([replace(judged, question="q/2")])
    assert [q.question for q in again.questions()] == ["q/1", "q/2"]


def test_another_question_is_refused_and_named(tmp_path: Path) -> None:
    Evaluation(tmp_path).begin(ASKED)
    with pytest.raises(ConfigError, match=r"'num_attempts': 4.*: 8.*another --output"):
        Evaluation(tmp_path).begin(ASKED | {"sampling": {"num_attempts": 8}})
    with pytest.raises(ConfigError, match="is no evaluation"):
        Evaluation(tmp_path / "nowhere").asked()


def test_by_task_and_difficulty() -> None:
    easy = [replace(question(f"e{i}", [True, True]), difficulty="easy") for i in range(2)]
    hard = [replace(question(f"h{i}", [False, i == 0]), difficulty="hard") for i in range(2)]
    other = replace(question("o", [True]), task="other")
    lost = replace(question("x", []), difficulty="hard", dropped=2)
    found = summaries([*easy, *hard, other, lost])
    assert [(s.task, s.difficulty, s.questions, s.attempts, s.dropped) for s in found] == [
        ("t", "", 4, 8, 2),
        ("t", "easy", 2, 4, 0),
        ("t", "hard", 2, 4, 2),
        ("other", "", 1, 1, 0),
    ]
    assert [s.avg.value for s in found] == [0.625, 1.0, 0.25, 1.0]
    assert [s.passed[1].value for s in found] == [0.625, 1.0, 0.25, 1.0]
    assert found[2].passed[2].value == 0.5
    text = summary_table(found)
    assert len({len(line) for line in text.splitlines()}) == 1  # aligned
    assert "| t / hard" in text
    assert "| 1.000 " in text.splitlines()[-1]  # of one question, no interval


def test_before_against_after_is_paired_by_question() -> None:
    before = [question(f"q{i}", [i < 6, i < 4], tokens=10 * i) for i in range(10)]
    after = [question(f"q{i}", [i < 8, 2 <= i < 4], tokens=10 * i + 5) for i in range(12)]
    (change,) = changes(before, after)
    assert (change.questions, change.unlike) == (10, 2)
    assert change.gained == ("q6", "q7")
    assert change.lost == ()
    parts = {part.name: part for part in change.parts}
    assert (parts["avg@n"].before, parts["avg@n"].after) == (0.5, 0.5)
    assert parts["avg@n"].difference.value == 0.0
    tokens = parts["tokens"].difference
    assert (tokens.value, tokens.low, tokens.high) == (5.0, 5.0, 5.0)  # unpaired, it were +-30
    text = changes_table([change])
    assert "| tokens    | 45.0   | 50.0  | +5.0 [+5.0, +5.0]" in text
    assert "solved now and not before: 2 (q6, q7)" in text
    assert "no clear change" in text
    assert "no question in common" in changes_table(changes(before, []))


def test_what_was_forgotten_is_named() -> None:
    before = [question(f"q{i}", [True] * 4) for i in range(20)]
    after = [question(f"q{i}", [i < 5] * 4) for i in range(20)]
    (change,) = changes(before, after)
    assert change.lost == tuple(f"q{i}" for i in range(5, 20))
    text = changes_table([change])
    assert "15 (q5, q6, q7, q8, q9, q10, q11, q12 and 7 more)" in text
    assert "less" in text.splitlines()[2]


def test_tables_are_written_as_text_and_as_json(tmp_path: Path) -> None:
    before, after = Evaluation(tmp_path / "a"), Evaluation(tmp_path / "b")
    for evaluation, solved in ((before, False), (after, True)):
        evaluation.begin(ASKED)
        evaluation.append([question("q", [solved, True])])
    text = write_tables(after, before)
    assert (tmp_path / "b" / "results.md").read_text() == text
    assert f"Against {tmp_path / 'a'}" in text
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    (task,) = results["tasks"]
    assert (task["avg"]["value"], task["avg"]["low"]) == (1.0, None)
    assert task["passed"]["2"]["value"] == 1.0
    assert results["changes"][0]["parts"][0]["difference"]["value"] == 0.5
    assert not any(isinstance(v, float) and math.isnan(v) for v in task["avg"].values())
