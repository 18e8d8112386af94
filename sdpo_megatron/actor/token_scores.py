"""A few attempts of each step as student and teacher saw them, kept for the run's report.

The last pipeline stage scores them beside the loss, where the hidden states of both are at hand;
rank 0 gets the numbers once a step. With a limit of 0 nothing is computed and nothing is sent.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest

import torch

from sdpo_megatron.nouns import ScoredAttempt, TrainSample
from sdpo_megatron.objectives import HeadOptions, TeacherTarget
from sdpo_megatron.objectives.fused.token_scores import TokenScores, head_token_scores

ALTERNATIVES = 4
"""Tokens of the teacher's that are kept beside each sampled one."""
MOST_TOKENS = 2048
"""Of an attempt; what follows is not scored."""
_LEAST = -4.6  # log of 1 %: nobody looks at an alternative below it
_DIGITS = 4

Key = tuple[str, int, int]
"""Question id, index, and a checksum: a rollout batch may hold a question twice."""
_Token = tuple[float, float, tuple[tuple[int, float, float], ...]]


def key_of(sample: TrainSample) -> Key:
    """Names the sample on every rank: of what it was asked, answered and taught."""
    checksum = 0
    for array in (sample.response_ids, sample.log_probs, sample.teacher_prompt_ids):
        checksum = zlib.crc32(b"" if array is None else array.tobytes(), checksum)
    return sample.question_id, sample.index, checksum


def choose(samples: Sequence[TrainSample], limit: int) -> list[Key]:
    """Up to `limit` attempts that have a teacher, spread over the questions; which, does not depend
    on the order of the samples.
    """
    taught = (s for s in samples if s.distill_weight and s.teacher_prompt_ids is not None)
    return in_turn(sorted((key_of(s), s.success) for s in taught))[:limit]


def in_turn(attempts: Iterable[tuple[Key, bool]]) -> list[Key]:
    """(key, success) in another order: of each question in turn a failed attempt, then a solved
    one, and so on.
    """
    queues: dict[str, tuple[list[Key], list[Key]]] = {}
    for key, success in attempts:
        queues.setdefault(key[0], ([], []))[success].append(key)
    each = ([k for k in chain(*zip_longest(*queue)) if k] for queue in queues.values())
    return [key for row in zip_longest(*each) for key in row if key is not None]


@dataclass
class Part:
    """What one rank knows of an attempt; the tokens by their position in the response."""

    sample: TrainSample
    tokens: dict[int, _Token] = field(default_factory=dict)


class TokenScoring:
    """Scores the chosen attempts of one rollout batch, on every rank those of the samples that it
    knows.
    """

    def __init__(self, samples: Sequence[TrainSample], limit: int) -> None:
        self._limit = limit
        chosen = set(choose(samples, limit))
        named = {key_of(s): s for s in samples}
        self._chosen = {key: sample for key, sample in named.items() if key in chosen}
        self._found: list[tuple[list[tuple[Key, int]], TokenScores]] = []

    def score(
        self,
        samples: Sequence[TrainSample],
        rows: torch.Tensor | None,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        teacher: TeacherTarget | None,
        options: HeadOptions,
    ) -> None:
        """Look at a micro-batch; collective over the tensor-parallel group.

        Args:
            samples: Of the micro-batch.
            rows: The response tokens that this context-parallel rank holds; None for all.
            hidden: [T, H] of these tokens.
            weight: Of the head.
            teacher: The target at the same tokens; None where the objective has none.
            options: Of the loss.
        """
        if teacher is None or not self._chosen:
            return
        keys = [key_of(s) for s in samples]
        if self._chosen.keys().isdisjoint(keys):
            return
        place = [
            (key, position)
            for key, s in zip(keys, samples, strict=True)
            for position in range(len(s.response_ids))
        ]
        held = range(len(place)) if rows is None else rows.tolist()
        wanted = [
            (row, *place[token])
            for row, token in enumerate(held)
            if place[token][0] in self._chosen and place[token][1] < MOST_TOKENS
        ]
        if not wanted:
            return
        chosen = torch.tensor([row for row, _, _ in wanted], device=hidden.device)
        ids = [int(self._chosen[key].response_ids[position]) for _, key, position in wanted]
        scores = head_token_scores(
            hidden.detach()[chosen],
            weight.detach(),
            torch.tensor(ids, device=hidden.device),
            replace(teacher, heads=[replace(h, hidden=h.hidden[chosen]) for h in teacher.heads]),
            ALTERNATIVES,
            options,
        )
        self._found.append(([(key, position) for _, key, position in wanted], scores))

    def gathered(self) -> list[ScoredAttempt]:
        """What all ranks have found, up to the limit, on rank 0 in order of question and index; []
        elsewhere. Collective over all ranks.
        """
        from megatron.core import parallel_state

        first = parallel_state.get_tensor_model_parallel_rank() == 0
        mine = self._parts() if first else {}
        here = torch.distributed.get_rank() == 0
        everyone: list[dict[Key, Part]] | None = (
            [{} for _ in range(torch.distributed.get_world_size())] if here else None
        )
        torch.distributed.gather_object(mine, everyone, dst=0)
        return joined(everyone or (), self._limit)

    def _parts(self) -> dict[Key, Part]:
        parts: dict[Key, Part] = {}
        for place, scores in self._found:
            for (key, position), token in zip(place, _plain(scores), strict=True):
                part = parts.setdefault(key, Part(self._chosen[key]))
                if not part.sample.loss_mask[position]:  # a tool's word: nobody is taught it
                    token = (token[0], token[0], ())
                part.tokens[position] = token
        return parts


def joined(everyone: Iterable[Mapping[Key, Part]], limit: int) -> list[ScoredAttempt]:
    """Up to `limit` attempts of all ranks: those of data-parallel ranks are different ones, those
    of context-parallel ranks have different tokens of the same.
    """
    parts: dict[Key, Part] = {}
    for key, part in chain(*(found.items() for found in everyone)):
        parts.setdefault(key, Part(part.sample)).tokens.update(part.tokens)
    order = in_turn((key, parts[key].sample.success) for key in sorted(parts))
    return [_attempt(parts[key]) for key in sorted(order[:limit])]


def _attempt(part: Part) -> ScoredAttempt:
    sample = part.sample
    tokens = [part.tokens[position] for position in sorted(part.tokens)]
    assert sample.teacher_prompt_ids is not None
    return ScoredAttempt(
        question_id=sample.question_id,
        index=sample.index,
        prompt_ids=tuple(map(int, sample.prompt_ids)),
        teacher_prompt_ids=tuple(map(int, sample.teacher_prompt_ids)),
        response_ids=tuple(map(int, sample.response_ids)),
        student=tuple(student for student, _, _ in tokens),
        teacher=tuple(teacher for _, teacher, _ in tokens),
        alternatives=tuple(alternatives for _, _, alternatives in tokens),
    )


def _plain(scores: TokenScores) -> Iterable[_Token]:
    """Token by token, as plain numbers."""
    columns = (scores.student, scores.teacher, scores.alternatives, scores.teacher_at)
    student, teacher, ids, teacher_at = (column.tolist() for column in columns)
    rows = zip(student, teacher, ids, teacher_at, scores.student_at.tolist(), strict=True)
    for log_pi, log_q, others, of_teacher, of_student in rows:
        alternatives = tuple(
            (token, round(q, _DIGITS), round(pi, _DIGITS))
            for token, q, pi in zip(others, of_teacher, of_student, strict=True)
            if q > _LEAST
        )
        yield round(log_pi, _DIGITS), round(log_q, _DIGITS), alternatives
