"""The numbers of an evaluation by task and difficulty, and of one against an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from sdpo_megatron.discovery.curves import pass_at_k
from sdpo_megatron.evaluation.estimates import (
    Estimate,
    bootstrapped,
    powers_of_two,
    proportion,
)
from sdpo_megatron.evaluation.records import JudgedAttempt, JudgedQuestion

__all__ = ["Change", "Part", "Summary", "changes", "summaries"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Of the questions of a task, or of one difficulty of it ("" for all).

    Attributes:
        avg: avg@n, the mean success of n attempts.
        passed: pass@k by k: at least one of k attempts succeeds, without bias. A question with
            fewer than k judged attempts counts for smaller k only.
        format_ok: Share of attempts from which an answer could be read.
        truncated: Share cut at the length limit.
        tokens: Mean length of an attempt.
    """

    task: str
    difficulty: str
    questions: int
    attempts: int
    dropped: int
    avg: Estimate
    passed: dict[int, Estimate]
    format_ok: Estimate
    truncated: Estimate
    tokens: Estimate


def summaries(questions: Sequence[JudgedQuestion]) -> list[Summary]:
    """Of each task, and of each of its difficulties where it has several."""
    found = []
    for task in dict.fromkeys(question.task for question in questions):
        own = [question for question in questions if question.task == task]
        found.append(_summary(task, "", own))
        levels = sorted({question.difficulty for question in own})
        if len(levels) > 1:
            found += [
                _summary(task, level or "not told", [q for q in own if q.difficulty == level])
                for level in levels
            ]
    return found


def _summary(task: str, difficulty: str, questions: Sequence[JudgedQuestion]) -> Summary:
    judged = [question for question in questions if question.attempts]
    most = max((len(question.attempts) for question in judged), default=0)
    return Summary(
        task=task,
        difficulty=difficulty,
        questions=len(judged),
        attempts=sum(len(question.attempts) for question in judged),
        dropped=sum(question.dropped for question in questions),
        avg=proportion(_means(judged, _success)),
        passed={k: _passed(judged, k) for k in powers_of_two(most)},
        format_ok=proportion(_means(judged, lambda attempt: attempt.format_ok)),
        truncated=proportion(_means(judged, lambda attempt: attempt.finish == "length")),
        tokens=bootstrapped(_means(judged, lambda attempt: attempt.tokens)),
    )


def _passed(questions: Sequence[JudgedQuestion], k: int) -> Estimate:
    counts = [(len(q.attempts), sum(map(_success, q.attempts))) for q in questions]
    return proportion([pass_at_k(n, right, k) for n, right in counts if n >= k])


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measure before and after, over the questions that both have; the difference is paired.

    `is_share` tells a share in [0, 1] from a number.
    """

    name: str
    before: float
    after: float
    difference: Estimate
    is_share: bool


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of a task.

    Attributes:
        questions: That both evaluations have judged.
        unlike: That only one of them has.
        lost: Questions that some attempt solved before, and none after.
        gained: The other way round.
    """

    task: str
    questions: int
    unlike: int
    parts: tuple[Part, ...]
    lost: tuple[str, ...]
    gained: tuple[str, ...]


_MEASURES: tuple[tuple[str, Callable[[JudgedAttempt], float], bool], ...] = (
    ("avg@n", lambda attempt: attempt.success, True),
    ("format", lambda attempt: attempt.format_ok, True),
    ("truncated", lambda attempt: attempt.finish == "length", True),
    ("tokens", lambda attempt: attempt.tokens, False),
)


def changes(before: Sequence[JudgedQuestion], after: Sequence[JudgedQuestion]) -> list[Change]:
    """Task by task of those that both have."""
    found = []
    old = {(q.task, q.question): q for q in before if q.attempts}
    new = {(q.task, q.question): q for q in after if q.attempts}
    both = [key for key in new if key in old]
    for task in dict.fromkeys(task for task, _ in both):
        keys = [key for key in both if key[0] == task]
        pairs = [(old[key], new[key]) for key in keys]
        num = len({key for key in (*old, *new) if key[0] == task})
        found.append(
            Change(
                task=task,
                questions=len(keys),
                unlike=num - len(keys),
                parts=tuple(_parts(pairs)),
                lost=tuple(b.question for b, a in pairs if _solved(b) and not _solved(a)),
                gained=tuple(b.question for b, a in pairs if _solved(a) and not _solved(b)),
            )
        )
    return found


def _parts(pairs: Sequence[tuple[JudgedQuestion, JudgedQuestion]]) -> Iterator[Part]:
    for name, measure, is_share in _MEASURES:
        before = _means([b for b, _ in pairs], measure)
        after = _means([a for _, a in pairs], measure)
        yield Part(
            name=name,
            before=fmean(before),
            after=fmean(after),
            difference=bootstrapped([a - b for b, a in zip(before, after, strict=True)]),
            is_share=is_share,
        )


def _means(
    questions: Sequence[JudgedQuestion], measure: Callable[[JudgedAttempt], float]
) -> list[float]:
    return [fmean(map(measure, question.attempts)) for question in questions]


def _success(attempt: JudgedAttempt) -> bool:
    return attempt.success


def _solved(question: JudgedQuestion) -> bool:
    return any(map(_success, question.attempts))
