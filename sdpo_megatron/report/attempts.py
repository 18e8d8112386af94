"""The attempts of a step as the reader shows them: recorded rollouts, with token scores where some
were kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.nouns import Attempt, Group, Message, Verdict
from sdpo_megatron.rollout.store import RolloutStore
from sdpo_megatron.rollout.token_scores import TokenScoreStore

__all__ = ["attempts_of_step", "changed", "recorded_steps"]

_MOST_CHARS = 100_000  # of a text; a model, or a program that it wrote, can say anything at length
_MOST_OF_TOKEN = 2000
_MOST_OF_ALTERNATIVE = 200
_MILLI = 1000  # scores are whole thousandths of a nat: shorter to write, and more than one can see
_SURE = (-20, 20)  # log q of a lone alternative, and the gap, within which it tells nothing


def recorded_steps(run: Path) -> list[int]:
    """Steps whose rollouts are recorded, in order."""
    return RolloutStore(run / "rollouts").steps()


def changed(run: Path, step: int) -> tuple[object, ...]:
    """Differs when the files of a step do: a resumed run writes steps anew."""
    stores = RolloutStore(run / "rollouts"), TokenScoreStore(run / "token_scores")
    paths = [store.path(step) for store in stores]
    stats = [path.stat() if path.exists() else None for path in paths]
    return tuple(stat and (stat.st_mtime_ns, stat.st_size) for stat in stats)


def attempts_of_step(run: Path, step: int) -> list[dict[str, Any]]:
    """Plain data of every attempt, in order; [] where the step's file is missing or torn.

    Of each: `question`, `index`, `success`, `reward`, `tokens`, `finish`, `version`, `format_ok`,
    `prompt`, `feedback`, `reveals`, `details`, and `pieces` (texts, joined the response). Scored
    ones also have `gap` and `student` (log q - log pi and log pi, thousandths of a nat),
    `alternatives` ({position: [[text, log q, log pi], ...]}), `teacher_prompt` and `gain`, the mean
    gap in nats.
    """
    try:
        groups = RolloutStore(run / "rollouts").read(step).groups
    except CheckpointError:
        return []
    scores = TokenScoreStore(run / "token_scores").read(step)
    return list(_rows(groups, scores))


def _rows(groups: Sequence[Group], scores: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    unclaimed = list(scores)
    for group in groups:
        prompt = _conversation(group.question.messages, group.question.prefill)
        for attempt, verdict in zip(group.attempts, group.verdicts, strict=True):
            row = _row(prompt, attempt, verdict)
            score = next((s for s in unclaimed if _is_of(s, attempt)), None)
            if score is not None:
                unclaimed.remove(score)
                row |= _scored(score)
            yield row


def _is_of(score: Mapping[str, Any], attempt: Attempt) -> bool:
    """A question that a batch holds twice has attempts of equal index, so the tokens decide."""
    same = score["question_id"] == attempt.question_id
    return same and tuple(score["response_ids"]) == attempt.response_ids


def _row(prompt: str, attempt: Attempt, verdict: Verdict) -> dict[str, Any]:
    return {
        "question": attempt.question_id,
        "index": attempt.index,
        "success": verdict.success,
        "reward": round(verdict.reward, 4),
        "tokens": len(attempt.response_ids),
        "finish": attempt.finish_reason,
        "version": attempt.versions[-1].version if attempt.versions else None,
        "format_ok": verdict.format_ok,
        "prompt": _short(prompt),
        "feedback": _short(verdict.feedback),
        "reveals": verdict.reveals_answer,
        "details": _short(", ".join(_details(verdict))),
        "pieces": [_short(attempt.text)],
    }


def _details(verdict: Verdict) -> list[str]:
    """What is null or false says nothing; names are written as words."""
    facts = verdict.details.items()
    told = [(key.replace("_", " "), value) for key, value in facts if value not in (None, False)]
    return [key if value is True else f"{key}: {value}" for key, value in told]


def _scored(score: Mapping[str, Any]) -> dict[str, Any]:
    student = [round(value * _MILLI) for value in score["student"]]
    teacher = [round(value * _MILLI) for value in score["teacher"]]
    gap = [q - pi for q, pi in zip(teacher, student, strict=True)]
    return {
        "pieces": [_short(piece, _MOST_OF_TOKEN) for piece in score["pieces"]],
        "student": student,
        "gap": gap,
        "gain": round(sum(gap) / len(gap) / _MILLI, 3) if gap else None,
        "alternatives": {
            str(position): [
                [_short(text, _MOST_OF_ALTERNATIVE), round(q * _MILLI), round(pi * _MILLI)]
                for text, q, pi in others
            ]
            for position, others in enumerate(score["alternatives"])
            if not _tells_nothing(others, gap[position])
        },
        "prompt": _short(score["prompt"]),
        "teacher_prompt": _short(score["teacher_prompt"]),
    }


def _tells_nothing(others: Sequence[Sequence[Any]], gap: int) -> bool:
    """Both are sure of one token."""
    return len(others) < 2 and gap > _SURE[0] and gap < _SURE[1]


def _conversation(messages: Sequence[Message], prefill: str) -> str:
    """For an attempt that was not scored; of one that was, the very prompt is known."""
    turns = [f"[{message['role']}]\n{message['content']}" for message in messages]
    return "\n\n".join([*turns, f"[assistant]\n{prefill}"])


def _short(text: str, most: int = _MOST_CHARS) -> str:
    if len(text) <= most:
        return text
    half, left_out = most // 2, len(text) - most
    return f"{text[:half]}\n[... {left_out} characters are left out here ...]\n{text[-half:]}"
