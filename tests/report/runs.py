"""Run folders made up for tests: recorded steps with verdicts and token scores, as a run writes
them.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import zstandard

from sdpo_megatron.nouns import Attempt, Group, Question, Verdict, VersionSpan
from sdpo_megatron.rollout.store import FORMAT as ROLLOUTS
from sdpo_megatron.rollout.store import RolloutStore, group_to_json
from sdpo_megatron.rollout.token_scores import FORMAT, TokenScoreStore

STEPS = Path(__file__).parents[2] / "docs" / "pictures" / "quickstart.jsonl"
_LETTERS = random.Random(2)
_WORDS = (
    *("return", " max", "(", "l", ")", "\n", "    ", " if", " x", " for", " in", " values", "0"),
    # As hard to compress as what a model writes.
    *(f" {''.join(_LETTERS.choices('abcdefghij', k=5))}" for _ in range(1000)),
)


def write_run(
    folder: Path, *, steps: int = 3, questions: int = 2, attempts: int = 4, tokens: int = 20,
    scored: int = 1,
) -> Path:  # fmt: skip
    """A run of `steps` steps; of each question, the first `scored` attempts have token scores."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(STEPS, folder / "metrics.jsonl")
    (folder / "config.yaml").write_text(
        f"model:\n  path: models/tiny\ntask:\n  name: gsm8k\nrun:\n  steps: {steps}\n"
    )
    draw = random.Random(0)
    for step in range(1, steps + 1):
        groups = [
            made_up_group(f"q/{number}", step, attempts, tokens, draw)
            for number in range(questions)
        ]
        write_step(folder, step, groups, scored, draw)
    return folder


def made_up_group(name: str, step: int, attempts: int, tokens: int, draw: random.Random) -> Group:
    """The first half of the attempts failed."""
    made = []
    for index in range(attempts):
        ids = tuple(draw.randrange(len(_WORDS)) for _ in range(tokens))
        text = "".join(_WORDS[token] for token in ids)
        made.append(attempt(name, index, text, ids, version=step - 1))
    solved = [index >= attempts // 2 for index in range(attempts)]
    question = Question(
        id=name, task="t", messages=({"role": "user", "content": f"What of {name}?"},)
    )
    return Group(
        question=question,
        attempts=tuple(made),
        verdicts=tuple(verdict(success, f"wrong in step {step}") for success in solved),
    )


def attempt(
    question: str, index: int, text: str, ids: tuple[int, ...], version: int = 0
) -> Attempt:
    return Attempt(
        question_id=question,
        index=index,
        prompt_ids=(1, 2),
        response_ids=ids,
        log_probs=(-0.5,) * len(ids),
        loss_mask=(True,) * len(ids),
        versions=(VersionSpan(0, len(ids), version),),
        finish_reason="stop",
        text=text,
    )


def verdict(success: bool, feedback: str) -> Verdict:
    return Verdict(
        reward=float(success),
        success=success,
        format_ok=True,
        feedback="" if success else feedback,
        details={"outcome": "passed" if success else "wrong", "failed_test": None},
    )


def write_step(
    folder: Path, step: int, groups: Sequence[Group], scored: int, draw: random.Random
) -> None:
    """The files of a step; the texts of the scored attempts are cut into their words."""
    write_rollouts(folder, step, groups)
    lines: list[dict[str, Any]] = [
        score(a, [_WORDS[token] for token in a.response_ids], draw)
        for group in groups
        for a in group.attempts[:scored]
    ]
    write_scores(folder, step, lines)


def write_rollouts(folder: Path, step: int, groups: Sequence[Group]) -> None:
    """As a run records them (rollout/store.py)."""
    store = RolloutStore(folder / "rollouts")
    store.folder.mkdir(exist_ok=True)
    header = {"format": ROLLOUTS, "step": step, "version": {"number": step - 1, "checksum": ""}}
    lines = [header | {"groups": len(groups)}, *(group_to_json(group) for group in groups)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    store.path(step).write_bytes(zstandard.compress(text.encode()))


def score(made: Attempt, pieces: Sequence[str], draw: random.Random) -> dict[str, Any]:
    """As `token_scores.to_json` writes it."""
    student = [round(-draw.random() * 3, 4) for _ in pieces]
    teacher = [round(min(0.0, pi + draw.gauss(0, 1)), 4) for pi in student]
    return {
        "question_id": made.question_id,
        "index": made.index,
        "response_ids": made.response_ids,
        "prompt": f"<user>What of {made.question_id}?<assistant>",
        "teacher_prompt": f"<user>What of {made.question_id}? Feedback: no.<assistant>",
        "pieces": list(pieces),
        "student": student,
        "teacher": teacher,
        "alternatives": [[("better", -0.2, -2.0), ("worse", -1.8, -0.4)] for _ in pieces],
    }


def write_scores(folder: Path, step: int, lines: Sequence[dict[str, Any]]) -> None:
    store = TokenScoreStore(folder / "token_scores")
    store.folder.mkdir(exist_ok=True)
    header = {"format": FORMAT, "step": step, "attempts": len(lines)}
    text = "".join(json.dumps(line) + "\n" for line in [header, *lines])
    store.path(step).write_bytes(zstandard.compress(text.encode()))


def write_hostile_step(folder: Path, step: int, texts: Sequence[str]) -> None:
    """Each text as an attempt whose name, answer, tokens, feedback and prompts are all of it."""
    groups, lines = [], []
    draw = random.Random(1)
    for number, text in enumerate(texts):
        made = attempt(text, 0, text, (number,) * len(text))
        bad = replace(verdict(False, text), details={text: text})
        question = Question(id=text, task="t", messages=({"role": "user", "content": text},))
        groups.append(Group(question=question, attempts=(made,), verdicts=(bad,)))
        pieces = list(text) if len(text) < 1000 else [text]  # a huge token, too
        line = score(made, pieces, draw)
        hostile = [[(text, -0.2, -2.0)] for _ in pieces]
        lines.append(line | {"prompt": text, "teacher_prompt": 2 * text, "alternatives": hostile})
    write_rollouts(folder, step, groups)
    write_scores(folder, step, lines)
